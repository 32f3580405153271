"""`lab runs` and `lab compare`: many records in a table, two side by side by cause."""

import json
import operator
import os
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from .cards import read_json
from .project import LabError
from .records import Record, find
from .submit import show_jobs

OPERATORS = {"=": operator.eq, "!=": operator.ne, ">=": operator.ge, "<=": operator.le,
             ">": operator.gt, "<": operator.lt}  # fmt: skip
HIDDEN = {"verified", "path", "seconds", "epoch", "best_epoch", "weights_sha256", "train_loss",
          "best_weights_sha256", "train_accuracy", "validation_loss", "gradient_norm"}  # fmt: skip
NO_METRIC = {"seed", "seconds", "epoch", "best_epoch"}  # of these no mean is taken
SHOWN = {"run", "state", "verdict", "dataset", "model", "epochs", "seed", "seeds"}
BADGES = {"identical": "✓ identical", "within tolerance": "≈ within", "different": "✗ different"}


def row_of(folder: str, metrics: bool = False) -> dict[str, Any]:
    """Read what a table shows of the run in `folder`: three small files, four with `metrics`.

    It has `run`, `state`, `verdict`, `verified`, `path`, then every field of config and result, and
    with `metrics` those of the last epoch.
    """
    config, result = read_json(f"{folder}/config.json"), read_json(f"{folder}/result.json")
    finished = bool(config and result)
    state = "finished" if finished else Record(Path(folder)).state
    last = {} if finished and not metrics else (Record(Path(folder)).metrics or [{}])[-1]
    said = Record(Path(folder)).verification if finished else {}
    fixed = {"run": os.path.basename(folder), "state": state, "path": folder}  # noqa: PTH119
    fixed |= {"verdict": said.get("verdict"), "verified": said.get("when", "")}
    return {**fixed, **last, **result, **config, **fixed}  # a field may be called `state`


def table_rows(root: Path, metrics: bool = False) -> list[dict[str, Any]]:
    """Read all runs of `root`, oldest first, each as `row_of` does, with `metrics` or without.

    A verdict on a run's card in `reports/` counts as one on the run; the newer one is taken. What
    is no record is named and skipped.
    """
    rows, runs_dir = [], root / "runs"
    cards = [Record(path.parent) for path in (root / "reports").glob("**/run/verification.json")]
    verdicts = {card.id: card.verification for card in cards}
    entries = list(os.scandir(runs_dir)) if runs_dir.is_dir() else []
    for folder in sorted(one.path for one in entries if one.is_dir() and one.name[0] != "."):
        row = row_of(folder, metrics)
        if row["state"] == "damaged" and not Path(folder, "config.json").exists():
            print(f"skipped {folder}: it is no record", file=sys.stderr)
        else:
            said = verdicts.get(row["run"], {})
            if said.get("when", "") > row["verified"]:
                row |= {"verdict": said.get("verdict"), "verified": said["when"]}
            rows.append(row)
    return rows


def _condition(text: str):
    """Return the field that `test_accuracy>=0.99` names, and the test of a row that it asks."""
    parts = re.fullmatch(r"\s*(\w+)\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*", text)
    if parts is None:
        raise LabError(f"--where {text!r} is not understood; for example model=simple_cnn, seed<5")
    field, sign, wanted = parts.groups()

    def holds(row: dict[str, Any]) -> bool:
        value, other = row.get(field), wanted
        if isinstance(value, bool | list | dict):
            value, other = str(value).lower(), wanted.lower()
        elif isinstance(value, int | float):
            try:
                other = float(wanted)
            except ValueError:
                if wanted.lower() in ("", "none"):
                    return sign == "!="
                raise LabError(f"--where {text!r}: {field} needs a number") from None
        elif value is None:
            return sign == ("=" if wanted.lower() in ("", "none") else "!=")
        return OPERATORS[sign](value, other)

    return field, holds


def _shown(value: Any) -> str:
    """Write a value in few characters."""
    if isinstance(value, str) and len(value) == 64 and value.isalnum():  # a hash
        return f"{value[:16]}…"
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return text if text.isprintable() else ascii(text)  # a stranger's may move the cursor


def versions_of(folder: str) -> dict[str, str]:
    """Return which `code` and which `data` the run in `folder` has, in eight letters each."""
    kept = {"code": ("code.json", "sources"), "data": ("data.json", "fingerprint")}
    read = {name: read_json(f"{folder}/{file}").get(key) for name, (file, key) in kept.items()}
    return {name: str(value or "")[:8] for name, value in read.items()}


def grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Group the finished `rows` that differ only in the seed; of each seed the newest counts.

    A group has the config without its seed, `code`, `data`, `seeds`, each metric's mean and `_sd`.
    """
    groups: dict[str, tuple[dict[str, Any], dict[Any, dict[str, Any]]]] = {}
    for row in rows:
        if row["state"] == "finished":
            config = read_json(f"{row['path']}/config.json")
            seed = config.pop("seed", None)
            config |= versions_of(row["path"])
            # 0 and 0.0 are one value
            key = sorted((k, float(v) if type(v) is int else v) for k, v in config.items())
            groups.setdefault(repr(key), (config, {}))[1][seed] = row
    folded = []
    for config, members in groups.values():
        group = {**config, "seeds": len(members)}
        names = {name for row in members.values() for name in row if not name.endswith("_sd")}
        for name in sorted(names - config.keys() - NO_METRIC):
            values = [row.get(name) for row in members.values()]
            if all(isinstance(value, int | float) for value in values):  # one may have diverged
                group[name] = statistics.fmean(values)
                group[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        folded.append(group)
    return folded


def runs(root: Path, as_json: bool, where: list[str], sort: str | None, group: bool) -> int:
    """List the runs of the project at `root`: a table, or `as_json` every field.

    All conditions in `where` must hold, such as `model=resnet18`; `sort` is a field, reversed by
    `-` before it; `group` folds seeds together. LabError if there is no such field, or a
    condition cannot be read.
    """
    conditions = [_condition(text) for text in where]
    asked = {field for field, _ in conditions} | {(sort or "").lstrip("-")}
    rows = table_rows(root)
    if as_json or any(asked - {""} - row.keys() for row in rows if row["state"] == "finished"):
        rows = table_rows(root, metrics=True)
    show_jobs(root, rows)
    if not rows and not as_json:
        print("no runs yet; python train.py makes one")
        return 0
    known = {name for row in rows for name in row}
    for field in asked - known - {""}:
        raise LabError(f"no run has a field {field!r}; there are {', '.join(sorted(known))}")
    rows = [row for row in rows if all(holds(row) for _, holds in conditions)]
    if group:
        rows = grouped(rows)
    if sort:
        name = sort.lstrip("-")
        have = [row for row in rows if row.get(name) is not None]
        numbers = all(isinstance(row[name], int | float) for row in have)
        have.sort(key=lambda row: row[name] if numbers else str(row[name]), reverse=sort[0] == "-")
        rows = have + [row for row in rows if row.get(name) is None]
    if as_json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        if "verdict" in row:
            row["verdict"] = BADGES.get(row["verdict"], row["verdict"])
        # after the seeds: a value of the config may be called so, too
        for name in [*row][[*row].index("seeds") :] if group else ():
            if name.endswith("_sd") and (spread := row.pop(name)) is not None:
                row[name[:-3]] = f"{row[name[:-3]]:.4g} ± {spread:.2g}"
    names = dict.fromkeys(name for row in rows for name in row)
    varied = {name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)}
    shown = SHOWN | asked | (varied - HIDDEN)
    columns = [name for name in names if name in shown or name.startswith("test_")] or ["run"]
    cells = [columns, *([_shown(row.get(name)) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    form = "  ".join(f"{{:<{width}}}" for width in widths)
    print("\n".join([form.format(*line).rstrip() for line in cells]))
    return 0


def _sides(name: str, one: Any, other: Any) -> str:
    """Write a value of both runs in a line."""
    shown = str if one != other and _shown(one) == _shown(other) else _shown  # all its digits
    return f"  {name:<24} {shown(one) or '-':<44} {shown(other) or '-'}"


def _unlike(one: dict[str, Any], other: dict[str, Any], names: tuple[str, ...] = ()) -> list[str]:
    """Write those values of both runs, or of `names` among them, that differ, a line each."""
    pairs = {name: (one.get(name), other.get(name)) for name in names or one | other}
    return [_sides(name, *pair) for name, pair in pairs.items() if pair[0] != pair[1]]


def compare(root: Path, first: str, second: str) -> int:
    """Say how two runs differ, by cause: config, code, environment, data; then their metrics.

    The `first` and the `second` are what `records.find` understands in `root`. Returns 1 if
    anything differs.
    """
    from . import environment, rerun, worktree

    one, other = find(root, first), find(root, second)
    changed = environment.differences(one.environment, other.environment)
    code = worktree.diff(root, one, other) + _unlike(*map(worktree.beyond, (one, other)))
    sections = {
        "config": _unlike(one.config, other.config),
        "code": code + _unlike(one.code, other.code, ("sources",)),
        "environment": [f"  {cause}: {line}" for cause in changed for line in changed[cause]],
        "data": _unlike(one.data, other.data, ("dataset", "fingerprint", "sizes", "class_names")),
    }
    print(_sides("", one.id, other.id))
    for title, lines in sections.items():
        print("\n".join([f"{title}: {'' if lines else 'the same'}", *lines]))
    last = [(record.metrics or [{}])[-1] | record.result for record in (one, other)]
    rows = [*zip(one.metrics, other.metrics, strict=False), last]
    differ = [bool(rerun.unlike(*pair, "")) for pair in rows]
    print(f"metrics: {'' if any(differ) else 'the same'}")
    for name in last[0] | last[1]:
        print(_sides(name, last[0].get(name), last[1].get(name)))
    if any(differ[:-1]):
        print(f"  the first epoch that differs is {rows[differ.index(True)][0].get('epoch')}")
    return int(any(differ) or any(sections.values()))

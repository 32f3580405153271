"""`lab verify`: run a record again and say whether it came out the same, and if not, why not."""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from . import environment, worktree
from .cards import CARD
from .project import LabError, git, package_of, untilde, write_whole
from .records import Record, capture, find
from .rerun import Rerun, unlike


def verify(
    root: Path, name: str, tolerance: float, epochs: int | None, restore: Path | None
) -> int:
    """Run a record again in a temporary worktree, and compare every number and weight.

    Its `name` is what `records.find` understands in `root`. Metrics may differ by `tolerance`
    (absolute); `epochs` limits the rerun to the first few; `restore` is a folder in which the
    recorded environment is built and used. Returns 1 if the verdict is `different`, else 0;
    LabError if the run could not be verified.
    """
    for variable in git(root, "rev-parse", "--local-env-vars").stdout.split():
        os.environ.pop(variable, None)  # called from a hook, git would write the index of a commit
    if not 0 <= tolerance < float("inf"):
        raise LabError(f"--tolerance {tolerance} is out of range; use 0 or more, such as 0.005")
    record = find(root, name)
    total = _check(record, epochs)
    epochs = epochs if epochs and epochs < total else None
    if epochs and not any(row.get("epoch", 0) <= epochs for row in record.metrics):
        raise LabError(f"--epochs {epochs}: the record has no rows of these; ask for more")
    python = sys.executable
    if restore:
        from . import rebuild  # the run itself needs none of its packages

        python = rebuild.rebuild(record.environment, package_of(root), restore)
    with _cleaning_up(root) as scratch:
        kept = scratch / "record" / record.path.name  # git may put another card there meanwhile
        needed = {*CARD, "predictions.npz"}
        shutil.copytree(record.path, kept, ignore=lambda _, names: set(names) - needed)
        kept.chmod(0o700)  # else what nobody may write stays behind
        patch = (kept / "code.patch").read_bytes()
        worktree.restore(root, record.code, patch, scratch / "code")
        first = f", its first {epochs} epochs" if epochs else ""
        print(f"running {record.id} again{first}, at {record.code['base'][:12]}", file=sys.stderr)
        verdict = _judge(Rerun(root, Record(kept), python, scratch, epochs), tolerance)
    _tell(verdict)  # first: the record may lie where nobody may write
    if listed := [item["path"] for item in record.code.get("listed", [])]:
        print(f"  files of which the record holds only the hash: {', '.join(listed[:20])}")
    if record.result != verdict["result"]:
        raise LabError(f"{record.path} now holds another run; this verdict is not kept")
    write_whole(record.path / "verification.json", json.dumps(verdict, indent=1) + "\n")
    if (root / "reports").resolve() in record.path.resolve().parents:
        print("  show it: lab report --readme; git add reports README.md")
        print("  or undo it: git restore reports (delete run/verification.json if it is new)")
        if capture(root, [])[0]["sources"] != record.code.get("sources"):
            print("  note: the recorded code was verified; the code checked out here is different")
    return int(verdict["verdict"] == "different")


def _check(record: Record, epochs: int | None) -> int:
    """Refuse what cannot be run again; return the number of epochs it was to have."""
    if record.state == "unfinished":
        raise LabError(f"{record.id} is unfinished; type: python train.py --resume {record.id}")
    if record.state == "damaged" or not (record.environment and record.code and record.data):
        raise LabError(f"{record.path} is damaged: a file of it cannot be read; restore it")
    if epochs is not None and epochs < 1:
        raise LabError(f"--epochs {epochs} is out of range; use 1 or more")
    if not (record.path / "code.patch").exists():
        raise LabError(f"{record.path} has no code.patch; verify the run where it was made")
    if (record.path / "predictions.npz").exists():  # a record card has none
        _ = record.predictions  # better now than after the run: it may be damaged
    return int(record.config.get("epochs") or record.result.get("epochs") or 0)


@contextlib.contextmanager
def _cleaning_up(root: Path):
    """Give a temporary folder that is gone afterwards, also after Ctrl-C and SIGTERM."""
    scratch = Path(tempfile.mkdtemp(prefix="lab-verify-")).resolve()
    try:
        yield scratch
    finally:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # a second one must not leave half behind
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        git(root, "worktree", "remove", "--force", "--force", str(scratch / "code"), check=False)
        shutil.rmtree(scratch, ignore_errors=True)


def _compare(old: Record, new: Record, epochs: int | None) -> list[dict[str, Any]]:
    """List every number and weight that differs, in the order in which they came about."""
    last, found = epochs or float("inf"), unlike(old.config, new.config, "config")
    found = [item for item in found if item["recorded"] != item["again"]]  # 0 and 0.0 are one value
    both = [[row for row in one.metrics if row.get("epoch", 0) <= last] for one in (old, new)]
    for rows in zip_longest(*both, fillvalue={}):
        found += unlike(*rows, f"epoch {(rows[0] or rows[1]).get('epoch')}")
    if epochs:
        return found
    found += unlike(old.result, new.result, "result")
    if (old.path / "predictions.npz").exists():
        one, other = old.predictions, new.predictions
        for name in sorted(one.keys() | other.keys()):
            if not (name in one and name in other and one[name].tobytes() == other[name].tobytes()):
                found += unlike({name: "an array"}, {name: "another"}, "predictions")
    return found


def _within(item: dict[str, Any], tolerance: float) -> bool:
    """Say whether a difference is within the tolerance; weights and predictions may differ."""
    import numpy as np

    free = item["where"] == "predictions" or item["what"].endswith(("sha256", "best_epoch"))
    with contextlib.suppress(TypeError, ValueError):  # no numbers; lists of unequal length
        free = free or np.abs(np.subtract(item["recorded"], item["again"])).max() <= tolerance
    return bool(free)


def _judge(rerun: Rerun, tolerance: float) -> dict[str, Any]:
    """Run again, compare, and look for the cause of what differs."""
    old, causes, deterministic = rerun.old, {}, None
    again, failed = rerun.run()
    found = [] if failed else _compare(old, again, rerun.epochs)
    if again:
        surroundings = environment.differences(old.environment, again.environment)
        prints = [one.data.get("fingerprint") for one in (old, again)]
        if prints[0] != prints[1]:
            causes["data"] = [f"the contents changed: fingerprint {prints[0]} -> {prints[1]}"]
    else:  # it ended before its record began
        recorded = {"packages": old.environment.get("packages")}
        now = {"packages": environment.packages()} if rerun.python == sys.executable else recorded
        surroundings = environment.differences(recorded, now)
    code = worktree.differences(rerun.root, old.code) + _strays(old, again)
    for stop in old.code.get("resumes", []):
        code += [f"at epoch {stop.get('epoch')}: {change}" for change in stop.get("changes", [])]
    if code:
        causes["code"] = code
    weak = ("settings", "platform")  # they differ after months, and seldom explain anything
    causes |= {cause: lines for cause, lines in surroundings.items() if cause not in weak}
    surroundings |= rerun.shell()
    beyond = [item for item in found if not _within(item, tolerance)]
    part = f"the first {rerun.epochs} epochs " if rerun.epochs else ""
    if not found and not failed:
        verdict = f"{part}identical"
    elif tolerance > 0 and not failed and not beyond:
        verdict = f"{part}within tolerance"
    else:
        verdict = "different"
        if not causes:
            print("different, and the record does not say why: running once more", file=sys.stderr)
            third, broken = rerun.run()
            deterministic = bool(failed) == bool(broken)
            if deterministic and not failed:
                deterministic = not _compare(again, third, rerun.epochs)
            causes = _look_deeper(old, found, deterministic, bool(rerun.epochs))
    return {
        "run": old.id,
        "result": old.result,  # edited later, it is judged no more
        "again": {k: v for k, v in again.result.items() if k[:5] == "test_"} if again else {},
        "verdict": verdict,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "epochs": rerun.epochs,
        "tolerance": tolerance,
        "failed": failed or None,
        "first_difference": next(iter(beyond or found), None),
        "differences": len(found),
        "causes": causes,
        "environment": surroundings,
        "deterministic": deterministic,
    }


def _strays(old: Record, again: Record | None) -> list[str]:
    """Name the files from elsewhere that only the run again imported."""
    listed = [one.code.get("listed", []) if one else () for one in (old, again)]
    known, paths = ([item["path"] for item in items] for items in listed)
    new = [path for path in paths if path not in known and Path(untilde(path)).is_absolute()]
    return [f"{path} was imported, and the record does not hold it" for path in new]


def _look_deeper(old: Record, found: list, deterministic: bool, partly: bool) -> dict[str, list]:
    """Look for a cause where the record names none."""
    if not deterministic:
        line = "two runs now differ from one another, too: the code itself is non-deterministic"
        return {"code": [line]}
    print("two runs now agree; looking at the installed files by hash", file=sys.stderr)
    causes = {}
    began = datetime.strptime(old.id[:15] + "Z", "%Y%m%d-%H%M%S%z").timestamp()
    for package, file, what in environment.damaged(deep=True):
        # what was edited before the run was so in both
        if what == "missing" or max(Path(file).expanduser().stat()[-2:]) >= began:  # mtime, ctime
            causes.setdefault("edited libraries", []).append(f"{file} ({package}) {what}")
    weights = any(item["what"].endswith("weights_sha256") for item in found)
    if found and not partly and not weights:
        line = "the weights came out the same: the record's numbers were changed after the run"
        causes["record"] = [f"{line}, or the evaluation reads something that no record holds"]
    agree = "two runs now agree with each other, but not with the record"
    agree += ", which was resumed: is all state in save and go_on?" if "resumes" in old.code else ""
    alike = "both runs fail alike; if they read a file that git ignores, put it into --data-dir"
    return causes or {"unknown": [agree if found else alike]}


def _tell(verdict: dict[str, Any]) -> None:
    """Print what was found."""
    print(f"{verdict['run']}: {verdict['verdict']}")
    if verdict["epochs"]:
        print(f"  only the first {verdict['epochs']} epochs were compared, and no weights")
    if verdict["failed"]:
        print(f"  the run could not be repeated: {verdict['failed']}")
    if first := verdict["first_difference"]:
        pair = first["recorded"], first["again"]
        by = f" (by {pair[1] - pair[0]:.3g})" if all(isinstance(v, float) for v in pair) else ""
        where = f"{first['where']}, {first['what']}"
        print(f"  first difference: {where}: {pair[0]} -> {pair[1]}{by}")
        print(f"  {verdict['differences']} values differ")
        for name, value in verdict["again"].items():  # does the result hold?
            print(f"  {name}: {verdict['result'].get(name)} -> {value}")
    if verdict["verdict"] == "different":
        print("  what may explain it:")
    elif verdict["causes"] or verdict["environment"]:
        print("  differs, without effect on the verdict:")
    for cause, lines in (verdict["environment"] | verdict["causes"]).items():
        for line in lines[:20]:
            print(f"    {cause}: {line}")
        if len(lines) > 20:
            print(f"    {cause}: and {len(lines) - 20} more")

"""`lab logbook`: one page of all runs that any browser opens, with no server and no network."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .compare import table_rows
from .project import LabError, write_whole
from .records import Record

CURVES = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
POINTS = 120  # of a curve; more are not seen in a small chart, and make the page slow


def _reports(root: Path) -> dict[str, str]:
    """Return the report of each run that has one."""
    found = {}
    for card in sorted((root / "reports").glob("**/run/code.json")):
        page = next(
            (
                card.parent.parent / name
                for name in ("report.html", "README.md")
                if (card.parent.parent / name).exists()
            ),
            card.parent.parent,
        )
        found[Record(card.parent).id] = page.as_posix()
    return found


def _thinned(values: list) -> list:
    """Return at most `POINTS` values, the last among them."""
    step = max(1, len(values) // POINTS)
    kept = values[::-step][::-1]
    return [round(value, 6) if isinstance(value, float) else value for value in kept]


def logbook(root: Path, output: Path | None = None) -> int:
    """Write the page of all runs in `root`; LabError if there are none.

    It goes to `output`, by default `runs/logbook.html`.
    """
    output = (output or root / "runs" / "logbook.html").absolute()
    if output.is_dir():
        raise LabError(f"--output {output} is a folder; name a file in it")
    rows = table_rows(root)
    if not rows:
        raise LabError(f"no run in {root / 'runs'}; python train.py makes one")
    reports, runs = _reports(root), []
    for row in rows:
        record = Record(Path(row["path"]))
        metrics = record.metrics
        curves = {name: _thinned([line.get(name) for line in metrics]) for name in CURVES}
        epochs = _thinned([line.get("epoch") for line in metrics])
        report = reports.get(row["run"])
        result = {name: row.get(name) for name in ("test_accuracy", "test_loss", "best_epoch")}
        runs.append(
            {
                **{name: row[name] for name in ("run", "state", "verdict")},
                "verified": row["verified"],
                "code": str(record.code.get("sources") or "")[:8],
                "config": record.config,
                "result": result,
                "epochs": epochs,
                "curves": curves,
                "report": os.path.relpath(report, output.parent) if report else None,
            }
        )
    # "<" in a value must not close the script
    text = json.dumps({"project": root.name, "runs": runs}, ensure_ascii=False).replace(
        "<", "\\u003c"
    )
    page = Path(__file__).with_name("logbook.html").read_text(encoding="utf-8")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, page.replace("/*RUNS*/", text))
    print(f"wrote {output}: {len(runs)} runs")
    return 0

"""`lab logbook`: one page of all runs that any browser opens, with no server and no network."""

import json
import os
from pathlib import Path

from .cards import finite
from .compare import table_rows, versions_of
from .project import LabError, write_whole
from .records import Record

POINTS = 120  # of a curve; more are not seen in a small chart, and make the page slow


def _thinned(values: list) -> list:
    """Thin a curve to some `POINTS` values: of each stretch the last one that is known."""
    step = max(1, len(values) // POINTS)
    parts = [values[max(0, end - step) : end] for end in range(len(values), 0, -step)][::-1]
    last = [next((one for one in part[::-1] if one is not None), None) for part in parts]
    return [round(one, 6) if isinstance(one, float) else one for one in last]


def logbook(root: Path) -> int:
    """Write `runs/logbook.html`, the page of all runs in `root`; LabError if there are none."""
    output = root / "runs" / "logbook.html"
    rows = table_rows(root)
    if not rows:
        raise LabError(f"no run in {root / 'runs'}; python train.py makes one")
    cards, pages = sorted((root / "reports").glob("**/run")), ("report.html", "README.md", "run")
    reports = {
        Record(card).id: next(filter(Path.exists, map(card.with_name, pages))).as_posix()
        for card in cards
    }
    runs = []
    for row in rows:
        record = Record(Path(row["path"]))
        metrics, report = record.metrics, reports.get(row["run"])
        run = {name: row[name] for name in ("run", "state", "verdict", "verified")}
        run |= {"config": record.config, **versions_of(row["path"])}
        run["result"] = {k: v for k, v in record.result.items() if k.startswith("test_")}
        run["epochs"] = _thinned([line.get("epoch") for line in metrics])
        names = {name: 0 for line in metrics for name in line if name not in ("epoch", "seconds")}
        run["curves"] = {name: _thinned([line.get(name) for line in metrics]) for name in names}
        run["report"] = os.path.relpath(report, output.parent) if report else None
        runs.append(run)
    text = json.dumps(finite({"project": root.name, "runs": runs}), ensure_ascii=False)
    page = Path(__file__).with_name("logbook.html").read_text(encoding="utf-8")
    # no value may close the script
    write_whole(output, page.replace("/*RUNS*/", text.replace("<", "\\u003c")))
    print(f"wrote {output}: {len(runs)} runs")
    return 0

"""What the notebook filter and the guard add to a commit: both sides interleaved, medians.

The same project, with pre-commit's real hooks, committed with the filter and the guard and with
neither (a guard that does nothing). `add` is where git runs the filter, `commit` where the guard
runs. CPU seconds beside wall-clock seconds: on a busy machine only the former mean something.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import TEMPLATE, Project
from cookiecutter.main import cookiecutter
from notebook_pairs import HOOKS_HOME, Pair

PAIRS = 100
ENV = {"PRE_COMMIT_HOME": str(HOOKS_HOME), "SKIP": "check"}
LIMITS = {"an unrelated file": 0.1, "1 changed pair": 0.5, f"{PAIRS} changed pairs": 2.0}


def prepare(folder: Path) -> dict[str, Project]:
    """Make a project of 100 pairs, with and without filter and guard."""
    made = cookiecutter(
        str(TEMPLATE), no_input=True, output_dir=str(folder / "with"), config_file=os.devnull
    )
    ours = Project(Path(made))
    for path in (ours.root / "notebooks").glob("01_*"):
        path.unlink()
    first = Pair(ours).make()
    text, notebook = first.py.read_text(), first.nb.read_text()
    for number in range(2, PAIRS + 1):
        (ours.root / f"notebooks/{number:03}_pair.py").write_text(text)
        (ours.root / f"notebooks/{number:03}_pair.ipynb").write_text(notebook)
    ours.lab("setup", check=True, env=ENV)
    bare = Project(folder / "without" / ours.root.name)
    shutil.copytree(ours.root, bare.root, symlinks=True)
    for command in ("clean", "smudge"):
        bare.git("config", "--unset", f"filter.notebook.{command}")
    config = bare.root / ".pre-commit-config.yaml"
    whole = config.read_text()
    idle = re.sub(r"(- id: guard\n.*?entry: )>-\n.*?(        language)", r"\1python -c pass\n\2",
                  whole, count=1, flags=re.DOTALL)  # fmt: skip
    assert idle != whole
    config.write_text(idle)
    bare.git("commit", "-q", "-a", "--no-verify", "-m", "no guard")
    return {"with": ours, "without": bare}


def edit(project: Project, what: str, number: int) -> None:
    """Make the change that is committed: both halves in step, outputs on disk."""
    if what == "an unrelated file":
        (project.root / "other.txt").write_text(f"{number}\n")
        return
    names = sorted((project.root / "notebooks").glob("*.py"))
    for path in names[:1] if what.startswith("1 ") else names:
        for half in (path, path.with_suffix(".ipynb")):
            half.write_text(re.sub(r"second = \d+", f"second = {number}", half.read_text()))


def timed(project: Project, *command: str) -> tuple[float, float]:
    """Run git; return wall-clock and CPU seconds."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(["git", *command], cwd=project.root, env={**project.env, **ENV}, check=True,
                   capture_output=True)  # fmt: skip
    after, wall = os.times(), time.perf_counter() - start
    return wall, sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as folder:
        projects = prepare(Path(folder))
        print(f"{'change':20} {'step':8} {'with':>14} {'without':>14} {'added':>14}   wall/CPU s")
        for what, limit in LIMITS.items():
            found: dict = {}
            for number in range(repeat):
                for side, project in projects.items():
                    edit(project, what, 1000 + number)
                    for step in (("add", "-A"), ("commit", "-q", "-m", "x")):
                        found.setdefault((side, step[0]), []).append(timed(project, *step))
            for step in ("add", "commit"):
                cells = []
                for side in projects:
                    values = zip(*found[side, step], strict=True)
                    cells.append([statistics.median(value) for value in values])
                cells.append([a - b for a, b in zip(*cells, strict=True)])
                shown = " ".join(f"{wall:7.2f}/{cpu:6.2f}" for wall, cpu in cells)
                print(f"{what:20} {step:8} {shown}" + (f"   at most {limit}" * (step == "commit")))


if __name__ == "__main__":
    main()

"""How long `lab runs` and `lab logbook` take with many records.

Each is a whole process, as a user waits for it; beside it, in the same round, a process that only
opens and parses three files of each record. Prints medians and their ratio.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cookiecutter.main import cookiecutter

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
from made_records import make_record

READ = """
import json, pathlib
for folder in pathlib.Path("runs").iterdir():
    for name in ("config.json", "result.json", "verification.json"):
        path = folder / name
        if path.exists():
            json.loads(path.read_bytes())
"""


def seconds(command: list[str], root: Path) -> float:
    """Run a command in the project; return its wall time."""
    started = time.perf_counter()
    environment = {"PYTHONPATH": str(root / "src"), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Build the records and time each command, interleaved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--pages", type=int, default=1_000, help="records of the logbook")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for count, commands in (
            (options.records, (["runs"], ["runs", "--group"],
                               ["runs", "--where", "test_accuracy>=0.95", "--sort=-test_loss"])),
            (options.pages, (["logbook"],)),
        ):  # fmt: skip
            root = Path(cookiecutter(str(HERE.parent), no_input=True, output_dir=folder,
                                     extra_context={"project_name": f"Many {count}"},
                                     config_file="/dev/null"))  # fmt: skip
            for number in range(count):
                verdict = "identical" if number % 3 == 0 else None
                make_record(root / "runs", number, seed=number % 5, learning_rate=number // 5 / 1e4,
                            finished=number % 50 != 0, verdict=verdict)  # fmt: skip
            package = next((root / "src").glob("*/lab")).parent.name
            for command in commands:
                lab = [sys.executable, "-m", f"{package}.lab.cli", *command]
                pairs = [
                    (seconds(lab, root), seconds([sys.executable, "-c", READ], root))
                    for _ in range(options.rounds)
                ]
                ours, reading = (statistics.median(side) for side in zip(*pairs, strict=True))
                print(f"lab {' '.join(command)}: {count} records {ours:.2f} s, "
                      f"reading them alone {reading:.2f} s, ratio {ours / reading:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()

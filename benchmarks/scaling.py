"""What grows with ranks, notebooks and images; what grows with records: many_records.py.

The processes of one training (world sizes 1, 2, 4; two against two single processes that run side
by side and know nothing of each other), 100 notebooks, a million small images in memory.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import generate, machine

EPOCHS = 8
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def training(root: Path, runs: Path, batch: int, ranks: int) -> subprocess.Popen:
    """Start a training of simple_cnn on the digits."""
    launcher = [*LAUNCH, "--nproc-per-node", str(ranks)] if ranks > 1 else [sys.executable]
    options = ["--epochs", EPOCHS, "--batch-size", batch, "--runs-dir", runs, "--device", "cpu"]
    command = [*launcher, "train.py", *map(str, options)]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def step(root: Path, batch: int, ranks: int = 1, copies: int = 1) -> float:
    """Return the milliseconds of a step, from the epochs after the first; `copies` at a time."""
    places = [root / "runs" / f"{time.time_ns()}-{copy}" for copy in range(copies)]
    for process in [training(root, place, batch, ranks) for place in places]:
        if process.wait():
            sys.exit(f"a training with {ranks} processes failed")
    found = []
    for place in places:
        (metrics,) = place.glob("2*/metrics.jsonl")
        (data,) = place.glob("2*/data.json")
        steps = json.loads(data.read_text())["sizes"]["train"] // batch
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        found.append(statistics.median(row["seconds"] for row in rows[1:]) / steps * 1000)
    return statistics.mean(found)


def ranks(root: Path, rounds: int) -> None:
    """Measure world sizes at one global batch, and two ranks against two single processes."""
    sides = {
        "1 process, batch 64": lambda: step(root, 64),
        "2 processes, batch 64 (32 each)": lambda: step(root, 64, 2),
        "4 processes, batch 64 (16 each)": lambda: step(root, 64, 4),
        "2 single trainings side by side, batch 32 each": lambda: step(root, 32, copies=2),
    }
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(side())
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name}: {value:.2f} ms a step")
    two, single = list(medians.values())[1], list(medians.values())[3]
    print(f"DDP at 2 processes: {two / single:.2f} times two single processes, "
          f"{two - single:+.2f} ms a step")  # fmt: skip


def notebooks(root: Path, count: int) -> None:
    """Measure the commands that read all notebooks, at one and at many."""
    package = next((root / "src").glob("*/lab")).parent.name
    first = root / "notebooks" / "01_baseline.py"
    for total in (1, count):
        for number in range(2, total + 1):
            text = first.read_text(encoding="utf-8")
            copy = first.with_name(f"{number:02}_copy.py")
            copy.write_text(text, encoding="utf-8", newline="\n")

        def measure(command: str, state: str) -> None:
            started = time.perf_counter()
            asked = [sys.executable, "-m", f"{package}.lab.cli", command]
            environment = {"PYTHONPATH": str(root / "src"), "PATH": "/usr/bin:/bin"}
            subprocess.run(asked, cwd=root, env=environment, capture_output=True, check=False)
            took = time.perf_counter() - started
            print(f"lab {command}, {total} notebooks {state}: {took:.2f} s")

        measure("sync", "new")  # makes the other halves; from here on there is nothing to do
        measure("sync", "not committed")
        subprocess.run(["git", "add", "notebooks"], cwd=root, check=True)
        commit = ["git", "commit", "-qm", "notebooks", "--no-verify", "--allow-empty"]
        subprocess.run(commit, cwd=root, check=True)
        measure("sync", "committed")
        measure("check", "committed")


def images(root: Path, count: int) -> None:
    """Measure an epoch's batches of random small images, without a model."""
    import torch
    import train

    split = sys.modules[train.load_splits.__module__].Split
    pixels = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)
    labels = torch.zeros(count, dtype=torch.int64)
    train_split = split(labels=labels, pixels=pixels)
    splits = train.Splits(train_split, None, None, ["a"], [], root, shift=2, flip=True)
    torch.set_num_threads(1)
    batches = train.TrainingBatches(splits, train.Config(), train.World(0, 1, labels.device), 0)
    started = time.process_time()
    for _ in batches.epoch(torch.Generator().manual_seed(0)):
        pass
    took = time.process_time() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{count:,} images of 32x32x3: {took:.1f} CPU s an epoch of batches "
          f"({count / took:,.0f} a second), {memory:.1f} GB of memory")  # fmt: skip


def main() -> None:
    """Measure everything on a fresh project."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--notebooks", type=int, default=100)
    parser.add_argument("--images", type=int, default=1_000_000)
    options = parser.parse_args()
    root = generate()
    print(machine())
    ranks(root, options.rounds)
    notebooks(root, options.notebooks)
    images(root, options.images)


if __name__ == "__main__":
    main()

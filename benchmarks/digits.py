"""The digits with the defaults: seconds from start to result, and accuracy over ten seeds."""

import json
import statistics
import subprocess
import sys
import time

from common import generate, interleaved, machine

root = generate()


def train(seed: int) -> dict:
    """Train in a process of its own; return its result and how long all of it took."""
    started = time.perf_counter()
    command = [sys.executable, "train.py", "--seed", str(seed), "--runs-dir", f"seeds/{seed}"]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - started
    (result,) = (root / "seeds" / str(seed)).glob("*/result.json")
    return json.loads(result.read_text()) | {"whole": whole}


results = [train(seed) for seed in range(10)]
command = [sys.executable, "-c", "import torch"]
importing = interleaved({"torch": lambda: subprocess.run(command, check=True) and None})["torch"]
accuracies = [result["test_accuracy"] for result in results]
reached = sum(accuracy >= 0.985 for accuracy in accuracies)
print(machine())
print(
    f"test accuracy over seeds 0 to 9: {statistics.mean(accuracies):.2%} ± "
    f"{statistics.stdev(accuracies):.2%}, worst {min(accuracies):.2%}, "
    f"98.5% or more in {reached} of 10"
)
print(
    f"python train.py: {statistics.median(result['whole'] for result in results):.1f} s, of which "
    f"import torch {importing:.1f} s and the loop "
    f"{statistics.median(result['seconds'] for result in results):.1f} s"
)

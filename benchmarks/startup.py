"""From the start of train.py to its first step, against importing torch and making an AdamW."""

import os
import subprocess
import sys

from common import generate, interleaved, machine

root = generate()
LEAST = "import torch; torch.optim.AdamW([torch.zeros(1, requires_grad=True)])"
FIRST_STEP = """
import os, sys
sys.argv = ["train.py", "--epochs", "1"]
sys.path.insert(0, ".")
import train
train.Training.save_if_asked = lambda self, started: os._exit(0)
train.main()
"""


def run(code: str) -> None:
    """Run a process to its end."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=env, check=True, stdout=subprocess.DEVNULL
    )


medians = interleaved({"least": lambda: run(LEAST), "ours": lambda: run(FIRST_STEP)}, 7)
ratio = medians["ours"] / medians["least"]
print(machine())
print(
    f"import torch and make an AdamW: {medians['least']:.2f} s; to the first step: "
    f"{medians['ours']:.2f} s; ratio {ratio:.2f} (at most 1.3)"
)

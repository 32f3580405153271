"""What the benchmarks share: a generated project, interleaved measurements, the machine."""

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent


def generate() -> Path:
    """Generate a project with the defaults, as a repository, and return its root."""
    sys.path.insert(0, str(TEMPLATE / "tests"))
    from conftest import Project, commit_all
    from cookiecutter.main import cookiecutter

    folder = tempfile.mkdtemp(prefix="benchmark-")
    options = {"no_input": True, "output_dir": folder, "config_file": os.devnull}
    made = cookiecutter(str(TEMPLATE), **options)
    commit_all(Project(Path(made)))
    sys.path.insert(0, made)
    return Path(made)


def interleaved(sides: dict[str, Callable[[], float | None]], repeats: int = 5) -> dict[str, float]:
    """Call all sides in turn, `repeats` times; return each side's median in seconds.

    A side that returns a number measured itself; otherwise its wall time counts.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            started = time.perf_counter()
            own = side()
            times[name].append(time.perf_counter() - started if own is None else own)
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> str:
    """Describe the machine in a line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if "model name" in line), model)
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    )


def pictures(count: int = 50_000):
    """Make a CIFAR-10-like set in memory: uint8 (count, 32, 32, 3), labels int64 (count,)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return pixels, torch.randint(0, 10, (count,), generator=generator)

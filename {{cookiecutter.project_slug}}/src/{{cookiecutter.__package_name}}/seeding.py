"""Every generator, from (seed, epoch, rank); and the switches that make runs repeatable."""

import os
import random
from typing import Any

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """Mix non-negative integers into one seed below 2**32; neighbours give unrelated streams."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def generator(*parts: int) -> torch.Generator:
    """Make a CPU generator, seeded by `parts`, from which nothing else draws."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy, and PyTorch on the CPU and all GPUs, by any `seed` of 0 or more."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - a user's code may draw from the global one
    torch.manual_seed(seed % 2**64)


def make_repeatable(deterministic: bool, threads: int) -> None:
    """Set the switches on which bits depend.

    Parameters
    ----------
    deterministic : bool
        Refuse operations whose result differs from run to run (PyTorch, "Reproducibility").
    threads : int
        PyTorch's threads on the CPU; sums are divided among them.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.set_num_threads(threads)


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all global generators and the `device`'s, for a checkpoint."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "device": None if device.type == "cpu" else getattr(torch, device.type).get_rng_state(),
    }


def set_generator_states(states: dict[str, Any], device: torch.device) -> None:
    """Restore `states` from `generator_states`, which may be of another GPU than `device`."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["device"] is not None:
        getattr(torch, device.type).set_rng_state(states["device"])

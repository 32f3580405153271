"""A training epoch through train.py's own loop, against compute alone on batches made before.

The loop brings the input pipeline, the record, the progress bar and the checkpoints; the other
side has the same model, optimiser and schedule, and nothing else. Validation is left out of both.
"""

import contextlib
import io
import statistics
import sys
import tempfile
import time
from dataclasses import replace

import torch
from common import generate, interleaved, machine, pictures
from torch.nn import functional

generate()
import train

EPOCHS = 40


def training(dataset: str, count: int):
    """Set up a run as train.py does, on the digits or on pictures of 32x32x3."""
    batch = "64" if dataset == "digits" else "128"
    config, options = train.configuration.parse_arguments(
        ["--epochs", str(EPOCHS), "--batch-size", batch, "--runs-dir", tempfile.mkdtemp()]
    )
    config = replace(config, device="cpu")
    train.seeding.make_repeatable(config.deterministic, config.threads)
    splits = train.load_splits(config, options)
    if dataset != "digits":
        pixels, labels = pictures(count)
        splits = replace(splits, train=train.Split(labels, pixels), shift=4, flip=True)
        splits.__dict__.pop("input_shape", None)
    world = train.join_world("cpu")
    run = train.Training(config, options, splits, world, train.StopSignals())
    run.begin(train.capture(train.ROOT, []))
    guesses = torch.full((len(splits.validation), 10), 0.1)
    run.evaluate = lambda _split: (0.0, 0.0, guesses)  # validation is left out
    return run


def pair(dataset: str, count: int):
    """Set up both sides anew: where memory happens to lie alone moves an epoch by some percent."""
    with contextlib.redirect_stdout(io.StringIO()):  # the names of the runs
        run, plain = training(dataset, count), training(dataset, count)
    prepared = list(plain.batches.epoch(torch.Generator().manual_seed(0)))
    bar = train.tqdm(total=10**9, file=sys.stderr, mininterval=0.1)

    def ours():
        with contextlib.redirect_stdout(sys.stderr):  # the line of the epoch
            run.train_epoch(bar)

    def compute():
        plain.model.train()
        for images, labels in prepared:
            loss = functional.cross_entropy(plain.model(images), labels)
            plain.optimizer.zero_grad()
            loss.backward()
            plain.optimizer.step()
            plain.schedule.step()

    ours()
    compute()
    return run, {"ours": ours, "compute": compute}


def measure(dataset: str, count: int, limit: float, repeats: int) -> None:
    """Compare one epoch of both sides, in five set-ups."""
    times = {"ours": [], "compute": []}
    for _ in range(5):
        run, sides = pair(dataset, count)
        for name, seconds in interleaved(sides, repeats).items():
            times[name].append(seconds)
    ours, compute = (statistics.median(values) for values in times.values())
    saved = time.perf_counter()
    run.save()
    saved = time.perf_counter() - saved
    minutes = run.options.checkpoint_minutes
    print(
        f"{dataset}: {ours:.4f} s against {compute:.4f} s an epoch, ratio {ours / compute:.2f} (at "
        f"most {limit}); a checkpoint every {minutes:g} minutes adds {saved / 60 / minutes:.3%}"
    )


print(machine())
measure("digits", 0, 1.15, repeats=15)
measure("pictures", 4_000, 1.05, repeats=3)

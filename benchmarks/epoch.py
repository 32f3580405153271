"""A training epoch through train.py's own loop, against compute alone on batches made before.

The loop brings the input pipeline, the record, the progress bar and the checkpoints; the other
side has the same model, optimiser and schedule, and nothing else. Validation is left out of both.
"""

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
    run.begin([])
    guesses = torch.full((len(splits.validation), 10), 0.1)
    run.evaluate = lambda _split: (0.0, 0.0, guesses)  # validation is left out
    return run


def measure(dataset: str, count: int, limit: float) -> None:
    """Compare one epoch of both sides."""
    run, plain = training(dataset, count), training(dataset, count)
    prepared = list(plain.batches.epoch(torch.Generator().manual_seed(0)))
    bar = train.tqdm(total=10**9, file=sys.stderr, mininterval=0.1)

    def ours():
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
    repeats = 15 if dataset == "digits" else 5
    started = time.perf_counter()
    medians = interleaved({"ours": ours, "compute": compute}, repeats)
    ratio = medians["ours"] / medians["compute"]
    saved = time.perf_counter()
    run.save()
    saved = time.perf_counter() - saved
    share = saved / (60 * run.options.checkpoint_minutes)
    print(
        f"{dataset}: {medians['ours']:.3f} s against {medians['compute']:.3f} s an epoch, "
        f"ratio {ratio:.2f} (at most {limit}); a checkpoint every "
        f"{run.options.checkpoint_minutes:g} minutes adds {share:.2%}"
        f" [{time.perf_counter() - started:.0f} s]"
    )


print(machine())
measure("digits", 0, 1.15)
measure("pictures", 10_000, 1.05)

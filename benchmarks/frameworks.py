"""The same model, data and optimiser in Lightning and in Accelerate, and in train.py.

Lightning's Trainer has its defaults (progress bar, CSV log, checkpoint), Accelerate's loop is that
of its own example. Both have their usual DataLoader: over tensors for the digits, over PIL images
with transforms (crop, flip, normalise) for 32x32x3. Seconds an epoch, from runs of two lengths, so
that setting up is not in.
"""

import contextlib
import os
import sys
import tempfile
import time
import warnings
from dataclasses import replace

import lightning
import torch
from accelerate import Accelerator
from common import generate, interleaved, machine, pictures
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

generate()
import train
from digits_lab.batches import normalise

warnings.filterwarnings("ignore")
os.environ["ACCELERATE_USE_CPU"] = "true"
SHORT, LONG = 1, 4


def load(dataset: str):
    """Return config, options and splits: digits as they are, pictures cropped and flipped."""
    given = (
        ["--batch-size", "64", "--no-augment"] if dataset == "digits" else ["--batch-size", "128"]
    )
    config, options = train.configuration.parse_arguments(
        [*given, "--runs-dir", tempfile.mkdtemp()]
    )
    config = replace(config, device="cpu")
    splits = train.load_splits(config, options)
    if dataset != "digits":
        pixels, labels = pictures(4_000)
        validation = train.Split(labels[:1000], pixels[:1000])
        changed = {"train": train.Split(labels, pixels), "validation": validation}
        splits = replace(splits, **changed, shift=4, flip=True)
    return config, options, splits


class Usual(Dataset):
    """Images as in torchvision's CIFAR10 and the tutorials: a PIL image at a time."""

    def __init__(self, split, augment):
        self.pixels, self.labels = split.pixels.numpy(), split.labels.tolist()
        changes = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        scale = transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
        self.transform = transforms.Compose(
            [*(changes if augment else []), transforms.ToTensor(), scale]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def loaders(config, splits):
    """Return the usual DataLoaders: over tensors for the digits, with transforms for pictures."""
    both = (splits.train, splits.validation)
    if splits.flip:
        sets = [Usual(split, augment=split is splits.train) for split in both]
    else:
        sets = [
            TensorDataset(normalise(split.pixels, *splits.statistics), split.labels)
            for split in both
        ]
    return (
        DataLoader(sets[0], config.batch_size, shuffle=True, drop_last=True),
        DataLoader(sets[1], 500),
    )


class Module(lightning.LightningModule):
    """The model as Lightning wants it."""

    def __init__(self, config, splits):
        super().__init__()
        self.config = config
        self.model = train.build_model(config, splits.input_shape, 10)

    def training_step(self, batch, _):
        logits = self.model(batch[0])
        loss = functional.cross_entropy(logits, batch[1])
        self.log_dict({"loss": loss, "accuracy": (logits.argmax(1) == batch[1]).float().mean()})
        return loss

    def validation_step(self, batch, _):
        logits = self.model(batch[0])
        self.log("validation_loss", functional.cross_entropy(logits, batch[1]))
        self.log("validation_accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.config.learning_rate, fused=True)


def with_lightning(config, splits, epochs):
    """Train by Lightning's Trainer."""
    folder = tempfile.mkdtemp()
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, logger=CSVLogger(folder),
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(config, splits), *loaders(config, splits))


def with_accelerate(config, splits, epochs):
    """Train by Accelerate as its own example of computer vision does (cv_example.py)."""
    accelerator = Accelerator(cpu=True)
    model = train.build_model(config, splits.input_shape, 10)
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, fused=True)
    both = loaders(config, splits)
    rate = config.learning_rate
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * len(both[0]) + 1)
    model, optimizer, schedule, *both = accelerator.prepare(model, optimizer, schedule, *both)
    for _ in range(epochs):
        model.train()
        total_loss = 0
        for images, labels in both[0]:
            loss = functional.cross_entropy(model(images), labels)
            total_loss += loss.detach().float()
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        model.eval()
        right = count = 0
        for images, labels in both[1]:
            with torch.no_grad():
                predictions = model(images).argmax(dim=-1)
            predictions, references = accelerator.gather_for_metrics((predictions, labels))
            right += (predictions == references).long().sum()
            count += len(references)
        accelerator.print(f"accuracy {right.item() / count:.4f}, loss {total_loss.item():.4f}")


def with_ours(config, options, splits, epochs):
    """Train by train.py's own loop."""
    run = train.Training(
        replace(config, epochs=epochs),
        options,
        splits,
        train.join_world("cpu"),
        train.StopSignals(),
    )
    run.begin(train.capture(train.ROOT, []))
    run.fit()


def per_epoch(fit) -> float:
    """Return the seconds that each further epoch takes."""
    times = []
    for epochs in (SHORT, LONG):
        started = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):  # what each prints of its epochs
            fit(epochs)
        times.append(time.perf_counter() - started)
    return (times[1] - times[0]) / (LONG - SHORT)


print(machine())
for dataset in ("digits", "pictures"):
    config, options, splits = load(dataset)
    train.seeding.make_repeatable(config.deterministic, 1)
    fits = {
        "ours": lambda n: with_ours(config, options, splits, n),
        "lightning": lambda n: with_lightning(config, splits, n),
        "accelerate": lambda n: with_accelerate(config, splits, n),
    }
    sides = {name: lambda fit=fit: per_epoch(fit) for name, fit in fits.items()}
    medians = interleaved(sides, repeats=9)
    shown = "; ".join(
        f"{name} {seconds:.3f} s, {seconds / medians['ours']:.2f} times"
        for name, seconds in medians.items()
    )
    print(f"{dataset}, an epoch: {shown}")

"""Data sets by name; each builder returns its splits."""

from __future__ import annotations

import glob
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .batches import augment, draw_changes, normalise
from .config import Config, RunOptions, UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg"}
# left out without a word, they would be missing from the results
REFUSED_SUFFIXES = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".tif", ".tiff", ".webp"}
PICKLE_ALLOWED = {"numpy._reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode"}
STATISTICS_IMAGES = 10_000  # enough for mean and deviation, and a bounded wait on a large folder


@dataclass(frozen=True)
class Split:
    """Labels, int64 (N,), and images: in memory, or in files that are read when needed."""

    labels: Tensor
    pixels: Tensor | None = None  # uint8 (N, height, width, channels)
    paths: tuple[Path, ...] = ()
    image_size: int = 0  # of those files' images, once read

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Tensor) -> Split:
        """Return the split of the images at `index`, int64 (M,)."""
        pixels = None if self.pixels is None else self.pixels[index]
        paths = tuple(self.paths[i] for i in index.tolist()) if self.paths else ()
        return replace(self, labels=self.labels[index], pixels=pixels, paths=paths)

    def read(self, index: Tensor) -> Tensor:
        """Return the images at `index`, int64 (M,), as uint8 (M, height, width, channels)."""
        if self.pixels is not None:
            return self.pixels[index.to(self.pixels.device)]
        read = [_read_image(self.paths[i], self.image_size) for i in index.tolist()]
        return torch.stack(read) if read else torch.empty(0, 1, 1, 3, dtype=torch.uint8)

    def to(self, device: torch.device) -> Split:
        """Move what is in memory to a `device`."""
        pixels = None if self.pixels is None else self.pixels.to(device)
        return replace(self, labels=self.labels.to(device), pixels=pixels)


@dataclass(frozen=True)
class Splits:
    """A data set, split into what training, model selection and the final test may see.

    Like a `Record`, it has `data` and `samples`, so figures can be drawn from either.
    """

    train: Split
    validation: Split | None  # None: `load_splits` cuts it from train
    test: Split | None
    class_names: list[str]
    files: list[Path]  # what is fingerprinted
    folder: Path  # that the files' names are relative to
    shift: int = 0  # augmentation: pixels in each direction
    flip: bool = False  # augmentation: left and right mean the same

    def to(self, device: torch.device) -> Splits:
        """Move what is in memory to a `device`."""
        return replace(self, **{name: split.to(device) for name, split in self._parts()})

    def _parts(self) -> list[tuple[str, Split]]:
        """Return the splits by name."""
        return [(name, getattr(self, name)) for name in ("train", "validation", "test")]

    @cached_property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        height, width, channels = self.train.read(torch.tensor([0])).shape[1:]
        return channels, height, width

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the training pixels, 0 to 255: float32 of shape (channels,)."""
        counts = torch.zeros(self.input_shape[0], 256, dtype=torch.float64)
        step = max(1, len(self.train) // STATISTICS_IMAGES)
        for index in torch.arange(0, len(self.train), step).split(500):
            for channel, values in enumerate(self.train.read(index).cpu().unbind(-1)):
                counts[channel] += torch.bincount(values.flatten(), minlength=256)  # exact counts
        share = counts / counts.sum(1, keepdim=True)
        values = torch.arange(256, dtype=torch.float64)
        mean = share @ values
        variance = (share * (values - mean[:, None]) ** 2).sum(1)
        return mean.float(), variance.sqrt().clamp_min(1e-3).float()

    @property
    def data(self) -> dict[str, Any]:
        """What a run's `data.json` says of the splits."""
        return {
            "sizes": {name: len(split) for name, split in self._parts()},
            "class_names": self.class_names,
            "class_counts": {
                name: torch.bincount(split.labels.cpu(), minlength=len(self.class_names)).tolist()
                for name, split in self._parts()
            },
            "input_shape": list(self.input_shape),
        }

    @property
    def samples(self) -> dict[str, np.ndarray]:
        """The first 16 training images, (16, height, width, channels), and their labels, (16,)."""
        index = torch.arange(min(16, len(self.train)))
        pixels = self.train.read(index).cpu()
        changes = draw_changes(len(index), self.shift, self.flip, torch.Generator().manual_seed(0))
        samples = {
            "images": pixels,
            "augmented": augment(pixels, changes, self.shift),
            "normalised": normalise(pixels, *self.statistics).permute(0, 2, 3, 1),
            "labels": self.train.labels[: len(index)].cpu(),
        }
        return {name: values.numpy() for name, values in samples.items()}


def digits(config: Config, options: RunOptions) -> Splits:
    """1,797 handwritten digits of 8x8, shipped here (digits.md: source and licence)."""
    path = Path(__file__).with_name("digits.npz")
    with np.load(path) as stored:
        images, labels = (torch.from_numpy(stored[name]) for name in ("images", "labels"))
    split = Split(labels.long(), images.unsqueeze(-1) * 15)  # 0 to 16 become 0 to 240
    return Splits(split, None, None, list("0123456789"), [path], path.parent, shift=1)


def cifar10(config: Config, options: RunOptions) -> Splits:
    """50,000 + 10,000 colour photographs of 32x32 (Krizhevsky 2009)."""
    folder = options.data_dir / "cifar-10-batches-py"
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
    files = [folder / name for name in names]
    if not all(file.exists() for file in files):
        _torchvision("CIFAR10", options.data_dir, "cifar-10-python.tar.gz")
    *batches, meta = (_unpickle(file) for file in files)

    def split(parts: list[dict]) -> Split:
        pixels = torch.from_numpy(np.concatenate([part[b"data"] for part in parts]))
        labels = torch.tensor([label for part in parts for label in part[b"labels"]])
        return Split(labels, pixels.view(-1, 3, 32, 32).permute(0, 2, 3, 1).contiguous())

    names = [name.decode() for name in meta[b"label_names"]]
    train, test = split(batches[:5]), split(batches[5:])
    return Splits(train, None, test, names, files, options.data_dir, shift=4, flip=True)


def fashion_mnist(config: Config, options: RunOptions) -> Splits:
    """60,000 + 10,000 grey pictures of clothes of 28x28 (Xiao et al. 2017)."""
    top = options.data_dir
    where = "FashionMNIST/raw/*-ubyte.gz (4 files)"
    parts = [_torchvision("FashionMNIST", top, where, train=train) for train in (True, False)]
    train, test = (Split(part.targets.long(), part.data.unsqueeze(-1)) for part in parts)
    files = sorted((top / "FashionMNIST" / "raw").glob("*-ubyte"))
    return Splits(train, None, test, list(parts[0].classes), files, top, shift=2, flip=True)


def folder(config: Config, options: RunOptions) -> Splits:
    """Your images: `--data-dir DIR`, in it train/<class>/*.png or jpg; else UserError."""
    top = options.data_dir
    images = {part: list(_find_images(top / part)) for part in ("train", "val", "test")}
    names = sorted({name for name, _ in images["train"]})
    other = {path.parent.name for path in top.glob("train/[!.]*/[!.]*")} - set(names)
    if len(names) < 2 or other:
        found = f"{top}/train has images of {names or 'none'}, not {sorted(other) or 'two classes'}"
        found = found if top.is_dir() else f"{top} is no folder"
        raise UserError(f"{found}; put those of every class at train/<class>/*.png or jpg")
    splits: dict[str, Split | None] = {}
    for part, found in images.items():
        if other := {name for name, _ in found} - set(names):
            raise UserError(f"{top}/train lacks {sorted(other)}, which {part} has; use equal names")
        labels = torch.tensor([names.index(name) for name, _ in found], dtype=torch.int64)
        paths = tuple(path for _, path in found)
        splits[part] = Split(labels, None, paths, config.image_size) if paths else None
    files = [path for split in splits.values() if split for path in split.paths]
    shift = config.image_size // 16
    # bytes of a channel: the image and its padded copy
    held = config.image_size**2 + (config.image_size + 2 * shift) ** 2
    if len(files) * held * 3 <= options.memory_limit_mb * 2**20:
        splits = {part: _into_memory(split) if split else None for part, split in splits.items()}
    return Splits(*splits.values(), names, files, top, shift=shift, flip=True)


DATASETS: dict[str, Callable[[Config, RunOptions], Splits]] = {
    "digits": digits,
    "cifar10": cifar10,
    "fashion_mnist": fashion_mnist,
    "folder": folder,
}


def load_splits(config: Config, options: RunOptions) -> Splits:
    """Read a data set; cut the splits that it lacks from its training images.

    Parameters
    ----------
    config : Config
        Its `dataset`, `split_seed` and `image_size` are used.
    options : RunOptions
        Its `data_dir` and `memory_limit_mb` are used; with `resume`, no image is checked.

    Returns
    -------
    Splits
        A missing test split gets 20% of the images, a missing validation split 10% of the rest.

    Raises
    ------
    UserError
        If there is no such data set, or its files are missing or damaged.
    """
    if config.dataset not in DATASETS:
        raise UserError(f"unknown data set {config.dataset!r}; choose from {', '.join(DATASETS)}")
    splits = DATASETS[config.dataset](config, options)
    generator = torch.Generator().manual_seed(config.split_seed % 2**64)  # no weight may move it
    for name, share in (("test", 0.2), ("validation", 0.1)):
        if getattr(splits, name) is None:
            order = torch.randperm(len(splits.train), generator=generator)
            size = max(1, round(share * len(order)))
            cut, rest = (splits.train.select(part) for part in (order[:size], order[size:]))
            splits = replace(splits, train=rest, **{name: cut})
    if not len(splits.train):
        raise UserError(f"{config.dataset} has too few images to be split; add some, or make val/")
    if options.resume is None:  # a damaged image shows now, not when hours are spent
        paths = [*splits.validation.paths, *splits.test.paths]
        for path in tqdm(paths, "check images", leave=False, disable=None):
            _read_image(path, config.image_size)
    return splits


def _find_images(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the class and the file of each image, but no hidden ones, such as macOS's ._1.png."""
    found = map(folder.joinpath, glob.glob("*/**/*", root_dir=folder, recursive=True))  # noqa: PTH207 - enters links
    for path in sorted(found, key=lambda path: path.parts):  # case, on Windows too
        suffix = path.suffix.lower()
        if suffix in REFUSED_SUFFIXES and path.is_file():
            raise UserError(f"{path} is neither png nor jpg; convert it, or put it elsewhere")
        if suffix in IMAGE_SUFFIXES:
            yield path.relative_to(folder).parts[0], path


def _read_image(path: Path, size: int) -> Tensor:
    """Read an image of any size and mode as uint8 (size, size, 3), cropped around its middle."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # of 16 bits: PIL would make all above 255 white
                image = Image.fromarray((np.array(image) >> 8).astype(np.uint8))
            square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is not a readable image; repair or remove it ({error})") from None
    return torch.from_numpy(np.array(square))


def _into_memory(split: Split) -> Split:
    """Read all images of a split."""
    paths = tqdm(split.paths, "read images", disable=None)
    return Split(split.labels, torch.stack([_read_image(path, split.image_size) for path in paths]))


def _torchvision(name: str, data_dir: Path, file: str, **options: Any) -> Any:
    """Let torchvision find, or fetch and check, one of its data sets."""
    import torchvision.datasets

    try:
        return getattr(torchvision.datasets, name)(data_dir, download=True, **options)
    except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
        why = f"{name} in {data_dir} is missing or damaged, and cannot be downloaded ({error})"
        way = f"copy {data_dir / file} from elsewhere, or use --dataset digits, which is built in"
        raise UserError(f"{why}; {way}") from None


class _ArraysOnly(pickle.Unpickler):
    """Reads CIFAR's pickles, and runs nothing else that a pickle may name."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module.partition('.')[0]}.{name}" in PICKLE_ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _unpickle(path: Path) -> dict:
    """Read one of CIFAR's files; its keys are bytes."""
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it, to download it again") from None

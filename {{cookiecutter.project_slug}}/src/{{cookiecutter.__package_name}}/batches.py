"""From a split to batches on the device: order, augmentation and normalisation by tensors."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .config import Config, UserError

EVALUATION_BATCH = 500  # fixed: another size could give other bits
CHUNK = 2**18  # bytes of pixels augmented at a time: quicker than many small batches


def draw_changes(count: int, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Draw from `generator` how `count` images are augmented: int64 of shape (count, 3).

    A row is (top, left, flip): where the crop begins, 0 to 2 `shift`, and 1 if it is mirrored.
    """
    places = torch.randint(0, 2 * shift + 1, (count, 2), generator=generator)
    flips = torch.randint(0, 2, (count, 1), generator=generator) * int(flip)
    return torch.cat([places, flips], dim=1)


def augment(pixels: Tensor, changes: Tensor, shift: int) -> Tensor:
    """Shift (up to `shift`) and flip `pixels`, uint8 (N, height, width, channels), by `changes`."""
    index = torch.arange(len(pixels), device=pixels.device)
    return _crop_and_flip(_crops(pixels, shift), index, changes)


def normalise(pixels: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Scale pixels to mean 0 and deviation 1 in each channel.

    Parameters
    ----------
    pixels : Tensor
        uint8 (N, height, width, channels), contiguous.
    mean, deviation : Tensor
        float32 (channels,), in units of a pixel's 0 to 255.

    Returns
    -------
    Tensor
        float32 (N, channels, height, width) in the memory format channels_last (not on mps).
    """
    width = pixels.shape[2]  # repeated over a row: a loop over 1 or 3 channels is slow
    scale, offset = (1 / deviation).repeat(width), (-mean / deviation).repeat(width)
    values = pixels.flatten(2).float().mul_(scale).add_(offset)  # addcmul takes 13 times as long
    images = values.view(pixels.shape).permute(0, 3, 1, 2)
    # see build_model; contiguous() would leave images of one channel as they are
    return images.clone(memory_format=torch.contiguous_format) if images.is_mps else images


class TrainingBatches:
    """The training images in random order, augmented, for one of a world's processes.

    Every process draws the same order and takes each `world.size`-th image of a batch: together
    they see what one process would see.

    Parameters
    ----------
    splits : Splits
        On `world.device`.
    config : Config
        Its `batch_size` (of all processes together) and `augment` are used.
    world : World
        Its `rank`, `size` and `device` are used.
    workers : int
        Processes that read files, if the images are not in memory.

    Raises
    ------
    UserError
        If the batch size is not possible.
    """

    def __init__(self, splits: Any, config: Config, world: Any, workers: int):
        self.split, self.batch_size = splits.train, config.batch_size
        self.world, self.workers = world, workers
        if config.batch_size % world.size or config.batch_size > len(splits.train):
            use = f"at most the {len(splits.train)} training images, divisible by the number of"
            raise UserError(f"--batch-size {config.batch_size}: use {use} processes, {world.size}")
        self.shift = splits.shift if config.augment else 0
        self.flip = splits.flip and config.augment
        self.statistics = [value.to(world.device) for value in splits.statistics]
        self.crops = None if self.split.pixels is None else _crops(self.split.pixels, self.shift)

    def __len__(self) -> int:
        return len(self.split) // self.batch_size

    def epoch(
        self, generator: torch.Generator, first_step: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one epoch's batches from `first_step` on; images that fill no batch are left out.

        What `generator` draws does not depend on `first_step`. Images have the shape (batch_size /
        size, channels, height, width), float32; labels (batch_size / size,), int64.
        """
        steps, device = len(self), self.world.device
        order = torch.randperm(len(self.split), generator=generator)[: steps * self.batch_size]
        changes = draw_changes(len(order), self.shift, self.flip, generator)
        mine = slice(self.world.rank, None, self.world.size)
        order = order.view(steps, self.batch_size)[:, mine]
        changes = changes.view(steps, self.batch_size, 3)[:, mine].to(device)
        if self.crops is None:
            order, changes = order[first_step:], changes[first_step:]
            batches = _read_ahead(self.split, list(order), self.workers, device)
            for index, change, pixels in zip(order, changes, batches, strict=True):
                images = normalise(augment(pixels, change, self.shift), *self.statistics)
                yield images, self.split.labels[index.to(device)]
            return
        size = order.shape[1]
        together = max(1, CHUNK // (size * self.crops[0, 0, 0].numel()))
        for start in range(first_step, steps, together):
            index = order[start : start + together].flatten().to(device)
            change = changes[start : start + together].flatten(0, 1)
            pixels = _crop_and_flip(self.crops, index, change, self.flip)
            images, labels = normalise(pixels, *self.statistics), self.split.labels[index]
            yield from zip(images.split(size), labels.split(size), strict=True)


def evaluation_batches(splits: Any, split: Any, world: Any, workers: int) -> Iterator[Tensor]:
    """Yield the images of a process of `world`: its share of `split`, in order.

    They have the shape of training images, and are normalised as `splits` says; `workers`
    processes read images that are not in memory.
    """
    statistics = [value.to(world.device) for value in splits.statistics]
    mine = torch.arange(len(split))[world.rank :: world.size]  # none, where ranks outnumber images
    indices = [index for index in mine.split(EVALUATION_BATCH) if len(index)]
    batches = map(split.read, indices)
    if split.pixels is None:
        batches = _read_ahead(split, indices, workers, world.device)
    for pixels in batches:
        yield normalise(pixels, *statistics)


def _crops(pixels: Tensor, shift: int) -> Tensor:
    """View every crop of the zero-padded images: (N, top, left, height, width, channels)."""
    padded = functional.pad(pixels, (0, 0, shift, shift, shift, shift)).contiguous()
    height, width = pixels.shape[1:3]
    return padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)


def _crop_and_flip(crops: Tensor, index: Tensor, changes: Tensor, flip: bool = True) -> Tensor:
    """Take the images at `index`, each at its own place, and with `flip` some of them flipped."""
    changes = changes.to(crops.device)
    pixels = crops[index, changes[:, 0], changes[:, 1]]
    if not flip:
        return pixels
    # the same as `where`, in a third of its time: bytes wrap, so that a + (b - a) is b
    flipped = changes[:, 2].to(torch.uint8)[:, None, None, None]
    return pixels + flipped * (pixels.flip(2) - pixels)


class _Files(torch.utils.data.Dataset):
    """Batches of images that worker processes read; for a damaged image, its error."""

    def __init__(self, split: Any):
        self.split = split

    def __getitem__(self, index: list[int]) -> Tensor | UserError:
        try:
            return self.split.read(torch.tensor(index))
        except UserError as error:
            return error


def _end_workers() -> None:
    """Kill workers left at exit: multiprocessing would only ask them to end, and wait."""
    for worker in multiprocessing.active_children():
        worker.kill()


def start_workers(loader: torch.utils.data.DataLoader) -> Iterator[Any]:
    """Start the workers of a `loader`; signals that a queue or a terminal sends do not end them.

    Training first saves, and then ends them itself.
    """
    atexit.unregister(_end_workers)
    atexit.register(_end_workers)
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return iter(loader)
    # what is blocked while they start stays so in them, from their first moment on
    sent = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, sent)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _read_ahead(
    split: Any, indices: list[Tensor], workers: int, device: torch.device
) -> Iterator[Tensor]:
    """Read batches of files; the number of workers changes the speed alone."""
    loader = torch.utils.data.DataLoader(
        _Files(split.to(torch.device("cpu"))),  # where workers are spawned, it is pickled
        batch_size=None,  # an item is a batch: each tensor from a worker keeps a file open
        sampler=[index.tolist() for index in indices],
        num_workers=workers,
        generator=torch.Generator(),  # making a loader must not move the global one
    )
    for pixels in start_workers(loader):
        if isinstance(pixels, UserError):
            raise pixels
        # elsewhere than on a GPU a copy that is not waited for may outlive its source
        cuda = device.type == "cuda"
        yield (pixels.pin_memory() if cuda else pixels).to(device, non_blocking=cuda)

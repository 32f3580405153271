"""Batches of 50,000 images of 32x32x3, cropped, flipped and normalised: ours and the usual way."""

from types import SimpleNamespace

import numpy as np
import torch
from common import generate, interleaved, machine, pictures
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

root = generate()
import train

BATCH, USUAL = 128, 10_000  # the usual way takes long: its rate is measured on fewer images
torch.set_num_threads(1)
pixels, labels = pictures()


class Usual(Dataset):
    """As in torchvision's CIFAR10 and the tutorials: a PIL image at a time."""

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
        ]
    )
    images, labels = pixels[:USUAL].numpy(), labels[:USUAL].tolist()

    def __len__(self):
        return USUAL

    def __getitem__(self, index):
        return self.transform(Image.fromarray(np.asarray(self.images[index]))), self.labels[index]


def usual(workers: int):
    """Go through the usual DataLoader once."""
    for _ in DataLoader(Usual(), batch_size=BATCH, shuffle=True, num_workers=workers):
        pass


splits = train.Splits(
    train.Split(labels, pixels), None, None, list("0123456789"), [], root, shift=4, flip=True
)
config = SimpleNamespace(batch_size=BATCH, augment=True)
world = SimpleNamespace(rank=0, size=1, device=torch.device("cpu"))
batches = train.TrainingBatches(splits, config, world, workers=0)


def ours():
    """Go through all batches once."""
    for _ in batches.epoch(torch.Generator().manual_seed(0)):
        pass


ours()
medians = interleaved({"0": lambda: usual(0), "2": lambda: usual(2), "ours": ours})
rates = {name: (50_000 if name == "ours" else USUAL) / value for name, value in medians.items()}
best = max(rates["0"], rates["2"])
print(machine())
print(f"usual, workers 0 / 2: {rates['0']:,.0f} / {rates['2']:,.0f} images/s")
print(f"ours: {rates['ours']:,.0f} images/s; ratio {rates['ours'] / best:.1f} (at least 12)")

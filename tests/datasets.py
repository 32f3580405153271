"""Small data sets in the formats that the real ones have on disk."""

import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def _pictures(count: int, size: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which the brightness of the upper half tells the class, 0 to 9."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, count)
    pixels = generator.integers(0, 60, (count, size, size, channels))
    pixels[:, : size // 2] += labels[:, None, None, None] * 19
    return pixels.astype(np.uint8), labels


def write_cifar10(folder: Path) -> None:
    """Write CIFAR-10's pickles of rows of 3,072 bytes, with few images in them."""
    top = folder / "cifar-10-batches-py"
    top.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        pixels, labels = _pictures(60, 32, 3, number)
        rows = pixels.transpose(0, 3, 1, 2).reshape(60, 3072)
        batch = {b"batch_label": name.encode(), b"labels": labels.tolist(), b"data": rows,
                 b"filenames": [b"x.png"] * 60}  # fmt: skip
        (top / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    meta = {b"label_names": [name.encode() for name in names], b"num_vis": 3072}
    (top / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))


def write_fashion_mnist(folder: Path) -> None:
    """Write Fashion-MNIST's four IDX files."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for seed, (part, count) in enumerate({"train": 300, "t10k": 60}.items()):
        pixels, labels = _pictures(count, 28, 1, seed)
        head = struct.pack(">4B3i", 0, 0, 8, 3, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        head = struct.pack(">4Bi", 0, 0, 8, 1, count)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.astype(np.uint8).tobytes())


def write_folder(folder: Path, parts: tuple[str, ...] = ("train",), count: int = 120) -> None:
    """Write a folder of PNG and JPEG files of mixed sizes and modes, two classes."""
    for number, part in enumerate(parts):
        pixels, labels = _pictures(count, 24, 3, number)
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            place = folder / part / ("bright" if label > 4 else "dark")
            place.mkdir(parents=True, exist_ok=True)
            mode = ("RGB", "L", "RGBA", "P")[index % 4]
            picture = Image.fromarray(image[: 16 + index % 8]).convert(mode)
            suffix = "png" if mode in ("RGBA", "P") or index % 3 else "jpg"
            picture.save(place / f"{index:03}.{suffix}")

"""What determinism, bf16, channels_last, the order of pooling and threads cost, an epoch each."""

import torch
from common import generate, interleaved, machine, pictures
from torch import nn
from torch.nn import functional

generate()
import train
from digits_lab.batches import normalise

COUNT, BATCH = 5_000, 128
pixels, labels = pictures(COUNT)
mean = deviation = torch.full((3,), 127.0)


def side(channels_last=True, bf16=False, deterministic=True, threads=1, relu_first=False):
    """Return a function that trains simple_cnn for one epoch on batches made before."""
    train.seeding.make_repeatable(deterministic, threads)
    model = train.build_model(train.Config(), (3, 32, 32), 10)
    if relu_first:
        layers = list(model)
        layers[2], layers[3], layers[6], layers[7] = layers[3], layers[2], layers[7], layers[6]
        model = nn.Sequential(*layers)
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=form)
    batches = [
        (normalise(part, mean, deviation).contiguous(memory_format=form), label)
        for part, label in zip(pixels.split(BATCH), labels.split(BATCH), strict=True)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def epoch():
        train.seeding.make_repeatable(deterministic, threads)
        for images, targets in batches:
            with torch.autocast("cpu", torch.bfloat16, bf16):
                loss = functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    epoch()
    return epoch


sides = {
    "the defaults": side(),
    "--no-deterministic": side(deterministic=False),
    "--amp bf16": side(bf16=True),
    "contiguous instead of channels_last": side(channels_last=False),
    "ReLU before pooling": side(relu_first=True),
    "--threads 2": side(threads=2),
}
medians = interleaved(sides)
print(machine())
for name, seconds in medians.items():
    print(f"{name}: {seconds:.2f} s, {seconds / medians['the defaults']:.2f} times the defaults")

"""Models by name; each takes the config, (channels, height, width) and the number of classes."""

from collections.abc import Callable

import torch
from torch import nn

from .config import Config, UserError


def simple_cnn(config: Config, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two blocks of convolution, batch norm, pooling and ReLU, then one linear layer.

    Maps images of `input_shape`, (channels, height, width), to logits of the given number of
    `classes`; ignores `config`. ReLU after pooling gives the same result from a quarter of the
    values. The last layer sees every position: where a stroke is tells a 6 from a 9.
    """
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), classes),
    )


def resnet18(config: Config, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-18 for small images of `input_shape`, (channels, height, width), and `classes` logits.

    It ignores `config`. Its first layer is 3x3, its first pooling left out (He et al. 2016, 4.2).
    """
    import torchvision  # 1.5 s that simple_cnn need not wait for

    model = torchvision.models.resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


MODELS: dict[str, Callable[[Config, tuple[int, int, int], int], nn.Module]] = {
    "simple_cnn": simple_cnn,
    "resnet18": resnet18,
}


def build_model(config: Config, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Make a model with fresh weights from PyTorch's global generator.

    Parameters
    ----------
    config : Config
        Its `model` is a key of `MODELS`.
    input_shape : tuple of int
        (channels, height, width).
    classes : int
        The number of logits.

    Returns
    -------
    nn.Module
        float32 (N, channels, height, width) -> (N, classes), in the memory format channels_last
        (not on mps).

    Raises
    ------
    UserError
        If there is no such model.
    """
    if config.model not in MODELS:
        raise UserError(f"unknown model {config.model!r}; choose from {', '.join(sorted(MODELS))}")
    model = MODELS[config.model](config, input_shape, classes)
    # on mps, PyTorch 2.13 cannot train batch norm so (pytorch/pytorch, issue 188371)
    return model if config.device == "mps" else model.to(memory_format=torch.channels_last)


def copy_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of the weights of `model`, each of its own shape."""
    return {name: value.clone() for name, value in model.state_dict().items()}

"""Every value that changes a number, and the command line made from them."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

ROOT = Path(__file__).resolve().parents[2]  # notebooks run elsewhere, so never the working folder
MINIMUM = {"epochs": 1, "batch_size": 1, "threads": 1, "image_size": 8, "workers": 0,
           "stop_after_epochs": 1, "checkpoint_minutes": 0, "learning_rate": 1e-12,
           "weight_decay": 0, "seed": 0, "split_seed": 0, "memory_limit_mb": 0}  # fmt: skip


class UserError(Exception):
    """The user's request cannot be done; the message is one line that names the remedy."""


@dataclass(frozen=True)
class Config:
    """Settings that change results. A new hyperparameter is one line here.

    Its type is one that JSON can hold: a number, text, a truth value, or a tuple of these. Keep
    `dataset`, `model`, `epochs`, `seed`, `threads` and `device`, which `lab` reads.
    """

    dataset: str = "digits"  # a key of DATASETS (data.py): digits, cifar10, fashion_mnist, folder
    model: str = "simple_cnn"  # a key of MODELS (models.py): simple_cnn, resnet18
    epochs: int = 30
    batch_size: int = 64  # global, split across processes
    learning_rate: float = 0.01  # peak of the one-cycle schedule
    weight_decay: float = 0.01
    augment: bool = True  # random shifts, and flips where they keep the meaning
    seed: int = 42  # seeds weights, batch order and augmentation
    split_seed: int = 0  # seeds the split, if the data set has no validation or test images
    image_size: int = 64  # folder: images are scaled and cropped to this square
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda if there is one, else cpu
    amp: Literal["none", "bf16"] = "none"  # automatic mixed precision
    deterministic: bool = True  # refuse operations whose results differ from run to run
    threads: int = 1  # PyTorch's threads on the CPU; another number changes results


@dataclass(frozen=True)
class RunOptions:
    """Settings that change no result."""

    data_dir: Path = ROOT / "data"  # of the data sets; for folder it holds train/<class>/*.png
    runs_dir: Path = ROOT / "runs"
    checkpoint_minutes: float = 5.0  # a killed run loses at most this, and one step
    stop_after_epochs: int | None = None  # save and stop after this many epochs in all
    resume: Annotated[str | None, tyro.conf.arg(metavar="RUN|latest")] = None  # the run to continue
    memory_limit_mb: int = 4096  # folder: above this, images are read during training
    workers: int = 2  # processes that read images during training


@dataclass(frozen=True)
class _Arguments:
    """Train a model, and keep the run as a record."""

    config: tyro.conf.OmitArgPrefixes[Config] = field(default_factory=Config)
    run: tyro.conf.OmitArgPrefixes[RunOptions] = field(default_factory=RunOptions)


def parse_arguments(
    argv: list[str] | None = None, base: Config | None = None, data_dir: Path = RunOptions.data_dir
) -> tuple[Config, RunOptions]:
    """Read the command line of `train.py`.

    Parameters
    ----------
    argv : list of str, optional
        By default the arguments of the process.
    base : Config, optional
        Defaults of the flags.
    data_dir : Path, optional
        Default of `--data-dir`.

    Returns
    -------
    config : Config
        What changes numbers.
    options : RunOptions
        With absolute paths.

    Raises
    ------
    UserError
        If a number is out of range. (A wrong flag ends the process with exit code 2.)
    """
    default = _Arguments(base or Config(), RunOptions(data_dir=data_dir))
    parsed = tyro.cli(_Arguments, prog="train.py", args=argv, default=default)
    given = vars(parsed.config) | vars(parsed.run)
    for name, value in given.items():
        smallest = MINIMUM.get(name, -1e308)  # JSON has no infinity
        if isinstance(value, int | float) and not smallest <= value < float("inf"):
            use = f"{smallest} or more" if name in MINIMUM else "a finite number"
            raise UserError(f"--{name.replace('_', '-')} {value} is out of range; use {use}")
    paths = {name: given[name].expanduser().absolute() for name in ("data_dir", "runs_dir")}
    return parsed.config, dataclasses.replace(parsed.run, **paths)


def take_recorded(
    argv: list[str] | None, recorded: dict[str, Any], data_dir: Path
) -> tuple[Config, RunOptions]:
    """Use the recorded values of a run that is resumed or shown; refuse other flags.

    Parameters
    ----------
    argv : list of str or None
        The arguments that were given now.
    recorded : dict
        The run's `config.json`; a field that it lacks takes its default.
    data_dir : Path
        Where its data is.

    Returns
    -------
    config : Config
        The recorded values.
    options : RunOptions
        Those given now.

    Raises
    ------
    UserError
        If a flag given now differs (all are named), or `Config` lacks a recorded field.
    """
    if unknown := recorded.keys() - vars(Config()).keys():
        raise UserError(f"Config lacks {', '.join(sorted(unknown))}, which the run has; restore it")
    tuples = {name for name, value in vars(Config()).items() if isinstance(value, tuple)}
    base = Config(**{k: tuple(v) if k in tuples else v for k, v in recorded.items()})
    config, options = parse_arguments(argv, base, data_dir)
    differing = [
        f"--{'no-' if new is False else ''}{name.replace('_', '-')}"
        f"{'' if isinstance(new, bool) else f' {new}'} (recorded: {old})"
        for name, old in vars(base).items()
        if (new := getattr(config, name)) != old and (name, new) != ("device", "auto")  # fits any
    ]
    if differing:
        raise UserError(f"a run keeps the values that it began with; drop {', '.join(differing)}")
    return base, options

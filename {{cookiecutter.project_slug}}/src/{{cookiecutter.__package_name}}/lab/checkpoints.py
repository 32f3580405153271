"""The state of a run on disk, and the signals on which it is saved."""

import contextlib
import errno
import os
import pickle
import signal
import sys
import threading
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO

from .project import LabError

DAMAGED = (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile,
           pickle.UnpicklingError)  # fmt: skip
# a queue, a person or Jupyter, Slurm's warning, a terminal or a connection that closes
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")


class StopSignals(contextlib.ExitStack):
    """While it is entered, a signal asks the run to save and stop instead of killing it."""

    received = 0  # the signal's number

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]:
                # nohup's stays; not that of a script's `&`, or Ctrl-C would leave it training
                if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN:
                    self.callback(signal.signal, number, signal.signal(number, self._note))
        return self

    def _note(self, number: int, _frame: object) -> None:
        """Remember the signal; the loop looks after every step."""
        self.received = int(number)


@dataclass
class Checkpoints:
    """Saves the state of a run now and then, and keeps other processes from training it."""

    folder: Path  # the run's
    minutes: float  # between two checkpoints; at most these, and one step, are lost
    stop: StopSignals  # leaving it opens the run to other processes

    def __post_init__(self) -> None:
        self._last = time.monotonic()
        self.stop.callback(_lock(self.folder).close)  # a notebook's process outlives the run

    def due(self) -> bool:
        """Say whether the time for the next checkpoint has come."""
        return time.monotonic() - self._last >= self.minutes * 60

    def save(self, state: dict[str, Any], best: dict[str, Any]) -> None:
        """Write `checkpoint.pt` and `best.pt`; the one before stays as `checkpoint.previous.pt`.

        Parameters
        ----------
        state : dict
            Tensors, numbers, strings, lists and dictionaries alone.
        best : dict of str to Tensor
            The weights of the best epoch; empty before the first is complete.
        """
        current = self.folder / "checkpoint.pt"
        scratch = _write(current, state)
        if current.exists():
            os.replace(current, self.folder / "checkpoint.previous.pt")
        os.replace(scratch, current)
        if best:
            os.replace(_write(self.folder / "best.pt", best), self.folder / "best.pt")
        if os.name == "posix":  # the new names outlive a power failure, where the system can
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self._last = time.monotonic()


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Read the newest checkpoint in `folder` that is whole.

    Tensors come to the CPU; it is `None` where no checkpoint can be read.
    """
    import torch

    for path in filter(Path.exists, (folder / "checkpoint.pt", folder / "checkpoint.previous.pt")):
        try:
            with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
                if archive.testzip():
                    raise zipfile.BadZipFile("a checksum differs")
            # weights_only: a file from a stranger runs no code
            return torch.load(path, map_location="cpu", weights_only=True)
        except DAMAGED as error:
            reason = (str(error) or repr(error)).splitlines()[0]
            print(f"{path} is damaged and is left out: {reason}", file=sys.stderr)
    return None


def _lock(folder: Path) -> TextIO:
    """Keep other processes from a run until the returned file is closed or this process ends."""
    file = (folder / ".lock").open("a")
    with contextlib.suppress(ImportError):  # Windows: two processes are the user's own care
        import fcntl

        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: workers would hold it
        except OSError as error:  # other errors: a file system that has no locks
            if error.errno in (errno.EAGAIN, errno.EACCES):
                why = f"another process trains {folder.name}; stop it, or name another run"
                raise LabError(f"{why} (if there is none, remove {file.name})") from None
    return file


def _write(path: Path, state: dict[str, Any]) -> Path:
    """Write a file beside `path`, wait until the disk has it, and return where it lies."""
    import torch

    scratch = path.with_name(f"{path.name}.new")
    try:
        with scratch.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if refused := torch.serialization.get_unsafe_globals_in_checkpoint(scratch):
            raise LabError(f"a checkpoint cannot hold {refused[0]}; convert it by float(...)")
    except BaseException as error:
        scratch.unlink(missing_ok=True)
        if isinstance(cause := error.__context__, OSError):  # torch hides it behind its own error
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise
    return scratch

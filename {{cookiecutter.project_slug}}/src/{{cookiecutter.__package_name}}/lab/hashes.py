"""Fingerprints: of the data that a run read, and of the weights that came out."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cards import read_json
from .project import write_whole


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file at `path` in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(files: Iterable[Path], folder: Path, cache: Path) -> str:
    """Hash the names and contents of a data set's files, in the order of names.

    Parameters
    ----------
    files : iterable of Path
        Below `folder`; of others, such as weights that are loaded, the bare name counts.
    folder : Path
        What names are relative to, so that a data set that moved stays the same.
    cache : Path
        Remembers hashes by path, size and time, so that a large folder is read once.

    Returns
    -------
    str
        sha256, in hexadecimal digits.
    """
    known, total, fresh = read_json(cache), hashlib.sha256(), {}
    names = {
        path: path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
        for path in files
    }
    # by parts: Windows would ignore case
    for path, name in sorted(names.items(), key=lambda one: one[1].parts):
        status = path.stat()
        # an archive may give a changed file the size and time of the one before
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"
        digest = known.get(key)
        if not isinstance(digest, str):
            digest = fresh[key] = sha256(path)
        total.update(os.fsencode(name.as_posix()) + f"\0{digest}\n".encode())
    if fresh:
        write_whole(cache, json.dumps(known | fresh))
    return total.hexdigest()


def weights_sha256(state_dict: dict[str, Any]) -> str:
    """Hash weights: for each key in sorted order its name, dtype, shape and raw bytes.

    That is a line such as `fc.weight torch.float32 (10, 64)`, a line end, and the bytes.

    Parameters
    ----------
    state_dict : dict of str to Tensor
        Of the model itself, not of a wrapper.

    Returns
    -------
    str
        In hexadecimal digits.
    """
    import torch

    total = hashlib.sha256()
    for name, value in sorted(state_dict.items()):
        value = value.detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()

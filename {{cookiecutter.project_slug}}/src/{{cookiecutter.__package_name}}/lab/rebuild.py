"""Build a recorded environment again: pip's packages by version, conda's by address and hash."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from .locks import run
from .packages import canonical
from .project import LabError, write_whole

CONDA = ("conda", "mamba", "micromamba")
INSTALLERS = ("pip", "setuptools", "wheel")


def rebuild(recorded: dict[str, Any], own: str, folder: Path) -> str:
    """Build the environment of a record, as `recorded`, in `folder`; return its Python.

    The project's `own` package comes from the record's code instead. A folder that was built
    from the same list is used again. LabError if it holds something else, or an installer or a
    package is missing.
    """
    folder = folder.absolute()
    listed = recorded.get("packages") or []
    packages = [one for one in listed if canonical(one["name"]) != canonical(own)]
    for package in packages:
        if package.get("editable"):
            raise LabError(f"{package['name']} was installed from a folder: it cannot be fetched")
    conda = [package for package in packages if package["manager"] == "conda"]
    windows = "python.exe" if conda else "Scripts/python.exe"
    python = folder / (windows if os.name == "nt" else "bin/python")
    marker = folder / "lab-rebuilt.json"
    wanted = json.dumps([recorded.get("python"), packages])
    if marker.exists() and marker.read_text(encoding="utf-8") == wanted:
        return str(python)
    if folder.exists() and any(folder.iterdir()):
        raise LabError(f"{folder} holds something else; name a folder that is not there yet")
    print(f"building the environment of {len(packages)} packages in {folder}", file=sys.stderr)
    try:
        if conda:
            _conda(conda, folder)
        else:
            _venv(recorded.get("python", ""), folder)
        _pip([package for package in packages if package["manager"] == "pip"], python)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    write_whole(marker, wanted)
    return str(python)


def _venv(version: str, folder: Path) -> None:
    """Make a virtual environment with the recorded Python, to its minor version."""
    minor = ".".join(version.split(".")[:2])
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    program = sys.executable if minor == here else shutil.which(f"python{minor}")
    if program is None:
        raise LabError(f"the record was made with Python {version}; install Python {minor}")
    run(Path.cwd(), program, "-m", "venv", folder)


def _conda(packages: list[dict[str, Any]], folder: Path) -> None:
    """Install conda's packages from their addresses, checked by their hashes."""
    tool = next((found for found in map(shutil.which, CONDA) if found), None)
    if tool is None:
        raise LabError(f"the record has packages of conda; install one of {', '.join(CONDA)}")
    lines = ["@EXPLICIT"]
    for package in packages:
        if not package.get("url"):
            raise LabError(f"the record has no address of {package['name']}; it was built here")
        digest = package.get("md5") or package.get("sha256") or ""
        lines.append(f"{package['url']}#{digest}".rstrip("#"))
    listing = folder.with_name(f".{folder.name}-explicit.txt")
    write_whole(listing, "\n".join(lines) + "\n")
    try:
        run(Path.cwd(), tool, "create", "--yes", "--prefix", folder, "--file", listing)
    finally:
        listing.unlink(missing_ok=True)


def _pip(packages: list[dict[str, Any]], python: Path) -> None:
    """Install pip's packages in exactly the recorded versions, and nothing else."""
    pinned, fetched = "{name}=={version}", "{name} @ {source}"
    packages = [one for one in packages if one["name"] not in INSTALLERS]
    wanted = [(fetched if "source" in one else pinned).format(**one) for one in packages]
    if wanted:
        listing = python.with_name("requirements.txt")
        write_whole(listing, "\n".join(wanted) + "\n")
        run(Path.cwd(), python, "-m", "pip", "install", "--no-deps", "--requirement", listing)

"""Lock files: what the project asks for, as exact versions, builds and hashes."""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

import yaml

from .packages import packages
from .project import LabError, call, write_whole

PLATFORMS = ("linux-64", "osx-arm64", "win-64")
SOURCES = {"requirements.lock": "pyproject.toml", "conda-lock.yml": "environment.yml"}
SOURCES |= {f"conda-{platform}.lock": "environment.yml" for platform in PLATFORMS}
SOURCES |= {"conda-linux-64-gpu.lock": "environment-gpu.yml"}
UV = "--extra=dev --universal --generate-hashes --no-header --output-file=requirements.lock"
CPU = "--file=environment.yml --kind=lock --without-cuda"
GPU = "--file=environment-gpu.yml --lockfile=gpu.yml --with-cuda=12.9 --platform=linux-64"
WORDS = {  # what solvers print, and what it means; the first that fits
    r"pytorch-gpu[\s\S]*__cuda|found for pytorch-gpu": "CUDA is asked for and there is no NVIDIA"
    " driver; use environment.yml, or set CONDA_OVERRIDE_CUDA=12.9 if the driver comes later",
    r"error sending request|HTTP 000|Could not resolve|[Cc]onnection|Failed to fetch|in channel '":
    "a channel or index is out of reach; check network, proxy and `channels` in environment.yml",
    r"(?:No candidates were found for |from current channels:\s+- |─ )([\w.-]+[ =]?[^\s*]*?)"
    r"(?:\.\*)?(?:\.?\n|[ *]+does not exist)": "there is no {0}; fix its name or loosen its pin",
    # uv breaks its lines anywhere
    r"Because\s+(?:only\s[^;]+?\sis\s+available\s+and\s+\S+\s+depends\s+on\s|there\s+is\s+no\s+"
    r"version\s+of\s|(?=\S+\s+was\s+not\s+found))\s*([^\s,]+)": "there is no {0}; fix its name or"
    " loosen its pin",
    r"depends\s+on\s+(\S+)\s+and\s+(\S+),\s+we\s+can\s+conclude\s+that\s+your\s+requirements":
    "{0} and {1} exclude each other; loosen one of the two",
    r"(\w\S* \S+).*? (?:would require|requires)\W+([\w.-]+ \S+?)(?: \S+)?,? (?:for|but|which)":
    "{0} needs {1}, which another pin excludes; loosen one of the two",
}  # fmt: skip


def explain(said: str) -> str:
    """Say in plain words what conda, mamba, rattler or uv `said`: cause and remedy.

    For an unknown message it returns the end.
    """
    for pattern, words in WORDS.items():
        if found := re.search(pattern, said + "\n"):
            return words.format(*found.groups())
    return " ".join(said.split()[-40:]) or "the solver failed and said nothing"


def asked(root: Path, source: str) -> dict:
    """Read what a `source` in `root` asks to be installed; LabError if it cannot be read.

    That is `pyproject.toml` or an `environment.yml`.
    """
    try:
        text = (root / source).read_text(encoding="utf-8")
        read = tomllib.loads(text)["project"] if source.endswith("toml") else yaml.safe_load(text)
        keys = ("channels", "dependencies", "optional-dependencies", "requires-python")
        return {key: read[key] for key in keys if key in read}
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise LabError(f"{source} cannot be read: {' '.join(str(error).split())}") from None


def _header(root: Path, source: str) -> str:
    """Return a lock's first line: its source and the hash of what that asks for."""
    digest = hashlib.sha256(json.dumps(asked(root, source), sort_keys=True).encode()).hexdigest()
    return f"# `lab lock` made this from {source}, input sha256:{digest}\n"


def stale(root: Path) -> dict[str, bool]:
    """Return, for each lock file in `root` by its name, whether its source has changed since."""
    return {
        name: not (root / name).read_text("utf-8", "replace").startswith(_header(root, source))
        for name, source in SOURCES.items()
        if (root / name).is_file()
    }


def run(folder: Path, *command: str | Path) -> None:
    """Run a solver or an installer's `command` in `folder`; LabError, in one line, if it fails."""
    if not shutil.which(command[0]):
        raise LabError(f"{command[0]} is not installed; run `pip install uv`")
    done = call(command, cwd=folder)
    if done.returncode:
        raise LabError(explain(done.stdout + done.stderr))


def _lock_pip(root: Path, folder: Path) -> None:
    """Resolve for every platform, from the index's metadata: no package is downloaded.

    What is installed is preferred, where it is allowed: it is what the results were made with.
    """
    pins = (f"{one['name']}=={one['version'].partition('+')[0]}\n" for one in packages())
    (folder / "requirements.lock").write_text("".join(pins), encoding="utf-8")
    least = re.search(r"\d[\d.]*", asked(root, "pyproject.toml").get("requires-python", "3.11"))
    python = ("--python", sys.executable, "--python-version", least[0])
    run(folder, "uv", "pip", "compile", root / "pyproject.toml", *python, *UV.split())


def _lock_conda(root: Path, folder: Path) -> str | None:
    """Solve both environment files by conda-lock and the conda that is installed."""
    names = os.environ.get("CONDA_EXE"), os.environ.get("MAMBA_EXE"), "conda", "mamba", "micromamba"
    conda = next((found for name in names if name and (found := shutil.which(name))), None)
    if conda is None:
        return "no conda, mamba or micromamba is installed, and conda-lock needs one of them"
    for name in ("environment.yml", "environment-gpu.yml"):
        stated = asked(root, name)  # less what pip installs: the project itself
        stated["dependencies"] = [one for one in stated["dependencies"] if isinstance(one, str)]
        (folder / name).write_text(yaml.safe_dump(stated), encoding="utf-8")
    tool = "conda-lock" if shutil.which("conda-lock") else "uv tool run conda-lock@4.0.3"
    command = [*tool.split(), "lock", f"--conda={conda}", "--kind=explicit"]
    run(folder, *command, *CPU.split(), *(f"--platform={one}" for one in PLATFORMS))
    return run(folder, *command, *GPU.split(), "--filename-template=conda-{platform}-gpu.lock")


def lock(root: Path, check: bool) -> int:
    """Write the lock files in `root`; with `check` only say whether they fit their sources.

    Returns 1 if one is out of date, or could not be made.
    """
    if check:
        found = stale(root)
        for name, old in found.items():
            where = f"::error file={name}::" if old and "GITHUB_ACTIONS" in os.environ else ""
            says = f"{SOURCES[name]} has changed since; run `lab lock`" if old else "up to date"
            print(f"{where}{name}: {says}")
        if not found:
            print("no lock files yet; `lab lock` writes them")
        return int(any(found.values()))
    code = 0
    conda = (_lock_conda, "conda-lock.yml", ("environment.yml", "environment-gpu.yml"))
    for make, name, asks in ((_lock_pip, "requirements.lock", ("pyproject.toml",)), conda):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                # as they are now: solving takes minutes
                first = {one: _header(root, one) for one in asks if (root / one).exists()}
                lacking = make(root, Path(scratch))
            except LabError as error:
                lacking, code = str(error), 1
            if lacking:
                print(f"{name}: not written: {lacking}")
                continue
            for made in sorted(SOURCES.keys() & {path.name for path in Path(scratch).iterdir()}):
                text = (Path(scratch) / made).read_text(encoding="utf-8")
                write_whole(root / made, first[SOURCES[made]] + text)
                print(f"{made}: written")
    return code

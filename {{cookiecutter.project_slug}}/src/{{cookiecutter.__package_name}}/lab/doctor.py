"""What is wrong with this checkout and this machine, and the commands that mend it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from jupyter_core.paths import jupyter_path
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from . import environment, guard, locks, setup
from .project import LabError, git, package_of, project_env

Finding = tuple[str, str, str]  # "ok", "note" or "mend"; what was seen; the command that mends it
CONDA = (Path(sys.prefix) / "conda-meta").is_dir()
UV_TORCH = "uv pip install --reinstall --torch-backend=auto torch torchvision"
FREE_GB = 2  # checkpoints of a few ResNet-18 runs
DATA = {"cifar10": "cifar-10-batches-py", "fashion_mnist": "FashionMNIST/raw"}
TORCH = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"


def _git(root: Path, _deep: bool) -> Iterator[Finding]:
    top = git(root, "rev-parse", "--show-toplevel", check=False).stdout.strip()
    if not top or Path(top).resolve() != root.resolve():
        yield "mend", "the project is not a git repository of its own", "lab setup"
        return
    problems = setup.problems(root) + guard.dirty_history(root)
    yield from (("mend", *problem) for problem in problems)
    if not problems:
        yield "ok", "repository, hooks, notebook filter and merge driver", ""


def _python(root: Path, _deep: bool) -> Iterator[Finding]:
    asked = re.search(r"python=([\d.]+)", (root / "environment.yml").read_text(encoding="utf-8"))
    here = ".".join(map(str, sys.version_info[:3]))
    if asked and not f"{here}.".startswith(f"{asked[1]}."):
        state, command = ("mend", _renew("environment.yml")) if CONDA else ("note", "")
        yield state, f"{here}, where environment.yml says {asked[1]}", command
    else:
        yield "ok", f"{here} in {sys.prefix}", ""


def _renew(source: str) -> str:
    """Return the command that brings the environment to what a file says."""
    if source.endswith(".lock"):
        return f"{'conda install --file' if CONDA else 'pip install --require-hashes -r'} {source}"
    return f"conda env update --file {source} --prune" if CONDA else 'pip install -e ".[dev]"'


def _locked(path: Path) -> dict[str, tuple[str, str, str]]:
    """Read version, build and hash by name from an explicit or a requirements lock."""
    text = path.read_text(encoding="utf-8")
    if not CONDA:
        lines = [Requirement(line.rstrip("\\ ")) for line in re.findall(r"(?m)^\w.*", text)]
        here = [one for one in lines if not one.marker or one.marker.evaluate()]
        return {canonicalize_name(one.name): (str(one.specifier)[2:], "", "") for one in here}
    parts = r"(?m)/([^/]+)-([^-/]+)-([^-/]+?)(?:\.conda|\.tar\.bz2)#(?:sha256:)?(\w+)$"
    return {canonicalize_name(name): tuple(rest) for name, *rest in re.findall(parts, text)}


def _against_lock(path: Path, live: dict[str, dict], own: str) -> Iterator[Finding]:
    """Name what is missing, extra, of another version, build or hash."""
    locked = _locked(path)
    for name, (version, build, digest) in locked.items():
        one = live.get(name, {"version": None})
        found = ""
        if one["version"] != version:
            found = f"{name} is {one['version'] or 'missing'}, not {version}"
        elif build and one.get("build") != build:
            found = f"{name} {version} is build {one.get('build')}, not {build}"
        elif digest and digest not in (one.get("sha256"), one.get("md5")):
            found = f"{name} {version} has another hash than in the lock"
        if found:
            yield "mend", found, _renew(path.name)
    for name in sorted(live.keys() - locked.keys() - {own, "pip", "setuptools", "wheel"}):
        yield "note", f"extra: {name} {live[name]['version']}", ""


def _against_ranges(root: Path, source: str, live: dict[str, dict]) -> Iterator[Finding]:
    """Name what is missing or of a version that is not allowed, where there is no lock."""
    for asked in locks.asked(root, source)["dependencies"]:
        if not isinstance(asked, str):
            continue  # what conda hands to pip: this project
        name, versions = re.fullmatch(r"([\w.-]+)\s*(.*)", asked).groups()
        allowed = SpecifierSet(re.sub(r"^=([\d.]+)$", r"==\1.*", versions))  # conda's =2.4
        version = live.get(canonicalize_name(name), {}).get("version")
        if version is None or not allowed.contains(version, prereleases=True):
            yield "mend", f"{name} is {version or 'missing'}, not {versions}", _renew(source)


def _environment(root: Path, deep: bool) -> Iterator[Finding]:
    live = {canonicalize_name(one["name"]): one for one in environment.packages()}
    source, lock = "pyproject.toml", "requirements.lock"
    if CONDA:
        gpu = "-gpu" if "cuda" in live.get("pytorch", {}).get("build", "") else ""
        source, lock = "environment.yml", f"conda-{live['python']['subdir']}{gpu}.lock"
    found = list(_against_ranges(root, source, live))
    if (root / lock).is_file():
        source = lock
        found = list(_against_lock(root / lock, live, canonicalize_name(package_of(root))))
    yield from found
    if all(state == "note" for state, *_ in found):
        yield "ok", f"{len(live)} packages, as {source} says", ""
    for name in (name for name, old in locks.stale(root).items() if old):
        yield "mend", f"{name} is older than {locks.SOURCES[name]}", "lab lock"
    for name in dict.fromkeys(name for name, _, _ in environment.damaged(deep)):
        one = live[canonicalize_name(name)]
        command = f"pip install --force-reinstall --no-deps {name}=={one['version']}"
        if one["manager"] == "conda":
            command = f"conda install --force-reinstall {name}={one['version']}"
        yield "mend", f"installed files of {name} were changed", command


def _gpu(root: Path, _deep: bool) -> Iterator[Finding]:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        yield "ok", "no NVIDIA driver here: training runs on the CPU (on a Mac on its GPU)", ""
        return
    said = []
    for argv in (
        [smi, "--query-gpu=name,driver_version", "--format=csv,noheader"],
        [sys.executable, "-c", TORCH],  # imported there, and only where there is a GPU
    ):
        options = {"capture_output": True, "encoding": "utf-8", "env": project_env(root)}
        said.append(subprocess.run(argv, check=False, timeout=60, **options).stdout.strip())
    card = said[0].split("\n")[0].replace(", ", ", driver ")
    version, cuda, works = (*said[1].split(), "", "", "")[:3]
    renew = "conda env update --file environment-gpu.yml" if CONDA else UV_TORCH
    if cuda == "None":
        yield "mend", f"torch {version} is a CPU build, and this machine has {card}", renew
    elif works != "True":
        yield "mend", f"torch {version} for CUDA {cuda} cannot use {card}: driver too old?", renew
    else:
        yield "ok", f"{card}; torch {version} for CUDA {cuda}", ""


def _quota(groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many cores a container may keep busy, by cgroup version 2 or 1."""
    names = ("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
    for files in names:
        if all((groups / name).is_file() for name in files):
            texts = [(groups / name).read_text(encoding="ascii") for name in files]
            limit, period = " ".join(texts).split()
            return math.inf if limit in ("max", "-1") else max(1, int(limit) // int(period))
    return math.inf


def _threads(_root: Path, _deep: bool) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = int(os.environ.get("OMP_NUM_THREADS", str(cores)).split(",")[0])
    may = min(cores or 1, _quota())
    if threads > may:
        text = f"NumPy and PyTorch take {threads} threads on {may} cores: several times slower"
        yield "mend", text, f"{'set' if os.name == 'nt' else 'export'} OMP_NUM_THREADS={may}"
    else:
        yield "ok", f"{threads} threads on {may} cores (train.py: --threads, by default 1)", ""


def _disk(root: Path, _deep: bool) -> Iterator[Finding]:
    free = shutil.disk_usage(root).free / 1e9
    low = free < FREE_GB
    yield "mend" if low else "ok", f"{free:.1f} GB free", "lab runs  # delete some" if low else ""


def _data(root: Path, _deep: bool) -> Iterator[Finding]:
    here = [name for name, folder in DATA.items() if (root / "data" / folder).is_dir()]
    absent = ", ".join(sorted(DATA.keys() - set(here)))
    fetched = f"; fetched when first asked for: {absent}" if absent else ""
    yield "ok", f"{', '.join(['digits (built in)', *here])}{fetched}", ""


def _kernel(_root: Path, _deep: bool) -> Iterator[Finding]:
    jupyter = shutil.which("jupyter")
    if jupyter and not Path(jupyter).is_relative_to(sys.prefix):
        text = f"`jupyter` is {jupyter}, of another environment: notebooks would run in that"
        yield "mend", text, "python -m jupyter lab"
    specs = (Path(folder) / "python3" / "kernel.json" for folder in jupyter_path("kernels"))
    spec = next((path for path in specs if path.is_file()), None)
    starts = json.loads(spec.read_text(encoding="utf-8"))["argv"][0] if spec else "python"
    if Path(starts).is_absolute() and not Path(starts).is_relative_to(sys.prefix):
        text = f"the kernel python3 ({spec}) starts {starts}, of another environment"
        yield "mend", text, "python -m ipykernel install --sys-prefix"
    else:
        yield "ok", "the kernel python3 is of this environment", ""


def doctor(root: Path, deep: bool, as_json: bool) -> int:
    """Say what is wrong and which command mends it.

    Parameters
    ----------
    root : Path
        The project's root.
    deep : bool
        Compare installed files by hash, and look into the notebooks of the last commit.
    as_json : bool
        Print a list of findings for scripts.

    Returns
    -------
    int
        0 if nothing must be mended, else 1.
    """
    answer = []
    for check in (_git, _python, _environment, _gpu, _threads, _disk, _data, _kernel):
        try:
            findings = list(check(root, deep))
        except (LabError, OSError, ValueError, LookupError) as error:
            findings = [("mend", f"this could not be asked: {error}", "")]
        for (state, mend), alike in groupby(findings, key=lambda one: (one[0], one[2])):
            found = [text for _, text, _ in alike]
            row = {"check": check.__name__[1:], "state": state, "found": found, "mend": mend}
            answer.append(row)
    for row in [] if as_json else answer:
        more = f"; and {len(row['found']) - 3} more" if len(row["found"]) > 3 else ""
        print(f"{row['state']:5}{row['check']:12}{'; '.join(row['found'][:3])}{more}")
        if row["mend"]:
            print(f"{'':17}-> {row['mend']}")
    if as_json:
        print(json.dumps(answer, indent=1, ensure_ascii=False))
    return int(any(row["state"] == "mend" for row in answer))

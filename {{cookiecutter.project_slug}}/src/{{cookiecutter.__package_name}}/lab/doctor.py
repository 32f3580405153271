"""What is wrong with this checkout and this machine, and the commands that mend it."""

import importlib.util
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
from packaging.markers import Marker
from packaging.requirements import Requirement

from . import environment, guard, locks, setup
from .packages import canonical
from .project import LabError, call, git, package_of, project_env

Finding = tuple[str, str, str]  # "ok", "note" or "mend"; what was seen; the command that mends it
CONDA = (Path(sys.prefix) / "conda-meta").is_dir()
UV_TORCH = "uv pip install --torch-backend=auto --reinstall-package=torch"
UV_TORCH += ' --reinstall-package=torchvision -e ".[dev]"'
FREE_GB = 2  # checkpoints of a few ResNet-18 runs
PATIENCE = 60  # seconds for a driver that may be dead, and for torch from a cold disk
DATA = {"cifar10": "cifar-10-batches-py", "fashion_mnist": "FashionMNIST/raw"}
TORCH = """import torch
card = torch.cuda.is_available() and int("%d%d" % torch.cuda.get_device_capability())
built = [int(name[3:].rstrip("af")) for name in torch.cuda.get_arch_list() if name[:3] == "sm_"]
fits = any(card // 10 == one // 10 and one <= card for one in built)
print(torch.__version__, torch.version.cuda, fits)"""


def _git(root: Path, _deep: bool) -> Iterator[Finding]:
    top = git(root, "rev-parse", "--show-toplevel", check=(root / ".git").exists()).stdout.strip()
    if not top or Path(top).resolve() != root.resolve():
        yield "mend", "the project is not a git repository of its own", "lab setup"
        return
    problems = setup.problems(root) + guard.dirty_history(root)
    yield from (("mend", *problem) for problem in problems)
    if not problems:
        yield "ok", "repository, hooks, notebook filter and merge driver", ""


def _python(root: Path, _deep: bool) -> Iterator[Finding]:
    # pip and _environment hold the version to what is asked
    yield "ok", f"{sys.version.split()[0]} in {sys.prefix}", ""
    spec = importlib.util.find_spec(package_of(root))
    if not spec or not Path(spec.origin).resolve().is_relative_to(root):
        place = f"in {spec.origin}, not here" if spec else "not at all"
        yield "note", f"notebooks find the package {place}", "pip install --no-deps -e ."


def _renew(source: str) -> str:
    """Return the command that brings the environment to what a file says."""
    if source.endswith(".lock"):
        return f"{'conda install --file' if CONDA else 'pip install --require-hashes -r'} {source}"
    return f"conda env update --file {source} --prune" if CONDA else 'pip install -e ".[dev]"'


def _locked(path: Path) -> dict[str, tuple[str, str, str]]:
    """Read version, build and hash by name from an explicit or a requirements lock."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if not CONDA:
        pins = re.findall(r"(?m)^([\w.-]+)(?:==| @ )([^\s;\\]+) *(?:;([^\\\n]+))?", text)
        here = [pin for pin in pins if not pin[2] or Marker(pin[2]).evaluate()]
        return {canonical(name): (version, "", "") for name, version, _ in here}
    parts = r"(?m)/([^/]+)-([^-/]+)-([^-/]+?)(?:\.conda|\.tar\.bz2)#(?:sha256:)?(\w+)$"
    return {canonical(name): tuple(rest) for name, *rest in re.findall(parts, text)}


def _against_lock(path: Path, live: dict[str, dict], own: str) -> Iterator[Finding]:
    """Name what is missing, extra, of another version, build or hash."""
    locked = _locked(path)
    for name, (version, build, digest) in locked.items():
        one = live.get(name, {"version": None})
        if version not in (one["version"], one.get("source")):
            found = f"{name} is {one['version'] or 'missing'}, not {version}"
        elif build and one.get("build") != build:
            found = f"{name} {version} is build {one.get('build')}, not {build}"
        elif digest and digest not in (one.get("sha256"), one.get("md5")):
            found = f"{name} {version} has another hash than in the lock"
        else:
            continue
        # 2.14.1+cpu: pip takes it for the locked one
        local = (one["version"] or "").startswith(f"{version}+")
        yield ("note", found, "") if local else ("mend", found, _renew(path.name))
    for name in sorted(live.keys() - locked.keys() - {own, "pip", "setuptools", "wheel"}):
        yield "note", f"extra: {name} {live[name]['version']}", ""


def _requirement(asked: str) -> Requirement:
    """Read what pip or conda is asked for, less conda's channel and build."""
    asked = asked.rpartition("::")[2]
    minor = r"^([\w.-]+)(?: *= *| +)(\d[\w.]*?)(?:\.\*)?(?:[= ].*)?$"  # numpy=2.4
    try:
        return Requirement(re.sub(minor, r"\1==\2.*", asked))
    except ValueError:  # libblas=*=*mkl and more that conda alone understands: it must be here
        return Requirement(re.match(r"[\w.-]*", asked)[0])


def _against_ranges(root: Path, source: str, live: dict[str, dict]) -> Iterator[Finding]:
    """Name what is missing or of a version that is not allowed, where there is no lock."""
    stated = locks.asked(root, source)
    every = stated["dependencies"] + stated.get("optional-dependencies", {}).get("dev", [])
    every += next((one["pip"] for one in every if isinstance(one, dict)), [])
    for asked in [one for one in every if isinstance(one, str) and one[:1] != "-"]:  # less -e .
        one = _requirement(asked)
        version = live.get(canonical(one.name), {}).get("version")
        fits = version and one.specifier.contains(version, prereleases=True)
        if not fits and (not one.marker or one.marker.evaluate()):
            found = f"{one.name} is {version or 'missing'}, asked for: {asked}"
            yield "mend", found, _renew(source)


def _environment(root: Path, deep: bool) -> Iterator[Finding]:
    listed = environment.packages()
    live = {canonical(one["name"]): one for one in reversed(listed)}  # conda's before pip's
    source, lock = "pyproject.toml", "requirements.lock"
    if CONDA:
        gpu = "-gpu" if "cuda" in live.get("pytorch", {}).get("build", "") else ""
        source = "environment-gpu.yml" if "pytorch-gpu" in live else "environment.yml"
        lock = f"conda-{live['python']['subdir']}{gpu}.lock"
    found = list(_against_ranges(root, source, live))
    if (root / lock).is_file():
        source = lock
        found = list(_against_lock(root / lock, live, canonical(package_of(root))))
    yield from found
    if all(state == "note" for state, *_ in found):
        says = f"{len(live)} packages, as {source} says"
        yield "ok", says if source == lock else f"{says} (no lock)", ""
    for name in (name for name, old in locks.stale(root).items() if old):
        yield "mend", f"{name} is older than {locks.SOURCES[name]}", "lab lock"
    for name in dict.fromkeys(name for name, _, _ in environment.damaged(deep)):
        one = live[canonical(name)]
        command = f"pip install --force-reinstall --no-deps {name}=={one['version']}"
        if one["manager"] == "conda":
            command = f"conda install --force-reinstall {name}={one['version']}"
            if sum(canonical(other["name"]) == canonical(name) for other in listed) > 1:
                command = f"pip uninstall --yes {name} && {command}"  # which wrote over conda's
        yield "mend", f"installed files of {name} were changed", command


def _gpu(root: Path, _deep: bool) -> Iterator[Finding]:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        yield "ok", "no NVIDIA driver here: training runs on the CPU (a Mac: --device mps)", ""
        return
    query = [smi, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    driver = call(query, timeout=PATIENCE)
    # imported there, and only where there is a GPU
    torch = call([sys.executable, "-c", TORCH], timeout=PATIENCE, env=project_env(root))
    card = driver.stdout.strip().split("\n")[0].replace(", ", ", driver ")
    version, cuda, works = (torch.stdout.split() or ["", "", ""])[-3:]
    mend = "conda env update --file environment-gpu.yml" if CONDA else UV_TORCH
    if driver.returncode:
        found, mend = f"the NVIDIA driver does not answer: {card}", "nvidia-smi  # often: reboot"
    elif torch.returncode:
        found = f"torch cannot be imported: {''.join(torch.stderr.splitlines()[-1:])}"
    elif cuda == "None":
        found = f"torch {version} is a CPU build, and this machine has {card}"
    elif works != "True":
        found = f"torch {version} for CUDA {cuda} cannot use {card}: driver too old?"
        found += " (or the card: for those before Turing --torch-backend=cu126)"
    else:
        found, mend = f"{card}; torch {version} for CUDA {cuda}", ""
    yield "mend" if mend else "ok", found, mend


def _quota(groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many cores this process may keep busy, by cgroup version 2 or 1."""
    own = Path("/proc/self/cgroup")
    said = own.read_text(encoding="utf-8") if own.is_file() else ""
    mine = [Path(path) for path in re.findall(r"(?m)^\d+:(?:|.*\bcpu\b.*):/(.*)$", said)]
    least = math.inf
    for folder in {Path(), *mine, *(above for path in mine for above in path.parents)}:
        old = [groups / "cpu" / folder / f"cpu.cfs_{what}_us" for what in ("quota", "period")]
        for files in [groups / folder / "cpu.max"], old:
            texts = [file.read_text("ascii") for file in files if file.is_file()]
            limit, period = (*" ".join(texts).split(), "max", "")[:2]
            if limit not in ("max", "-1"):
                least = min(least, max(1, int(limit) // int(period)))
    return least


def _threads(_root: Path, _deep: bool) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = int((os.environ.get("OMP_NUM_THREADS") or str(cores)).split(",")[0])
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


def _ours(program: str | Path) -> bool:
    """Tell whether a program is of this environment, by whichever links it is reached."""
    return Path(program).parent.resolve().is_relative_to(Path(sys.prefix).resolve())


def _kernel(_root: Path, _deep: bool) -> Iterator[Finding]:
    jupyter = shutil.which("jupyter")
    if jupyter and not _ours(jupyter):
        text = f"`jupyter` is {jupyter}, of another environment: notebooks would run in that"
        yield "mend", text, "python -m jupyter lab"
    specs = (Path(folder) / "python3" / "kernel.json" for folder in jupyter_path("kernels"))
    spec = next((path for path in specs if path.is_file()), None)
    starts = json.loads(spec.read_text(encoding="utf-8"))["argv"][0] if spec else "python"
    if Path(starts).is_absolute() and not _ours(starts):
        text = f"the kernel python3 ({spec}) starts {starts}, of another environment"
        anew, away = "ipykernel install --sys-prefix", "jupyter kernelspec remove python3"
        yield "mend", text, f"python -m {anew if _ours(spec) else away}"
    else:
        yield "ok", "the kernel python3 is of this environment", ""


def doctor(root: Path, deep: bool, as_json: bool) -> int:
    """Say what is wrong with the project at `root`, and which command fixes it.

    With `deep`, installed files are compared by hash, not by size and time alone; `as_json` is
    for scripts. Returns 1 if something must be mended.
    """
    answer = []
    for check in (_git, _python, _environment, _gpu, _threads, _disk, _data, _kernel):
        try:
            findings = list(check(root, deep))
        except (LabError, OSError, ValueError, LookupError, subprocess.TimeoutExpired) as error:
            findings = [("mend", f"this check could not run: {error}", "")]
        for (state, mend), alike in groupby(findings, key=lambda one: (one[0], one[2])):
            found = [text for _, text, _ in alike]
            answer += [{"check": check.__name__[1:], "state": state, "found": found, "mend": mend}]
    for row in [] if as_json else answer:
        more = f"; and {len(row['found']) - 3} more" if len(row["found"]) > 3 else ""
        print(f"{row['state']:5}{row['check']:12}{'; '.join(row['found'][:3])}{more}")
        if row["mend"]:
            print(f"{'':17}-> {row['mend']}")
    if as_json:
        print(json.dumps(answer, indent=1, ensure_ascii=False))
    return int(any(row["state"] == "mend" for row in answer))

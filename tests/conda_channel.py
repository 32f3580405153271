"""A small conda channel on disk that stands in for conda-forge, and the real solver on top of it.

The names, versions, builds and dependencies are those that conda-forge had in August 2026 as far
as they decide a solution (builds of PyTorch per `__cuda`, `pytorch-gpu`, `cuda-version`); the files
in the packages are stubs, so an environment is solved and installed in half a second.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import yaml

PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("linux-64", "osx-arm64", "win-64")
LINUX = {"unix": ("0", "0"), "linux": ("5.15", "0"), "glibc": ("2.28", "0")}
MACHINES = {  # name: (subdir, virtual packages)
    "linux-64": ("linux-64", LINUX),
    "linux-64 with a GPU": ("linux-64", {**LINUX, "cuda": ("12.9", "0")}),
    "linux-64 with a new GPU": ("linux-64", {**LINUX, "cuda": ("13.0", "0")}),
    "osx-arm64": ("osx-arm64", {"unix": ("0", "0"), "osx": ("14.0", "0")}),
}
# Pure Python as far as we are concerned: conda's name -> (version, name on PyPI).
NOARCH = {
    "matplotlib-base": ("3.10.8", "matplotlib"),
    "torchinfo": ("1.8.0", "torchinfo"),
    "tqdm": ("4.67.3", "tqdm"),
    "tyro": ("1.0.16", "tyro"),
    "ipykernel": ("7.2.0", "ipykernel"),
    "jupyterlab": ("4.5.8", "jupyterlab"),
    "jupytext": ("1.19.1", "jupytext"),
    "nbclient": ("0.10.4", "nbclient"),
    "nbdime": ("4.0.4", "nbdime"),
    "nbstripout": ("0.9.0", "nbstripout"),
    "pandoc": ("3.9", None),  # a program, no Python
    "typst-py": ("0.14.9", "typst"),
    "pdoc": ("16.0.0", "pdoc"),
    "pre-commit": ("4.5.1", "pre-commit"),
    "pytest": ("9.0.3", "pytest"),
    "ruff": ("0.15.9", "ruff"),
    "uv": ("0.11.3", "uv"),
    "pip": ("26.0.1", "pip"),
}
# With the files that the tests run with: `lab` imports them in an installed solution.
REAL = {
    "pyyaml": "PyYAML",
    "packaging": "packaging",
    "jupyter_core": "jupyter_core",
    "platformdirs": "platformdirs",
    "traitlets": "traitlets",
}
NEEDS = {"jupyterlab": ("jupyter_core",), "jupyter_core": ("platformdirs", "traitlets")}
COMPILED = {
    "torchvision": ("0.28.0", "torchvision"),
    "numpy": ("2.4.6", "numpy"),
    "scikit-learn": ("1.9.0", "scikit-learn"),
}


@dataclass(frozen=True)
class Recipe:
    """One package to be."""

    subdir: str
    name: str
    version: str
    build: str
    number: int = 0
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()


def _write(channel: Path, recipe: Recipe, files: dict[str, bytes], links: dict[str, str]) -> None:
    """Write one package as conda does, with the hash and size of each file."""
    index = {
        "name": recipe.name,
        "version": recipe.version,
        "build": recipe.build,
        "build_number": recipe.number,
        "depends": list(recipe.depends),
        "constrains": list(recipe.constrains),
        "subdir": recipe.subdir,
        "timestamp": 1760000000000,
        "license": "MIT",
    }
    info: dict[str, object] = {}
    if recipe.subdir == "noarch":
        index["noarch"] = "python"
        info["info/link.json"] = {
            "noarch": {"type": "python", "entry_points": []},
            "package_metadata_version": 1,
        }
    paths = [
        {
            "_path": path,
            "path_type": "hardlink",
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_in_bytes": len(data),
        }
        for path, data in files.items()
    ]
    paths += [
        {
            "_path": path,
            "path_type": "softlink",
            "sha256": hashlib.sha256(b"").hexdigest(),
            "size_in_bytes": 0,
        }
        for path in links
    ]
    info |= {
        "info/index.json": index,
        "info/paths.json": {"paths": paths, "paths_version": 1},
        "info/about.json": {},
    }
    folder = channel / recipe.subdir
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / f"{recipe.name}-{recipe.version}-{recipe.build}.tar.bz2"
    with tarfile.open(whole, "w:bz2", compresslevel=1) as archive:

        def add(path: str, data: bytes, mode: int = 0o644) -> None:
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))

        for path, content in info.items():
            add(path, json.dumps(content).encode())
        add("info/files", "".join(f"{path}\n" for path in [*files, *links]).encode())
        for path, data in files.items():
            add(path, data, 0o755 if path.startswith("bin/") else 0o644)
        for path, target in links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)


def _distribution(folder: str, name: str, version: str, code: bytes = b"") -> dict[str, bytes]:
    """Return the files of a Python distribution with one module."""
    module = name.replace("-", "_")
    info = f"{folder}/{module}-{version}.dist-info"
    return {
        f"{folder}/{module}/__init__.py": code or f"__version__ = {version!r}\n".encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/INSTALLER": b"conda\n",
    }


def _pythons(channel: Path) -> None:
    """Pythons: the one that runs the tests under its own version, by a link; stubs for others."""
    base = os.path.realpath(sys.executable)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = f"home = {Path(base).parent}\ninclude-system-site-packages = false\n"
    for subdir, system in (("linux-64", "__unix"), ("osx-arm64", "__osx"), ("win-64", "__win")):
        for python in PYTHONS:
            links = {f"bin/python{python}": base, "bin/python": f"python{python}"}
            _write(
                channel,
                Recipe(subdir, "python", f"{python}.7", "h0_0_cpython", depends=(system,)),
                {"pyvenv.cfg": home.encode()},
                links if python == here else {},
            )
    for python in PYTHONS:
        tag = python.replace(".", "")
        abi = Recipe(
            "noarch", "python_abi", python, f"8_cp{tag}", constrains=(f"python {python}.*",)
        )
        _write(channel, abi, {}, {})


def _torches(channel: Path, python: str) -> None:
    """Build PyTorch as conda-forge does: CPU, CUDA 12.9 and 13.0, and the packages that choose."""
    major, minor = python.split(".")
    tag = f"py{major}{minor}"
    needs = (f"python >={python},<{major}.{int(minor) + 1}.0a0", f"python_abi {python}.* *_cp*")
    site = f"lib/python{python}/site-packages"

    def code(version: str, cuda: str | None) -> bytes:
        return (
            f"__version__ = {version!r}\n"
            f"class version:\n    cuda = {cuda!r}\n    hip = None\n"
            "class cuda:\n    is_available = staticmethod(lambda: False)\n"
            "    get_arch_list = staticmethod(lambda: [])\n"
        ).encode()

    for name, (version, pypi) in COMPILED.items():
        for subdir in PLATFORMS:
            also = ("pytorch >=2.13.0,<2.14.0a0",) if name == "torchvision" else ()
            recipe = Recipe(subdir, name, version, f"{tag}h0_0", depends=needs + also)
            _write(channel, recipe, _distribution(site, pypi, version), {})
    for version, number in (("2.12.1", 1), ("2.13.0", 2)):
        cpu = Recipe(
            "linux-64", "pytorch", version, f"cpu_generic_{tag}_h0_{number}", number, needs,
            (f"pytorch-cpu {version}", "pytorch-gpu <0.0a0"),
        )  # fmt: skip
        _write(channel, cpu, _distribution(site, "torch", version, code(version, None)), {})
        for subdir in ("osx-arm64", "win-64"):
            other = Recipe(
                subdir, "pytorch", version, f"cpu_generic_{tag}_h0_{number}", number, needs
            )
            _write(channel, other, _distribution(site, "torch", version, code(version, None)), {})
        for cuda in ("12.9", "13.0"):
            short, build = cuda.replace(".", ""), number + 300
            bound = f"cuda-version >={cuda},<{int(cuda[:2]) + 1}"
            gpu = Recipe(
                "linux-64", "pytorch", version, f"cuda{short}_generic_{tag}_h0_{build}", build,
                (*needs, "__cuda", bound), (f"pytorch-gpu {version}", "pytorch-cpu <0.0a0"),
            )  # fmt: skip
            _write(channel, gpu, _distribution(site, "torch", version, code(version, cuda)), {})
            if python == PYTHONS[0]:
                meta = Recipe(
                    "linux-64", "pytorch-gpu", version, f"cuda{short}_generic_h0_{build}", build,
                    (f"pytorch {version} cuda{short}_generic*{build}",),
                )  # fmt: skip
                _write(channel, meta, {}, {})


def build_channel(channel: Path) -> Path:
    """Build the channel.

    Parameters
    ----------
    channel : Path
        The folder to fill.

    Returns
    -------
    Path
        The same folder.
    """
    _pythons(channel)
    for cuda in ("12.9", "13.0"):
        pin = Recipe(
            "noarch", "cuda-version", cuda, "h0_3", constrains=(f"__cuda >={cuda.split('.')[0]}",)
        )
        _write(channel, pin, {}, {})
    for python in PYTHONS:
        _torches(channel, python)
    for name, (version, pypi) in NOARCH.items():
        files = _distribution("site-packages", pypi, version) if pypi else {}
        needs = ("python >=3.10", *NEEDS.get(name, ()))
        _write(channel, Recipe("noarch", name, version, "pyhd8ed1ab_0", 0, needs), files, {})
    for name, pypi in REAL.items():
        found = metadata.distribution(pypi)
        files = {
            f"site-packages/{path}": path.read_binary()
            for path in found.files
            if path.suffix == ".py" or path.name in ("METADATA", "INSTALLER")
        }
        needs = ("python >=3.10", *NEEDS.get(name, ()))
        recipe = Recipe("noarch", name, found.version, "pyhd8ed1ab_0", 0, needs)
        _write(channel, recipe, files, {})
    index(channel)
    return channel


def index(channel: Path) -> None:
    """Write `repodata.json` for each platform, as a channel's server does.

    Parameters
    ----------
    channel : Path
        The channel.
    """
    for subdir in ("noarch", *PLATFORMS):
        packages = {}
        for path in sorted((channel / subdir).glob("*.tar.bz2")):
            data = path.read_bytes()
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                record = json.load(archive.extractfile("info/index.json"))
            record["md5"] = hashlib.md5(data).hexdigest()
            record["sha256"] = hashlib.sha256(data).hexdigest()
            record["size"] = len(data)
            packages[path.name] = record
        (channel / subdir / "repodata.json").write_text(
            json.dumps(
                {
                    "info": {"subdir": subdir},
                    "packages": packages,
                    "packages.conda": {},
                    "repodata_version": 1,
                }
            ),
            encoding="utf-8",
        )


def read_environment(path: Path) -> tuple[list[str], list[str]]:
    """Split the dependencies of an `environment.yml`.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    tuple of list of str
        What conda installs, and what it hands to pip.
    """
    conda, pip = [], []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["dependencies"]:
        if isinstance(entry, dict):
            pip += entry["pip"]
        else:
            conda.append(entry)
    return conda, pip


def solve_on(
    machine: str, specs: list[str], channel: str | Path, prefix: Path | None = None
) -> tuple[dict, float]:
    """Solve for one of `MACHINES` with conda's solver, and install the solution if asked to.

    Parameters
    ----------
    machine : str
        A key of `MACHINES`.
    specs : list of str
        What is asked for.
    channel : str or Path
        The channel's folder or address.
    prefix : Path, optional
        Where to install, `conda-meta` included.

    Returns
    -------
    tuple of dict and float
        The records by name, and the CPU seconds that it took.

    Raises
    ------
    ValueError
        What was asked for cannot be had; the message is the solver's.
    """
    subdir, virtual = MACHINES[machine]
    address = channel.resolve().as_uri() if isinstance(channel, Path) else channel
    folder = prefix or Path(os.devnull)
    where = ["--prefix", folder, *([] if prefix else ["--dry-run"]), "--channel", address]
    command = [sys.executable, Path(__file__).with_name("rattler_conda.py"), "create", "--json"]
    env = {"CHANNEL_HERE": address, "CONDA_SUBDIR": subdir, "VIRTUAL_PACKAGES": json.dumps(virtual)}
    env["CONDA_PKGS_DIRS"] = str(folder.parent / "cache")
    before = os.times()
    done = subprocess.run(
        [*command, *where, *specs],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    after = os.times()  # CPU seconds: a busy machine takes its time
    assert done.stdout, (done.returncode, done.stderr)
    answer = json.loads(done.stdout)
    if not answer["success"]:
        raise ValueError(answer["message"])
    seconds = sum(after[2:4]) - sum(before[2:4])
    return {record["name"]: record for record in answer["actions"]["FETCH"]}, seconds


def explicit(records: dict) -> str:
    """Write a solution as an explicit lock, each package by its address and hash.

    Parameters
    ----------
    records : dict
        A solution of `solve_on`.

    Returns
    -------
    str
        The text of the lock.
    """
    lines = [f"{record['url']}#sha256:{record['sha256']}" for record in records.values()]
    return "@EXPLICIT\n" + "\n".join(sorted(lines)) + "\n"


def pinned(specs: list[str], name: str) -> str | None:
    """Return the version that a specification such as `numpy=2.4` pins.

    Parameters
    ----------
    specs : list of str
        The specifications.
    name : str
        The package.

    Returns
    -------
    str or None
        The version, or None if it is not pinned.
    """
    found = [re.fullmatch(rf"{name}=([0-9.]+)", spec) for spec in specs]
    return next((match.group(1) for match in found if match), None)

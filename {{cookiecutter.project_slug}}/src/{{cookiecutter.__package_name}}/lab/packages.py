"""What is installed: every package, and the files of it that were changed afterwards."""

import base64
import csv
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from .cards import read_json
from .hashes import sha256
from .project import tilde

# after the hashes were taken
GENERATED = (".pyc", "-info/INSTALLER", "-info/REQUESTED", "-info/direct_url.json")


def _conda_packages(prefix: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield conda's packages, each with its full note in `conda-meta`."""
    for path in sorted(prefix.glob("conda-meta/*.json")):
        note = read_json(path)
        if "build" in note:
            keys = ("name", "version", "build", "channel", "subdir", "url", "sha256", "md5")
            found = {key: note[key] for key in keys if note.get(key)}
            for key in {"url", "channel"} & found.keys():  # private channels: no user, no token
                found[key] = re.sub(r"//[^/@]*@", "//", re.sub(r"/t/[^/]+/", "/", found[key]))
            note["_written"] = path.stat().st_mtime
            yield found | {"manager": "conda"}, note


def _installed() -> Iterator[tuple[str, str, Path]]:
    """Yield name, version and metadata folder of what Python can import, the first of each name."""
    seen = set()
    for place in dict.fromkeys(sys.path):
        names = []
        with suppress(OSError):
            names = sorted(os.listdir(place or "."))  # noqa: PTH208 (one folder of 500 names)
        for name in names:
            if not name.endswith((".dist-info", ".egg-info")):
                continue
            folder = Path(place or ".", name)
            source = folder / ("METADATA" if name.endswith(".dist-info") else "PKG-INFO")
            fields = {}  # of the first lines: a parser of e-mail would take a millisecond each
            with suppress(OSError), source.open(encoding="utf-8", errors="replace") as file:
                fields = dict(re.findall(r"(?m)^(Name|Version): *(.+?)\s*$", file.read(2000)))
            if len(fields) == 2 and canonical(fields["Name"]) not in seen:
                seen.add(canonical(fields["Name"]))
                yield fields["Name"], fields["Version"], folder


def canonical(name: str) -> str:
    """Return a package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages() -> list[dict[str, Any]]:
    """List every package of the environment.

    Returns
    -------
    list of dict
        `name`, `version` and `manager` (`conda` or `pip`), by name; for conda also `build`,
        `channel`, `subdir`, `url`, `sha256` and `md5`, for pip `editable` and `source` where it
        did not come from an index.
    """
    found, owned = [], set()
    for package, note in _conda_packages(Path(sys.prefix)):
        found.append(package)
        files = note.get("files") or ()
        owned |= {path.split("/")[-2] for path in files if path.endswith("-info/METADATA")}
    for name, version, folder in _installed():
        if folder.name in owned:  # conda's file lists tell; INSTALLER misleads
            continue
        package = {"name": name, "version": version, "manager": "pip"}
        direct = read_json(folder / "direct_url.json")
        if direct.get("dir_info", {}).get("editable"):
            package["editable"] = True
        elif direct.get("url"):
            url = re.sub(r"//[^/@]*@", "//", direct["url"])
            commit = direct.get("vcs_info", {}).get("commit_id")
            package["source"] = tilde(f"git+{url}@{commit}" if commit else url)
        found.append(package)
    return sorted(found, key=lambda package: canonical(package["name"]))


def _expected() -> Iterator[tuple[str, str, str, str, int | None, float]]:
    """Yield package, file, kind of hash, hash, size and time of installation of each file."""
    owned = set()
    for package, note in _conda_packages(Path(sys.prefix)):
        site = "Lib/" if os.name == "nt" else "lib/python{}.{}/".format(*sys.version_info)
        for entry in note.get("paths_data", {}).get("paths", []):
            path, digest = entry["_path"], entry.get("sha256_in_prefix") or entry.get("sha256")
            if path.endswith("-info/METADATA"):
                owned.add(path.split("/")[-2])
            if digest and entry.get("path_type") in (None, "hardlink"):
                path = site + path if path.startswith("site-packages/") else path
                digest = base64.urlsafe_b64encode(bytes.fromhex(digest)).rstrip(b"=").decode()
                size = None if entry.get("prefix_placeholder") else entry.get("size_in_bytes")
                path = f"{sys.prefix}/{path}".replace("/", os.sep)
                yield package["name"], path, "sha256", digest, size, note["_written"]
    for name, _, folder in _installed():
        record = folder / "RECORD"
        if folder.name in owned or not record.exists():
            continue
        site, written = str(folder.parent), record.stat().st_mtime
        with record.open(encoding="utf-8", newline="") as lines:
            for path, digest, size in csv.reader(lines):
                if digest and not path.endswith(GENERATED):
                    kind, digest = digest.split("=", 1)  # strings: there may be 70,000 files
                    path = f"{site}/{path}".replace("/", os.sep)
                    yield name, path, kind, digest, int(size or -1), written


def damaged(deep: bool = False, among: set[str] | None = None) -> list[tuple[str, str, str]]:
    """Find installed files that were edited in place or are gone: package, file, and which it is.

    With `deep` every file is hashed, else only those whose size changed or that are newer than
    their package. `among` names the only files to look at.
    """
    found = []
    for package, path, kind, digest, size, written in _expected():
        if among is not None and path not in among:
            continue
        try:
            here = os.stat(path)  # noqa: PTH116 (a Path for each would double the time)
            if size in (None, -1, here.st_size) and not deep and here.st_mtime <= written + 2:
                continue
            with open(path, "rb") as file:  # noqa: PTH123
                now = hashlib.file_digest(file, kind).digest()
        except OSError:
            now = b""
        if base64.urlsafe_b64encode(now).rstrip(b"=").decode() != digest:
            found.append((package, tilde(path), "changed" if now else "missing"))
    return found


def edited() -> list[dict[str, str]]:
    """Return the imported library files that were edited in place, with their hash."""
    written = {canonical(name): folder.stat().st_mtime for name, _, folder in _installed()}
    newest = max(written.values(), default=0.0)
    suspects = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if "-packages" in file and file.endswith(".py") and Path(file).exists():
            limit = written.get(canonical(name.split(".")[0]), newest)
            if Path(file).stat().st_mtime > limit + 2:
                suspects.add(file)
    return [
        {"package": package, "file": file, "sha256": sha256(Path(file).expanduser())}
        for package, file, what in (damaged(among=suspects) if suspects else ())
        if what == "changed"
    ]

"""The code of a record, checked out into a temporary worktree."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from .code import NOT_ASIDE, NOT_CODE, beside, listing, state_of
from .hashes import sha256
from .project import LabError, git, untilde


def restore(root: Path, code: dict[str, Any], patch: bytes, folder: Path) -> None:
    """Check out the `code` of a record in `root`, with its `patch`, into a worktree, `folder`.

    LabError if the commit is not in this clone, or the patch is not the recorded one.
    """
    base = code.get("base")
    if not base:
        why = "this run was made in a project without a commit: nothing to check out"
        raise LabError(f"{why}; commit, then run it again (a notebook: lab report NAME --again)")
    if git(root, "cat-file", "-e", f"{base}^{{commit}}", check=False).returncode:
        where = code.get("remote") or "the clone in which the run was made"
        way = f"fetch it from {where} (a shallow clone: git fetch --unshallow)"
        raise LabError(f"commit {base[:12]} of the run is not in this clone; {way}")
    if code.get("patch_sha256") not in (None, hashlib.sha256(patch).hexdigest()):
        raise LabError("code.patch was changed after the run; take the original from a backup")
    quiet = ("-c", f"core.hooksPath={os.devnull}", "-c", "core.sparseCheckout=false")
    git(root, *quiet, "worktree", "add", "--quiet", "--detach", str(folder), base)
    if patch.strip():
        apply = ("apply", "--binary", "--whitespace=nowarn", "-")
        done = git(folder, *quiet, *apply, text=False, input=patch, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.decode("utf-8", "replace").split())
            raise LabError(f"code.patch does not apply to {base[:12]} ({reason}); is it damaged?")
    for link in filter(Path.is_symlink, [*folder.rglob("*")]):  # to the recorded code, not today's
        to = link.parent / link.readlink()
        to = Path(os.path.realpath(to.parent), to.name)  # the home may be a link, too
        if to.is_relative_to(root) and (here := folder / to.relative_to(root)).is_file():
            link.unlink()
            link.symlink_to(here)
    for module in code.get("submodules", []):
        if not (folder / module["path"]).resolve().is_relative_to(folder.resolve()):
            raise LabError(f"submodule {module['path']!r} would be outside the project")
        _restore_submodule(root / module["path"], module, folder / module["path"])
    for item in code.get("listed", []):
        # a stranger's record may say "..", too
        if not Path(untilde(item["path"])).is_absolute() and ".." not in Path(item["path"]).parts:
            _restore_listed(root, item, folder)


def _restore_listed(root: Path, item: dict[str, Any], folder: Path) -> None:
    """Bring a file, of which the record holds the hash alone, from the working tree."""
    source, target = Path(root, item["path"]), folder / item["path"]
    way = [folder / part for part in (*reversed(Path(item["path"]).parents), item["path"])]
    # the first link alone is the worktree's own: what lies behind it is the user's
    link = next((part for part in way if part.is_symlink()), None)
    if link:  # a relative one leads elsewhere from here
        real = (root / link.relative_to(folder)).resolve()
        link.unlink()
        link.symlink_to(real, real.is_dir())
    elif item["sha256"] and source.is_file() and sha256(source) == item["sha256"]:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _restore_submodule(source: Path, module: dict[str, Any], target: Path) -> None:
    """Copy a submodule's recorded commit from the working tree's own clone of it."""
    here = (source / ".git").exists()
    head = git(source, "rev-parse", "-q", "--verify", "HEAD", check=False).stdout.strip() or None
    if here and head == module["commit"] and state_of(source) == module["changes"]:
        shutil.copytree(
            source, target, ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True, symlinks=True
        )
        return
    target.mkdir(parents=True, exist_ok=True)
    checkout = (f"--work-tree={target}", "checkout", "--quiet", str(module["commit"]), "--", ".")
    with tempfile.TemporaryDirectory() as scratch:  # for an index that is not the clone's own
        env = {**os.environ, "GIT_INDEX_FILE": f"{scratch}/index"}
        if not here or git(source, *checkout, env=env, check=False).returncode:
            found = f"submodule {module['path']} at {str(module['commit'])[:12]}"
            raise LabError(f"{found} is not here; git submodule update --init --recursive")


def differences(root: Path, code: dict[str, Any]) -> list[str]:
    """List the warning in `code`, and files in `root`, recorded by hash alone, that now differ."""
    lines = [code["warning"]] if code.get("warning") else []
    for item in code.get("listed", []):
        now = listing(root, untilde(item["path"]), "")["sha256"]
        if now != item["sha256"]:
            what = "changed since the run" if now else "is not here"
            lines.append(f"{item['path']} ({item['why']}) {what}")
    for module in code.get("submodules", []):
        path = root / module["path"]
        now = state_of(path) if (path / ".git").exists() else None
        if module["changes"] not in (None, now):
            lines.append(f"submodule {module['path']} had changes that no commit holds")
    return lines


def beyond(record: Any) -> dict[str, str]:
    """Return what `record` knows by a hash alone: submodules, and files outside its patch."""
    modules = {one["path"]: one["commit"] for one in record.code.get("submodules", [])}
    return modules | {one["path"]: one["sha256"] for one in record.code.get("listed", [])}


def diff(root: Path, one: Any, other: Any) -> list[str]:
    """Compare the code of two records of `root`, `one` and `other`: the lines of a diff, if any.

    Where a commit is not here, or never was, a line says so.
    """
    if lost := [record.id for record in (one, other) if not record.code.get("base")]:
        return [f"  not known, as there was no commit yet: {', '.join(lost)}"]
    if one.code.get("tree") == other.code.get("tree"):
        return []
    names = []
    try:
        with beside(root) as env:
            for record in (one, other):
                git(root, "read-tree", "--end-of-options", str(record.code.get("base")), env=env)
                patch = (record.path / "code.patch").read_bytes()
                if patch.strip():
                    apply = ("apply", "--cached", "--binary", "--whitespace=nowarn", "-")
                    git(root, *apply, env=env, input=patch, text=False)
                names.append(git(root, "write-tree", env=env).stdout.strip())
            diff = ("diff", "--no-color", "--no-ext-diff", "--find-renames", *names)
            sources = ("--", ".", NOT_CODE, *NOT_ASIDE)
            lines = git(root, *diff, *sources, env=env).stdout.splitlines()
            named = (*diff, "--name-only")
            every = git(root, *named, *sources[:3], env=env).stdout.splitlines()
            counted = git(root, *named, *sources, env=env).stdout.splitlines()
            aside = ", ".join(sorted(set(every) - set(counted)))
            return lines + ([f"  also changed, not affecting numbers: {aside}"] if aside else [])
    except (LabError, OSError) as error:
        commits = " -> ".join(str(record.code.get("commit"))[:12] for record in (one, other))
        return [f"  commit {commits}, with patches; no diff can be made here ({error})"]

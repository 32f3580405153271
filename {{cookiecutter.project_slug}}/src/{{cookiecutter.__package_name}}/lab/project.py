"""Where the project is, and how its files are written: what every command of `lab` needs."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


class LabError(Exception):
    """Something cannot be done; the message is one line that names the value and the remedy."""


def find_root() -> Path:
    """Return the nearest folder, from the working one upwards, that holds a project.

    That is one with `train.py`, `environment.yml` and `src`; LabError if there is none.
    """
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if all((folder / name).exists() for name in ("train.py", "environment.yml", "src")):
            return folder
    raise LabError(f"{here} is not inside a project; change to the folder that holds train.py")


def package_of(root: Path) -> str:
    """Return the name of the folder in `src` of `root` that holds `lab`; or LabError."""
    for candidate in sorted((root / "src").glob("*/lab/cli.py")):
        return candidate.parent.parent.name
    raise LabError(f"no package with a lab folder under {root / 'src'}; restore it with git")


def project_env(root: Path) -> dict[str, str]:
    """Return an environment whose processes import the code of `root`, whatever is installed."""
    env = dict(os.environ)
    paths = [str(root / "src"), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    return env


def call(command: list, **options: Any) -> subprocess.CompletedProcess:
    """Run `command` to its end; return its output and its errors as text, separately.

    Further `options` are those of `subprocess.run`, as `cwd`.
    """
    text = {"encoding": "utf-8", "errors": "replace"} | options
    return subprocess.run([str(part) for part in command], capture_output=True, check=False, **text)


def git(
    root: Path, *arguments: str, check: bool = True, text: bool = True, **options: Any
) -> subprocess.CompletedProcess:
    """Run git in `root` with `arguments`, and further `options` of `subprocess.run`, as `input`.

    The output is UTF-8, or bytes without `text`. LabError if git is not installed, or fails and
    `check` is set.
    """
    coding = {"errors": "surrogateescape"} if text else {"encoding": None, "errors": None}
    try:
        command = ["git", "-C", root, "-c", "log.showSignature=false", *arguments]
        done = call(command, **coding, **options)
    except FileNotFoundError:
        raise LabError("git is not installed or not on PATH; install it and try again") from None
    if check and done.returncode:
        error = done.stderr if text else done.stderr.decode("utf-8", "replace")
        raise LabError(f"git {' '.join(arguments[:2])} failed: {' '.join(error.split())}")
    return done


def tilde(text: object) -> str:
    """Return text or a path with the home folder as `~`: records are shared."""
    homes = {Path.home().as_posix(), Path.home().resolve().as_posix()}  # a link on many clusters
    home = "|".join(re.escape(h) for h in homes if len(h) > 3).replace("/", r"[/\\]+") or "(?!)"
    whole = rf"(?<![\w.~-])(?:{home})(?=$|[/\\:\"'])"  # /nfs/home/ann is another than /home/ann
    return re.sub(whole, "~", str(text))


def untilde(path: str) -> str:
    """Undo `tilde`: return the `path` that it was given; a file may be called `~x`."""
    return f"{Path.home()}{path[1:]}" if path.startswith(("~/", "~\\")) else path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content`, text as UTF-8, to `path` so that the file is there whole or not at all."""
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    handle, scratch = tempfile.mkstemp(prefix=f".lab-{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise

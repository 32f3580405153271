"""A record, run again: the same code, values and variables in a fresh process."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import environment
from .project import LabError, project_env, tilde, untilde
from .records import TIMES, Record, all_records

NOT_SET_AGAIN = ("CUDA_VISIBLE_DEVICES", "LD_PRELOAD")  # of that machine, not of this one


def unlike(old: dict[str, Any], new: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Compare the rows `old` and `new` of `where` to the last bit, which JSON gives back.

    Names that end in `seconds` or `per_second` are times, which are not compared.
    """
    return [
        {"where": where, "what": key, "recorded": old.get(key), "again": new.get(key)}
        for key in old | new
        if not (key.endswith(TIMES) and key in old and key in new)
        and json.dumps(old.get(key)) != json.dumps(new.get(key))
    ]


@dataclass(frozen=True)
class Rerun:
    """A way to run a record again."""

    root: Path  # the project's
    old: Record  # what is run again
    python: str  # the interpreter
    scratch: Path  # outside the project; holds the recorded code in `code`
    epochs: int | None  # only so many

    def command(self, runs_dir: Path) -> list[str]:
        """Return the command line, into `runs_dir`: every recorded value, whatever the defaults."""
        size = self.old.environment.get("world_size") or 1
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
        command = [self.python, *(launch if size > 1 else []), "train.py"]
        given = self.old.config | {"threads": self.old.environment.get("threads")}
        given.pop("resume", None)  # a stranger's record may name a run of yours to go on with
        for key, value in given.items():
            if isinstance(value, bool):
                command.append(f"--{key}" if value else f"--no-{key}")
            else:
                several = isinstance(value, list)
                command += [f"--{key}", *map(str, value)] if several else [f"--{key}={value}"]
        if self.epochs:
            command += ["--stop-after-epochs", str(self.epochs)]
        folder = str(self.old.data_folder(self.root))
        return [*command, "--data-dir", folder, "--runs-dir", str(runs_dir)]

    def variables(self) -> dict[str, str]:
        """Return this shell's variables, with those that change numbers as recorded."""
        root, code = self.root, self.scratch / "code"
        env = project_env(code)
        paths = [Path(path).resolve() for path in env["PYTHONPATH"].split(os.pathsep)]
        # the recorded code's, not the working tree's
        paths = [code / p.relative_to(root) if p.is_relative_to(root) else p for p in paths]
        env["PYTHONPATH"] = os.pathsep.join(map(str, paths))
        recorded = self.old.environment.get("variables") or {}
        again = set(environment.VARIABLES) - set(NOT_SET_AGAIN)
        env = {name: value for name, value in env.items() if name not in again}
        return env | {name: recorded[name] for name in again & recorded.keys()}

    def shell(self) -> dict[str, list[str]]:
        """Name the variables of this shell that recorded ones replaced."""
        recorded = self.old.environment.get("variables") or {}
        lines = [
            f"{name}: {os.environ[name]} here, {recorded.get(name, 'none')} in both runs"
            for name in environment.VARIABLES
            if name not in NOT_SET_AGAIN
            and os.environ.get(name) not in (None, "", recorded.get(name))
        ]
        return {"shell": lines} if lines else {}

    def run(self) -> tuple[Record | None, str]:
        """Return the record, as far as it got, and how the run failed, if it did.

        LabError if the run cannot be repeated here.
        """
        runs_dir = Path(tempfile.mkdtemp(prefix="runs-", dir=self.scratch))
        log = self.scratch / "log"
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                self.command(runs_dir),
                cwd=self.scratch / "code",
                env=self.variables(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for `lab` to handle
            )
            try:
                self._watch(process, runs_dir)
            finally:
                if process.poll() is None:  # nothing of it may be left running
                    if hasattr(os, "killpg"):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.kill()
                    process.wait()
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        failed = said if process.returncode else ()
        refusal = next((line for line in failed if line.startswith("train.py: ")), None)
        if refusal or process.returncode == 2:
            at = self.root / untilde(self.old.data.get("data_dir") or "data")
            lost = "" if at.exists() or at == self.root / "data" else f"; its data was in {at}"
            raise LabError(f"the run cannot be repeated here: {refusal or ' '.join(said)}{lost}")
        again = next(iter(all_records(runs_dir)), None)
        if process.returncode or not again:
            return again, tilde(f"exit code {process.returncode}: {' '.join(said[-1:])}")
        package = Path(again.code.get("package_path", "")).expanduser().resolve()
        if not package.is_relative_to(self.scratch / "code"):
            raise LabError(f"the rerun imported {package}, not the recorded code; uninstall it")
        return again, ""

    def _watch(self, process: subprocess.Popen, runs_dir: Path) -> None:
        """Tell of each epoch how it compares, while the process runs."""
        told, old = 0, self.old.metrics
        last = self.epochs or self.old.result.get("epochs", len(old))
        while process.poll() is None:
            time.sleep(0.1)
            rows = [record.metrics for record in all_records(runs_dir)]
            for row in rows[0][told:] if rows else ():
                same = told < len(old) and not unlike(old[told], row, "")
                told += 1
                word = "identical" if same else "different"
                print(f"epoch {row.get('epoch', told)} of {last}: {word}", file=sys.stderr)

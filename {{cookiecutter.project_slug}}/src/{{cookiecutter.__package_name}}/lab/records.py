"""Run records: a folder for each run, complete or recognisably unfinished at every moment."""

import contextlib
import io
import json
import os
import secrets
import shutil
import zipfile
import zlib
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from .cards import UNREADABLE, finite, read_json, write_card, write_json  # noqa: F401 (re-export)
from .code import capture
from .credentials import SECRET_TEXT
from .hashes import fingerprint, weights_sha256  # noqa: F401 (what train.py needs of lab)
from .project import LabError, tilde, untilde, write_whole

TIMES = ("seconds", "per_second")  # a number whose name ends so tells the time, and no result


class Record:
    """One run's folder.

    Parameters
    ----------
    path : Path
        The folder; its files are read when they are asked for.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"<Record {self.id}, {self.state}>"

    @property
    def id(self) -> str:
        """The run's name: time, data set, model and seed."""
        return str(self.code.get("run", self.path.name))

    @property
    def state(self) -> str:
        """`finished`, `unfinished`, or `damaged` where a file cannot be read."""
        if not self.config:
            return "damaged"
        if not (self.path / "result.json").exists():
            return "unfinished"
        return "finished" if self.result else "damaged"

    config = cached_property(lambda self: read_json(self.path / "config.json"))
    environment = cached_property(lambda self: read_json(self.path / "environment.json"))
    code = cached_property(lambda self: read_json(self.path / "code.json"))
    data = cached_property(lambda self: read_json(self.path / "data.json"))

    @property
    def result(self) -> dict[str, Any]:
        """The result; empty while the run is unfinished."""
        return read_json(self.path / "result.json")

    @property
    def headline(self) -> tuple[str, str] | None:
        """Name and value of the first test metric but the loss, as reports show it."""
        for name, value in self.result.items():
            shown = name.startswith("test_") and name != "test_loss" and not name.endswith(TIMES)
            if shown and isinstance(value, float):
                form = ".2%" if name.endswith("accuracy") else ".4g"
                return name.replace("_", " "), format(value, form)
        return None

    @property
    def verification(self) -> dict[str, Any]:
        """The last verdict of `lab verify` on this result; empty if there is none."""
        said = read_json(self.path / "verification.json")
        odd = {type(said.get(name, "")) for name in ("verdict", "when")} - {str}
        edited = "result" in said and said["result"] != self.result  # it judged other numbers
        return {} if odd or edited else said

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One row an epoch; a torn last line is dropped."""
        rows = []
        with contextlib.suppress(*UNREADABLE):
            for line in (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
                rows.append(json.loads(line))
        return [row for row in rows if isinstance(row, dict)]

    @cached_property
    def predictions(self) -> dict[str, Any]:
        """Arrays by name: test labels, class probabilities, sample and misjudged images."""
        import numpy as np

        path = self.path / "predictions.npz"
        if not path.exists():
            raise LabError(f"{self.id} has no predictions.npz; is the run finished?")
        try:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise LabError(f"{path} is damaged ({error}); restore it from a backup") from None

    @property
    def samples(self) -> dict[str, Any]:
        """Some training images: `images`, `augmented`, `normalised`, `labels`."""
        names = [name for name in self.predictions if name.startswith("sample_")]
        return {name.removeprefix("sample_"): self.predictions[name] for name in names}

    def data_folder(self, root: Path) -> Path:
        """Return where the data was, if it is there now; else the `data` folder in `root`."""
        folder = root / untilde(self.data.get("data_dir") or "data")
        return folder if folder.exists() else root / "data"

    @classmethod
    def create(
        cls,
        root: Path,
        runs_dir: Path,
        config: dict[str, Any],
        data: dict[str, Any],
        files: list[Path],
        data_dir: Path,
        code: tuple[dict[str, Any], bytes],
        world_size: int,
        folder: Path | None = None,
    ) -> Self:
        """Begin a record: all that is known before the first step.

        Parameters
        ----------
        root : Path
            The project's.
        runs_dir : Path
            Where the folder is made.
        config, data : dict
            Every value that changes numbers; what is known of the data, without the fingerprint.
        files : list of Path
            The data's.
        data_dir : Path
            Where this run was told to look for data.
        code : tuple of dict and bytes
            What `capture` gave when the process began: files may change while data are read.
        world_size : int
            The number of processes.
        folder : Path, optional
            What the files' names are relative to; by default `data_dir`.

        Returns
        -------
        Record
            Its folder appears whole or not at all.

        Raises
        ------
        LabError
            If `config` looks like a secret, or nothing can be written to `runs_dir`.
        OSError
            If the disk refuses.
        """
        from . import environment  # `lab runs` reads without it

        if SECRET_TEXT.search(json.dumps(config, default=str).encode()):
            raise LabError("a value of Config looks like a secret; read it from a file instead")
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            if not (runs_dir / ".gitignore").exists():  # one run is no part of another's code
                write_whole(runs_dir / ".gitignore", "/.*\n/[0-9]*-[0-9]*-*-s[0-9]*/\n")
        except OSError as error:
            why = f"cannot write to {runs_dir} ({error.strerror}); choose another --runs-dir"
            raise LabError(why) from None
        now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        kind = f"{config['dataset']}-{config['model']}-s{config['seed']}".replace("/", "_")
        path = runs_dir / f"{now}-{kind}-{secrets.token_hex(2)}"
        described, patch = {"run": path.name, **code[0]}, code[1]
        where, top = data_dir.resolve(), root.resolve()
        where = where.relative_to(top) if where.is_relative_to(top) else where  # clones move
        digest = fingerprint(files, folder or data_dir, runs_dir / ".fingerprints.json")
        found = {"fingerprint": digest, "data_dir": tilde(where.as_posix())}
        scratch = runs_dir / f".{path.name}"
        scratch.mkdir()
        try:
            surroundings = environment.capture(config["threads"], world_size, config["device"])
            write_json(scratch / "config.json", config)
            write_json(scratch / "environment.json", surroundings)
            write_json(scratch / "code.json", described)
            write_json(scratch / "data.json", {"dataset": config["dataset"], **data, **found})
            write_whole(scratch / "code.patch", patch)
            (scratch / "metrics.jsonl").touch()
            scratch.rename(path)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        print(f"run {path.name}")
        if described.get("warning"):
            print(f"warning: {described['warning']}")
        return cls(path)

    def append(self, row: dict[str, Any]) -> None:
        """Add one epoch's `row` to `metrics.jsonl`, and wait until the disk has it."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(finite(row)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def go_on(self, root: Path, epoch: int, step: int, code: tuple | None = None) -> None:
        """Continue the run in `root`, at `epoch` and `step`, both counted from 0.

        Rows of epochs that are trained again are dropped; changes, also in `code`, are noted.
        """
        from . import environment, worktree

        kept = epoch if epoch or step else -1  # all begins anew
        rows = [row for row in self.metrics if row.get("epoch", 0) <= kept]
        write_whole(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        described, _ = code or capture(root, [])
        changes = worktree.differences(root, self.code | {"warning": described.get("warning")})
        if described["sources"] != self.code.get("sources"):
            changes.append("the code changed since this run began")
            self.code["sources"] = f"mixed {described['sources']}"  # a seed of neither code
        size = self.environment.get("world_size", 1)
        now = environment.capture(self.config["threads"], size, self.config["device"])
        changed = environment.differences(self.environment, now)
        changed.pop("settings", None)
        changes += [f"{cause}: {line}" for cause in changed for line in changed[cause]]
        digest = described.get("patch_sha256")
        entry = {"epoch": epoch, "step": step, "changes": changes, "patch_sha256": digest}
        self.code.setdefault("resumes", []).append(entry)
        write_json(self.path / "code.json", self.code)
        print(f"run {self.id} goes on at epoch {epoch + 1}, step {step}")
        for change in changes:
            print(f"warning: {change}")

    def finish(self, result: dict[str, Any], **arrays: Any) -> None:
        """Write the arrays that figures are drawn from, then `result.json`, which finishes it."""
        import numpy as np

        listed = self.code.setdefault("listed", [])
        now, _ = capture(Path(__file__).parents[3], [])
        late = [item for item in now.get("listed", []) if item["why"].startswith("imported")]
        late = [item for item in late if item["path"] not in {known["path"] for known in listed}]
        if late:  # imported after it was captured
            listed += late
            write_json(self.path / "code.json", self.code)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_whole(self.path / "predictions.npz", buffer.getvalue())
        write_json(self.path / "result.json", result)


def all_records(runs_dir: Path) -> list[Record]:
    """Return the runs in `runs_dir`, oldest first, unfinished and damaged ones among them."""
    return [Record(path.parent) for path in sorted(runs_dir.glob("[0-9]*/config.json"))]


def find(root: Path, name: str, runs_dir: Path | None = None, state: str | None = None) -> Record:
    """Find a run.

    Parameters
    ----------
    root : Path
        The project's.
    name : str
        An id, a path, a folder in `reports/`, a unique prefix of one of these, or `latest`.
    runs_dir : Path, optional
        Where to look; by default the project's `runs`.
    state : str, optional
        For `latest`: only runs in this state.

    Returns
    -------
    Record
        The run.

    Raises
    ------
    LabError
        If there is none, or more than one.
    """
    runs_dir = runs_dir or root / "runs"
    records = all_records(runs_dir)
    if name == "latest":
        records = [record for record in records if state in (None, record.state)]
        if not records:
            raise LabError(f"no {state + ' ' if state else ''}run in {runs_dir}; start one first")
        return records[-1]
    for place in (Path(name), root / name, runs_dir / name, root / "reports" / name):
        for folder in (place, place / "run"):
            if (folder / "config.json").exists():
                return Record(folder)
    found = [record for record in records if name and record.path.name.startswith(name)]
    cards = (path.parent for path in sorted((root / "reports").glob("**/run/config.json")))
    begun = str(root / "reports" / name.removeprefix("reports/"))
    found = found or [Record(card) for card in cards if name and str(card).startswith(begun)]
    if len(found) == 1:
        return found[0]
    if found:
        raise LabError(f"{len(found)} runs begin with {name!r}; type more of the id")
    raise LabError(f"no run {name!r} in {runs_dir}; `lab runs` lists them")

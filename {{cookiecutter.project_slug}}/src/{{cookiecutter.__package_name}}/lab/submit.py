"""Send `train.py` to a Slurm cluster, and show the state of its jobs."""

import itertools
import re
import shlex
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .project import LabError, call, project_env, write_whole
from .records import Record

RANGE = re.compile(r"((?:--?[\w-]+=)?)(\d+)\.\.(\d+)")


def submit(root: Path, arguments: list[str], options: list[str], lines: Path | None = None) -> int:
    """Queue a job for each combination of `arguments`, in which 0..4 stands for five values.

    The `options` of sbatch override those in `cluster/train.sbatch` of `root`; each line of the
    file `lines` adds arguments for its own job; `#` begins a comment. LabError if there
    is no Slurm here, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise LabError("there is no sbatch on PATH; submit from the cluster's login node")
    jobs = _expand(arguments, lines)
    for flag in ("--runs-dir", "--resume"):
        if any(part.split("=")[0].replace("_", "-") == flag for job in jobs for part in job):
            raise LabError(f"{flag} cannot be submitted: a job looks for its own record in runs/")
    folder = root / "runs" / ".submitted"
    folder.mkdir(parents=True, exist_ok=True)
    command, given = ["sbatch", "--parsable", f"--chdir={root}"], jobs[0]
    if len(jobs) > 1:
        listed = folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.txt"
        # bash reads a line for each job: a newline within one is written as bash's $'\n'
        rows = (shlex.join(job).replace("\n", "'$'\\n''") for job in jobs)
        write_whole(listed, "".join(f"{row}\n" for row in rows))
        command += [f"--array=1-{len(jobs)}", "--output=runs/slurm-%A_%a.out"]
        given = [str(listed)]
    command += [*options, str(root / "cluster" / "train.sbatch"), *given]
    done = call(command, env=project_env(root))
    if done.returncode:
        raise LabError(f"Slurm refuses: {' '.join(done.stderr.split())}")
    number = done.stdout.strip().split(";")[0]
    for index, job in enumerate(jobs, start=1):
        print(f"job {number}{f'_{index}' if len(jobs) > 1 else ''}: train.py {shlex.join(job)}")
    print("`lab runs` shows how far they are (--group: mean ± sd); they print to runs/slurm-*.out")
    return 0


def _expand(arguments: list[str], lines: Path | None) -> list[list[str]]:
    """Return the arguments of each job."""
    jobs = []
    try:
        text = lines.read_text(encoding="utf-8") if lines else ""
        rows = [shlex.split(line, comments=True) for line in text.splitlines()]
    except ValueError as error:  # a quote without its other half, or not UTF-8
        raise LabError(f"{lines}: {error}; correct it") from None
    if lines and not any(rows):
        raise LabError(f"{lines} has no line with arguments")
    for row in filter(None, rows) if lines else [[]]:
        choices = []
        for part in [*arguments, *row]:
            found = RANGE.fullmatch(part)
            values = range(int(found[2]), int(found[3]) + 1) if found else ()
            choices.append([f"{found[1]}{value}" for value in values] or [part])
        jobs += map(list, itertools.product(*choices))
    return jobs


def show_jobs(root: Path, rows: list[dict[str, Any]]) -> None:
    """Give the unfinished `rows` of runs in `root` their job's state; add jobs without a run.

    Slurm, if it is here, says which are `queued`, `running` or `preempted` (to go on later); a
    record's environment names its `job`.
    """
    if shutil.which("squeue") is None:
        return
    columns = "ArrayJobID:20,ArrayTaskID:20,State:20,RestartCnt:20,WorkDir:4000"
    done = call(["squeue", "--me", "--array", "--noheader", f"--Format={columns}"])
    states = {}
    for line in done.stdout.splitlines():
        job, task, state, restarts, folder = line.split(maxsplit=4)
        if Path(folder.strip()) == root:
            waiting = "preempted" if int(restarts) else "queued"
            name = job if task == "N/A" else f"{job}_{task}"
            states[name] = waiting if state == "PENDING" else "running"
    for row in rows if states else ():
        if row["state"] == "unfinished":
            job = Record(Path(row["path"])).environment.get("job")
            row["state"] = states.pop(job, row["state"])
    for job, state in states.items():
        rows.append({"run": f"job {job}", "state": state, "verdict": None, "path": ""})

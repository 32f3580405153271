"""`lab`: the commands around an experiment. Each imports what it needs when it is called."""

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path

from .project import LabError, find_root

# modules whose names are not those of their commands
PLACE = {"check": "checks", "lock": "locks", "new": "notebooks", "runs": "compare", "sync": "pairs"}
RUN_HELP = "a run's id, a unique prefix of it, its folder, `latest`, or a folder in reports/"


def _parser() -> argparse.ArgumentParser:
    """Describe every command; its options are the parameters of the function that it calls."""
    parser = argparse.ArgumentParser(
        prog="lab",
        description="Keep experiments as records that anyone can read, diff and run again.",
        epilog="Exit codes: 0 success; 1 the check failed; 2 it could not run.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(call=f"{PLACE.get(name, name)}.{name}")
        return made

    command("setup", "set up git, hooks and notebook filter after a clone, and sync the notebooks")

    doctor = command("doctor", "what is wrong with this checkout, and the command that fixes it")
    doctor.add_argument("--deep", action="store_true", help="compare installed files by hash")
    doctor.add_argument("--json", dest="as_json", action="store_true", help="for scripts")

    new = command("new", "the next numbered notebook pair, from the skeleton")
    new.add_argument("title", help="the question, as it stands at the top of the notebook")
    new.add_argument("--from", dest="source", metavar="NOTEBOOK", help="start from this notebook")

    check = command("check", "check a notebook's sections, prompts, seeds, secrets and report")
    check.add_argument("names", nargs="*", metavar="NOTEBOOK", help="default: all")
    check.add_argument("--strict", action="store_true", help="warnings are errors (for CI)")

    sync = command("sync", "make both halves of a notebook, .py and .ipynb, say the same")
    sync.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="default: all")
    sync.add_argument("--undo", action="store_true", help="put back what the last sync replaced")

    guard = command("guard", "refuse notebooks in git that are not clean, paired and in step")
    which = guard.add_mutually_exclusive_group(required=True)
    which.add_argument("--staged", action="store_true", help="what the next commit would hold")
    which.add_argument("--all", dest="staged", action="store_false", help="all that git tracks")
    guard.add_argument("--fix", action="store_true", help="sync the refused pairs on disk")
    guard.add_argument("files", nargs="*", metavar="FILE", help="with --staged: check these, too")

    report = command("report", "execute a notebook and publish it under reports/")
    report.add_argument("name", metavar="NOTEBOOK", nargs="?", help="for example 01_baseline")
    report.add_argument("--run", metavar="RUN", help="report this run instead of training anew")
    report.add_argument(
        "--to",
        dest="formats",
        type=lambda s: s.split(","),
        default="md,html,pdf",
        metavar="FORMATS",
        help="by default md,html,pdf",
    )
    report.add_argument(
        "-p",
        dest="parameters",
        action="append",
        metavar=("NAME", "VALUE"),
        nargs=2,
        default=[],
        help="set a parameter; may be repeated",
    )
    report.add_argument("--with-code", action="store_true", help="show the code in the PDF, too")
    report.add_argument("--again", action="store_true", help="execute even if no code changed")
    report.add_argument("--readme", action="store_true", help="fill the README's results table")

    runs = command("runs", "list the runs")
    runs.add_argument("--json", dest="as_json", action="store_true", help="for scripts")
    runs.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="only runs with this, e.g. test_accuracy>=0.99; may be repeated",
    )
    runs.add_argument("--sort", metavar="FIELD", help="value or metric; --sort=-FIELD reverses it")
    runs.add_argument("--group", action="store_true", help="mean and deviation over the seeds")

    compare = command("compare", "how two runs differ: config, code, environment, data, metrics")
    compare.add_argument("first", metavar="RUN", help=RUN_HELP)
    compare.add_argument("second", metavar="RUN", help=RUN_HELP)

    verify = command("verify", "run a record again and say whether it came out the same")
    verify.add_argument("name", metavar="RUN", help=RUN_HELP)
    verify.add_argument("--tolerance", type=float, default=0.0, help="of each metric; default 0")
    verify.add_argument("--epochs", type=int, metavar="N", help="rerun only the first N epochs")
    verify.add_argument(
        "--restore", type=Path, metavar="ENV_DIR", help="build the recorded environment there first"
    )

    command("logbook", "one page of all runs, runs/logbook.html, to open in a browser")

    lock = command("lock", "write the lock files, with build hashes")
    lock.add_argument("--check", action="store_true", help="only say whether they are up to date")

    submit = command("submit", "send train.py to Slurm: lab submit -- --epochs 100 --seed 0..4")
    submit.add_argument(
        "--sbatch",
        dest="options",
        action="append",
        default=[],
        metavar="OPTION",
        help="an option for sbatch, e.g. --sbatch=--time=01:00:00",
    )
    submit.add_argument("--lines", type=Path, metavar="FILE", help="queue a job for each line")
    submit.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT", help="of train.py, after --; 0..4: five jobs"
    )

    merge = commands.add_parser("merge-driver")  # called by git alone, so without a line of help
    merge.set_defaults(call="pairs.merge_driver")
    for path in ("base", "ours", "theirs", "path"):
        merge.add_argument(path)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command of `lab`, by the arguments `argv` or those of the process.

    Returns 0 for success, 1 if the check failed, 2 if the command could not run.
    """
    for stream in (sys.stdout, sys.stderr):  # a Windows console's code page lacks most scripts
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    options = vars(_parser().parse_args(argv))
    for number in {getattr(signal, name, signal.SIGTERM) for name in ("SIGTERM", "SIGHUP")}:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup's stays
            signal.signal(number, lambda number, _: sys.exit(128 + number))  # tidy up first
    os.environ.pop("GIT_LITERAL_PATHSPECS", None)  # of Magit, when it calls our hooks
    module, function = options.pop("call").split(".")
    try:
        if function != "merge_driver":
            options["root"] = find_root()
        return getattr(importlib.import_module(f".{module}", __package__), function)(**options)
    except BrokenPipeError:  # `lab runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except LabError as error:
        code, message = 2, str(error)
    except ModuleNotFoundError as error:  # the classic: a shell without the environment
        code, message = 2, f"{error}: activate the project's environment, or make it (README)"
    except OSError as error:  # a full disk, a folder without write permission
        code, message = 2, str(error).partition("] ")[2] or str(error)  # less its number
    print(f"lab: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

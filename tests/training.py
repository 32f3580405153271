"""Trains many times in one process that imported torch once; each run is a process of its own.

A fork costs a tenth of a new interpreter, and a forked child is killed as really as any other.
"""

import json
from pathlib import Path

from conftest import Project

HARNESS = r"""
import contextlib, io, json, os, random, signal, sys, time, traceback
sys.path.insert(0, os.getcwd())
import train

def child(argv, before, output):
    os.setpgid(0, 0)
    with open(output, "w", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = 0
        try:
            exec(before, {"train": train, "os": os, "signal": signal})
            train.main(argv)
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 1
    os._exit(code or 0)

def run(argv, before="", kill_after=None, output="../output.txt"):
    with open(output, "w"):
        pass
    pid = os.fork()
    if pid == 0:
        child(argv, before, output)
    if kill_after is not None:
        while not os.path.getsize(output) and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.002)
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status)
"""


def script(project: Project, body: str, **values) -> str:
    """Run the harness and then `body`, which sees `values`; return what it prints."""
    given = f"import json\nglobals().update(json.loads({json.dumps(values)!r}))\n"
    done = project.python("-c", HARNESS + given + body)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outcome(run: Path) -> dict:
    """Return every number of a finished run but the times."""
    result = json.loads((run / "result.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for numbers in (result, *rows):
        del numbers["seconds"]
    return {"result": result, "metrics": rows}


def outcomes(project: Project, *argvs: list, before: str = "") -> list[dict]:
    """Train once for each list of arguments; return what came out of each."""
    body = """
for number, argv in enumerate(argvs):
    code = run([*argv, "--runs-dir", f"compared/{number}"], before)
    assert code == 0, (argv, code, open("../output.txt").read())
"""
    script(project, body, argvs=argvs, before=before)
    folders = [project.root / "compared" / str(number) for number in range(len(argvs))]
    return [outcome(next(folder.glob("2*"))) for folder in folders]


def assert_last_row_is_of_the_checkpoint(research, run: Path) -> dict:
    """Validate the last weights of a run on the digits again; return its last checkpoint."""
    import torch

    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    config, options = research.config.parse_arguments([])
    splits = research.data.load_splits(config, options)
    model = research.models.build_model(config, splits.input_shape, 10).eval()
    model.load_state_dict(state["model"])
    pixels, labels = splits.validation.pixels, splits.validation.labels
    with torch.inference_mode():
        logits = model(research.batches.normalise(pixels, *splits.statistics))
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert abs(row["validation_loss"] - loss) < 1e-5, (row, loss)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    assert abs(row["validation_accuracy"] - accuracy) < 1e-6, (row, accuracy)
    assert 0 < row["train_accuracy"] <= 1
    return state

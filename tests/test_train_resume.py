"""A run that is stopped at any moment goes on to the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training import outcome, outcomes, script

pytestmark = pytest.mark.torch

EPOCHS = ["--epochs", "4"]


@pytest.fixture(scope="module")
def whole(pristine, tmp_path_factory):
    """What four epochs give when nothing interrupts them."""
    from conftest import Project, commit_all

    root = tmp_path_factory.mktemp("whole") / pristine.root.name
    shutil.copytree(pristine.root, root)
    return outcomes(commit_all(Project(root)), EPOCHS)[0]


def only_run(project) -> Path:
    """Return the one run there is."""
    (run,) = project.runs()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_killed_at_many_random_moments_comes_out_the_same(repository, whole, seed):
    body = """
random.seed(seed)
kills = runs = 0
while kills < 10:  # with both seeds at least 20; a fast machine finishes some runs unharmed
    runs += 1
    options = ["--checkpoint-minutes", "0", "--runs-dir", f"killed/{runs}"]
    code = run([*epochs, *options], kill_after=random.uniform(0, 0.3))
    while code:
        assert code == -signal.SIGKILL, open("../output.txt").read()
        kills += 1
        again = random.uniform(0, 0.2) if kills < 10 else None
        code = run(["--resume", "latest", *options], kill_after=again)
print(runs)
"""
    runs = int(script(repository, body, epochs=EPOCHS, seed=seed))
    for number in range(1, runs + 1):
        (run,) = (repository.root / "killed" / str(number)).glob("2*")
        assert outcome(run) == whole


MOMENTS = {
    "in the middle of writing a checkpoint": """
real, calls = os.fsync, []
def fsync(handle):
    if os.readlink(f"/proc/self/fd/{handle}").endswith("checkpoint.pt.new"):
        calls.append(handle)
    if len(calls) == 12:
        os.truncate(handle, os.fstat(handle).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    real(handle)
os.fsync = fsync
""",
    "between the two renames of a checkpoint": """
real, calls = os.replace, []
def replace(source, target):
    real(source, target)
    calls.append(str(target))
    if len(calls) > 9 and calls[-1].endswith("previous.pt"):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
""",
    "during validation": """
real = train.evaluation_batches
calls = []
def evaluation_batches(*arguments):
    calls.append(1)
    for number, batch in enumerate(real(*arguments)):
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch
train.evaluation_batches = evaluation_batches
""",
    "while the epoch's line is written": """
import digits_lab.lab.records as records
real = records.os.fsync
def append(self, row):
    with (self.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train_l')
    os.kill(os.getpid(), signal.SIGKILL)
first = records.Record.append
def later(self, row):
    (append if row["epoch"] == 3 else first)(self, row)
records.Record.append = later
""",
    "between the last checkpoint and the result": """
def finish(self, *_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
train.records.Record.finish = finish
""",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_a_bad_moment_comes_out_the_same(repository, whole, moment):
    before = MOMENTS[moment].replace("digits_lab", repository.package)
    body = """
code = run([*epochs, "--checkpoint-minutes", "0"], before)
assert code == -signal.SIGKILL, (code, open("../output.txt").read())
code = run(["--resume", "latest"])
assert code == 0, open("../output.txt").read()
"""
    script(repository, body, epochs=EPOCHS, before=before)
    assert outcome(only_run(repository)) == whole


def start_and_signal(project, number: int, *arguments: str) -> int:
    """Start `train.py` by itself, signal it in mid-epoch, and return its exit code."""
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=project.root, env=project.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("epoch 1 "):
            break
    time.sleep(0.02)
    process.send_signal(number)
    process.stdout.read()
    return process.wait(timeout=60)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_signal_saves_and_exits_with_128_and_its_number(repository, name):
    number = getattr(signal, name)
    more = ["--epochs", "12"]
    assert start_and_signal(repository, number, *more) == 128 + number
    run = only_run(repository)
    assert not (run / "result.json").exists()
    assert (run / "checkpoint.pt").exists()
    repository.train("--resume", run.name[:22], check=True)
    assert outcome(only_run(repository)) == outcomes(repository, more)[0]


def test_ctrl_c_is_heeded_while_images_are_read_for_their_statistics(repository):
    data = repository.root / "src" / repository.package / "data.py"
    text, mark = data.read_text(), "        counts = torch.zeros("
    assert mark in text
    slow = '        import time; print("reading", flush=True); time.sleep(60)\n'
    data.write_text(text.replace(mark, slow + mark))
    command, more = [sys.executable, "train.py", "--epochs", "1"], {"stdout": subprocess.PIPE}
    process = subprocess.Popen(
        command, cwd=repository.root, env=repository.env, stderr=subprocess.DEVNULL, **more
    )
    assert process.stdout.readline() == b"reading\n"
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=50) != 0
    assert time.monotonic() - started < 30
    assert repository.runs() == []


def test_ctrl_c_ends_what_a_script_started_in_the_background(repository):
    """A script's `&` starts a job deaf to Ctrl-C, which would leave it training unseen."""
    sweep = repository.root / "sweep.sh"
    sweep.write_text(f"{sys.executable} train.py --epochs 4000 & \n wait\n")
    process = subprocess.Popen(
        ["sh", sweep], cwd=repository.root, env=repository.env, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("epoch 1 "):
            break
    os.killpg(process.pid, signal.SIGINT)
    said = process.stdout.read()  # until the training has ended, too
    assert "stopped by a signal" in said
    assert (only_run(repository) / "checkpoint.pt").exists()


def test_ctrl_c_that_ends_tee_first_still_says_how_to_go_on(repository):
    process = subprocess.Popen(
        [sys.executable, "train.py", "--epochs", "4000"], cwd=repository.root, env=repository.env,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("epoch 1 "):
            break
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(timeout=60) == 128 + signal.SIGINT, said
    assert f"go on with --resume {only_run(repository).name}" in said
    assert "Traceback" not in said


def stopped(project, *before: str) -> Path:
    """Return a run of four epochs that stopped after the second, or where `before` says."""
    script(project, "assert run(argv) == 0", argv=[*EPOCHS, "--stop-after-epochs", "2", *before])
    return only_run(project)


def test_the_notebook_goes_on_with_run_and_resume(repository, whole):
    stopped(repository)
    cell = "%run ../train.py --resume latest\nprint('left:', record.id)"
    done = repository.python("-m", "IPython", "-c", cell, cwd=repository.root / "notebooks")
    assert f"left: {only_run(repository).name}" in done.stdout
    assert outcome(only_run(repository)) == whole


def test_a_run_that_another_process_trains_is_not_taken_from_it(repository):
    process = subprocess.Popen(
        [sys.executable, "train.py", "--epochs", "1000"],
        cwd=repository.root, env=repository.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("epoch 1 "):
            break
    done = repository.train("--resume", "latest")
    process.kill()
    process.communicate()
    assert done.returncode == 2
    assert f"another process trains {only_run(repository).name}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    repository.train("--resume", "latest", "--stop-after-epochs", "1", check=True)


def test_a_run_interrupted_in_a_notebook_is_free_while_its_kernel_lives(repository, whole):
    cell = """
import os, signal, subprocess, sys
from tqdm import tqdm
update = tqdm.update
def once(bar, *arguments):
    tqdm.update = update
    os.kill(os.getpid(), signal.SIGINT)
    return update(bar, *arguments)
tqdm.update = once
get_ipython().run_line_magic("run", "../train.py --epochs 4")
print("goes on elsewhere")
print(subprocess.run([sys.executable, "../train.py", "--resume", "latest"]).returncode)
"""
    done = repository.python("-m", "IPython", "-c", cell, cwd=repository.root / "notebooks")
    assert "stopped by a signal" in done.stderr
    assert done.stdout.rstrip().endswith("\n0"), done.stdout + done.stderr
    assert outcome(only_run(repository)) == whole


@pytest.mark.parametrize("damage", ["truncated", "one byte changed", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(repository, whole, damage):
    run = stopped(repository, "--checkpoint-minutes", "0")
    path = run / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    if damage == "one byte changed":
        content[len(content) // 2] ^= 1
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b""}.get(damage, content))
    done = repository.train("--resume", "latest", check=True)
    assert f"{path} is damaged" in done.stderr
    assert "epoch 2, step 20" in done.stdout
    assert outcome(run) == whole


def test_without_any_whole_checkpoint_the_run_begins_again_in_its_own_folder(repository, whole):
    run = stopped(repository)
    for path in run.glob("checkpoint*"):
        path.write_bytes(b"nothing")
    done = repository.train("--resume", "latest", check=True)
    assert "epoch 1, step 0" in done.stdout
    assert outcome(run) == whole


def test_a_stranger_s_checkpoint_runs_no_code(repository):
    import torch

    run = stopped(repository)

    class Mischief:
        def __reduce__(self):
            return (os.system, (f"touch {repository.root / 'owned'}",))

    for path in run.glob("checkpoint*"):
        path.unlink()
    torch.save({"model": Mischief()}, run / "checkpoint.pt")
    done = repository.train("--resume", "latest")
    assert "is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (repository.root / "owned").exists()


def test_a_number_of_numpy_in_the_progress_is_refused_before_work_is_lost(repository):
    script = repository.root / "train.py"
    text = script.read_text(encoding="utf-8")
    old = "    best_epoch: int = 0  # the last at or below the limit\n"
    assert old in text
    new = f"{old}    best_recall: object = __import__('numpy').float64(0.5)\n"
    script.write_text(text.replace(old, new), encoding="utf-8")
    done = repository.train("--epochs", "3", "--checkpoint-minutes", "0")
    assert done.returncode == 2
    (said,) = done.stderr.strip().splitlines()
    assert "a checkpoint cannot hold numpy" in said
    assert "float(...)" in said
    assert not list(repository.runs()[0].glob("checkpoint.pt*"))


def test_flags_that_differ_are_named_one_by_one_and_equal_ones_are_taken(repository):
    stopped(repository)
    done = repository.train("--resume", "latest", "--seed", "43", "--batch-size", "32")
    assert done.returncode == 2
    assert "--seed 43 (recorded: 42)" in done.stderr
    assert "--batch-size 32 (recorded: 64)" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    done = repository.train("--resume", "latest", "--no-deterministic")
    assert "drop --no-deterministic (recorded: True)" in done.stderr
    same = ["--seed", "42", "--epochs", "4", "--device", "auto"]
    repository.train("--resume", "latest", *same, check=True)


def test_a_changed_code_is_said_and_recorded(repository):
    run = stopped(repository)
    assert (
        "changed"
        not in repository.train("--resume", "latest", "--stop-after-epochs", "3", check=True).stdout
    )
    (repository.root / "helper.py").write_text("x = 1\n")
    done = repository.train("--resume", "latest", check=True)
    assert "warning: the code changed since this run began" in done.stdout
    resumes = json.loads((run / "code.json").read_text())["resumes"]
    assert [bool(entry["changes"]) for entry in resumes] == [False, True]


def test_what_cannot_go_on_is_said_in_one_line(repository):
    for name, words in {"latest": "no unfinished run", "2099": "no run '2099'"}.items():
        done = repository.train("--resume", name)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    repository.train("--epochs", "1", check=True)
    done = repository.train("--resume", only_run(repository).name)
    assert done.returncode == 2
    assert "is finished" in done.stderr


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_stops_the_run_in_one_line_and_it_goes_on_when_there_is_room(
    repository, whole, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", disk], check=True)
    try:
        options = ["--runs-dir", disk, "--checkpoint-minutes", "0"]
        done = repository.train(*EPOCHS, *options)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
        repository.train("--resume", "latest", *options, check=True)
        (run,) = disk.glob("2*")
        assert outcome(run) == whole
        assert not list(run.glob("*.new"))
    finally:
        subprocess.run(["umount", disk], check=True)

"""Jobs on a real Slurm: many nodes, arrays, preemption, lost nodes, the end of the time."""

import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster
from conftest import Project

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(slurm_cluster.missing()), reason="needs Debian's slurm-wlm and munge (.ci/apt.txt)"
    ),
]
EPOCHS = ("--epochs", "6")
# Put into train.py, so that no test is a race against the training: in its first start it stands
# still in mid-epoch, or before it listens to signals, until one comes.
FIRST = '__import__("os").environ.get("SLURM_RESTART_COUNT", "0") == "0"'
HOLD = f"""\
            while {FIRST} and (progress.epoch, progress.step) == (3, 5):
                if self.stop.received:
                    break
                time.sleep(0.05)
"""
MIDWAY = (HOLD, "            self.save_if_asked(started)\n")
STARTING = (f"if {FIRST}:\n    print('held', flush=True)\n    time.sleep(600)\n", "import torch\n")
SLOWLY = "            if self.stop.received:\n                time.sleep(35)\n"
HASHES = ("weights_sha256", "best_weights_sha256", "test_loss")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture
def lab(slurm, repository):
    """Yield what submits jobs of a fresh project, asks `lab` in it, and holds its training."""

    def ask(*arguments, **options):
        return repository.lab(*arguments, env=slurm.env, **options)

    def submit(*arguments, sbatch=()):
        options = [f"--sbatch={option}" for option in ("--cpus-per-task=1", *sbatch)]
        done = ask("submit", *options, *arguments, check=True)
        return re.search(r"job (\d+)", done.stdout)[1]

    def stand_still(where, before):
        script = repository.root / "train.py"
        text = script.read_text(encoding="utf-8")
        assert text.count(before) == 1
        script.write_text(text.replace(before, where + before), encoding="utf-8")

    repository.submit, repository.ask, repository.stand_still = submit, ask, stand_still
    yield repository
    slurm.clear()


@pytest.fixture(scope="module")
def uninterrupted(pristine, tmp_path_factory):
    """Return the result of the same training, in one piece, outside Slurm."""
    runs = tmp_path_factory.mktemp("uninterrupted")
    pristine.train(*EPOCHS, "--runs-dir", runs, check=True)
    return outcome(next(runs.glob("2*")))


def outcome(run: Path) -> list:
    """Return what must be the same to the last bit."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [(row["epoch"], row["train_loss"], row["validation_loss"]) for row in rows]
    return [result[name] for name in HASHES] + losses


def epochs(project) -> int:
    """Return how many epochs the newest run has behind it."""
    runs = project.runs()
    return len((runs[-1] / "metrics.jsonl").read_text().splitlines()) if runs else 0


def output(project) -> str:
    """Return what all jobs printed."""
    paths = sorted((project.root / "runs").glob("slurm-*.out"))
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def states(project) -> dict[str, str]:
    """Return each row of `lab runs`, by its name."""
    rows = json.loads(project.ask("runs", "--json", check=True).stdout)
    return {row["run"]: row["state"] for row in rows}


def preempt(slurm, job: str) -> None:
    """Send a more urgent job to the node that a job runs on."""
    node = re.search(r"NodeList=(n\d)", slurm.run("scontrol", "show", "job", job))[1]
    urgent = ("--partition=urgent", f"--nodelist={node}", "--wrap=sleep 5", "--output=/dev/null")
    slurm.run("sbatch", "--chdir=/tmp", *urgent)


def test_a_preempted_run_goes_on_in_mid_epoch_to_the_same_weights(slurm, lab, uninterrupted):
    lab.stand_still(*MIDWAY)
    job = lab.submit("--", *EPOCHS)
    slurm.wait(lambda: epochs(lab) == 3)
    assert list(states(lab).values()) == ["running"]
    preempt(slurm, job)
    slurm.wait(lambda: slurm.state(job) == "PENDING")
    assert list(states(lab).values()) == ["preempted"]
    assert slurm.finish(job) == "COMPLETED", output(lab) + slurm.logs()
    assert "goes on at epoch 4, step 5" in output(lab)
    (run,) = lab.runs()
    assert outcome(run) == uninterrupted
    assert f"run {run.name}" in (run / "slurm.out").read_text(encoding="utf-8")
    assert list(states(lab).values()) == ["finished"]


def test_a_run_that_is_preempted_while_it_starts_is_queued_again(slurm, lab):
    lab.stand_still(*STARTING)
    job = lab.submit("--", "--epochs", "1")
    slurm.wait(lambda: f"{job}.0" in slurm.run("squeue", "--steps", "-h", "-o", "%i"))
    preempt(slurm, job)
    slurm.wait(lambda: slurm.state(job) == "PENDING")
    assert lab.runs() == []
    assert "PreemptTime=2" not in slurm.run("scontrol", "show", "job", job)  # of the start before
    assert slurm.finish(job) == "COMPLETED", output(lab) + slurm.logs()


@pytest.mark.parametrize("early", [True, False], ids=["before srun", "while python starts"])
def test_a_run_that_is_warned_while_it_starts_is_queued_again(slurm, lab, early):
    lab.stand_still(*STARTING)
    if early:  # what comes before srun takes a while
        script = lab.root / "cluster" / "train.sbatch"
        text = script.read_text(encoding="utf-8")
        slow = text.replace("before=$(", "echo early\nsleep 5\nbefore=$(")
        script.write_text(slow, encoding="utf-8")
    job = lab.submit("--", "--epochs", "1")
    if early:
        slurm.wait(lambda: "early" in output(lab))
    else:
        slurm.wait(lambda: "held" in output(lab))
    slurm.run("scancel", "--batch", "--signal=USR1", job)  # as Slurm does before the end
    slurm.wait(lambda: slurm.state(job) == "PENDING", timeout=120)
    assert lab.runs() == []
    assert slurm.finish(job) == "COMPLETED", output(lab) + slurm.logs()


def test_a_job_out_of_time_saves_queues_again_and_ends_with_the_same_weights(
    slurm, lab, uninterrupted
):
    """The warning comes 120 s before the end, as the sbatch file asks, or up to 30 s earlier.

    Time limits are whole minutes: of two to three minutes that are left here, 90 s at least remain
    after the warning. The step that it comes in is a long one.
    """
    lab.stand_still(*MIDWAY)
    lab.stand_still(SLOWLY, MIDWAY[1])
    job = lab.submit("--", *EPOCHS)
    slurm.wait(lambda: epochs(lab) == 3)
    hours, minutes = re.search(
        r"RunTime=(\d+):(\d+):", slurm.run("scontrol", "show", "job", job)
    ).groups()
    slurm.run(
        "scontrol", "update", f"jobid={job}", f"timelimit={int(hours) * 60 + int(minutes) + 3}"
    )
    slurm.wait(lambda: slurm.state(job) == "PENDING")
    slurm.run("scontrol", "update", f"jobid={job}", "timelimit=600")
    assert "stopped by a signal" in output(lab)
    assert slurm.finish(job) == "COMPLETED", output(lab) + slurm.logs()
    assert "goes on at epoch 4, step 5" in output(lab)
    (run,) = lab.runs()
    assert outcome(run) == uninterrupted


def test_an_array_of_three_seeds_makes_three_records_and_a_mean(slurm, lab):
    job = lab.submit("--", "--epochs", "2", "--seed", "0..2")
    assert set(states(lab)) >= {f"job {job}_3"}
    for task in (1, 2, 3):
        assert slurm.finish(f"{job}_{task}") == "COMPLETED", output(lab) + slurm.logs()
    runs = [json.loads((run / "config.json").read_text()) for run in lab.runs()]
    assert sorted(run["seed"] for run in runs) == [0, 1, 2]
    shown = lab.ask("runs", "--group", check=True).stdout
    assert "±" in shown


def test_a_warning_to_the_last_task_of_an_array_is_no_other_tasks(slurm, lab, uninterrupted):
    """Slurm gives that task the number of the whole array."""
    lab.stand_still(*MIDWAY)
    job = lab.submit("--", *EPOCHS, "--seed", "41..42")
    slurm.wait(lambda: [len(run.read_text().splitlines()) for run in metrics(lab)] == [3, 3])
    slurm.run("scancel", "--batch", "--signal=USR1", f"{job}_2")
    slurm.wait(lambda: "stopped by a signal" in output(lab))
    slurm.wait(lambda: slurm.state(f"{job}_2") == "PENDING")
    assert slurm.state(f"{job}_1") == "RUNNING"
    assert "Restarts=0" in slurm.run("scontrol", "show", "job", f"{job}_1")
    slurm.run("scancel", "--batch", "--signal=USR1", f"{job}_1")  # which stands still
    for task in (1, 2):
        assert slurm.finish(f"{job}_{task}") == "COMPLETED", output(lab) + slurm.logs()
    (whole,) = (run for run in lab.runs() if "-s42-" in run.name)
    assert outcome(whole) == uninterrupted
    for task in (1, 2):
        text = (lab.root / "runs" / f"slurm-{job}_{task}.out").read_text(encoding="utf-8")
        assert f"-s{40 + task}-" in text


def metrics(project) -> list[Path]:
    """Return the metrics of all runs."""
    return [run / "metrics.jsonl" for run in project.runs()]


def test_a_file_of_configurations_makes_a_job_for_each_line_in_a_worktree_too(slurm, lab):
    tree = lab.root.parent / "a folder with spaces"
    lab.git("worktree", "add", "-b", "tree", tree)
    lab.root = tree
    lines = lab.root / "sweep.txt"
    lines.write_text("# two widths of step\n--learning-rate 0.01\n--learning-rate 0.02\n")
    job = lab.submit("--lines", lines, "--", "--epochs", "1")
    for task in (1, 2):
        assert slurm.finish(f"{job}_{task}") == "COMPLETED", output(lab) + slurm.logs()
    runs = [json.loads((run / "config.json").read_text()) for run in lab.runs()]
    assert sorted(run["learning_rate"] for run in runs) == [0.01, 0.02]


def test_two_nodes_make_one_record_and_a_killed_node_changes_no_bit(slurm, lab):
    two = ["--nodes=2"]
    job = lab.submit("--", *EPOCHS, sbatch=two)
    assert slurm.finish(job) == "COMPLETED", output(lab) + slurm.logs()
    (whole,) = lab.runs()
    environment = json.loads((whole / "environment.json").read_text(encoding="utf-8"))
    assert environment["world_size"] == 2
    assert environment["job"] == job
    nodes = set(re.findall(r"NodeList=(\S+)", slurm.run("scontrol", "show", "job", job)))
    assert "n[1-2]" in nodes

    lab.stand_still(*MIDWAY)
    job = lab.submit("--", *EPOCHS, "--checkpoint-minutes", "0", sbatch=two)
    slurm.wait(lambda: len(lab.runs()) == 2 and epochs(lab) == 3)
    slurm.kill_node("n2")
    slurm.wait(lambda: slurm.state(job) == "PENDING")
    slurm.start_node("n2")
    assert slurm.finish(job, hurry=False) == "COMPLETED", output(lab) + slurm.logs()
    assert "goes on at epoch 4, step" in output(lab)
    assert [outcome(run) for run in lab.runs()] == [outcome(whole)] * 2


def test_a_job_that_fails_at_once_is_not_queued_again(slurm, lab):
    job = lab.submit("--", "--model", "no_such_model")
    assert slurm.finish(job) == "FAILED"
    assert "no_such_model" in output(lab)
    assert lab.runs() == []


def test_a_job_that_fails_at_its_end_is_not_queued_for_ever(slurm, lab):
    script = lab.root / "train.py"
    text = script.read_text(encoding="utf-8").replace("training.test()", "raise KeyError(1)")
    script.write_text(text, encoding="utf-8")
    job = lab.submit("--", "--epochs", "1")
    assert slurm.finish(job, timeout=300) == "FAILED", output(lab)


def test_an_array_whose_list_is_gone_trains_nothing(slurm, lab):
    job = lab.submit("--", "--seed", "0..1", sbatch=["--hold"])
    (listed,) = (lab.root / "runs" / ".submitted").iterdir()
    listed.unlink()
    slurm.run("scontrol", "release", job)
    for task in (1, 2):
        assert slurm.finish(f"{job}_{task}") == "FAILED"
    assert "is empty or missing in" in output(lab)
    assert lab.runs() == []


def test_odd_arguments_reach_train_py_as_they_are_and_run_nothing(slurm, lab):
    odd = ["two words", "it's", '"', "$(touch stranger)", "`touch stranger`", "a\nb", "*", "\\"]
    shown = "import json, sys\nprint(json.dumps(sys.argv[1:]))\n"
    (lab.root / "train.py").write_text(shown, encoding="utf-8")
    job = lab.submit("--", *odd, "--seed", "0..1")
    for task in (1, 2):
        assert slurm.finish(f"{job}_{task}") == "COMPLETED", output(lab)
    printed = [json.loads(line) for line in output(lab).splitlines() if line.startswith("[")]
    assert sorted(printed) == [[*odd, "--seed", seed] for seed in ("0", "1")]
    assert not (lab.root / "stranger").exists()


def test_a_cancelled_job_saves_and_is_not_queued_again(slurm, lab):
    lab.stand_still(*MIDWAY)
    job = lab.submit("--", *EPOCHS)
    slurm.wait(lambda: epochs(lab) == 3)
    slurm.run("scancel", job)
    assert slurm.finish(job) == "CANCELLED"
    slurm.wait((lab.runs()[0] / "checkpoint.pt").exists)
    time.sleep(2)
    assert slurm.state(job) == "CANCELLED"
    assert list(states(lab).values()) == ["unfinished"]


def test_what_cannot_be_submitted_is_refused(slurm, lab):
    (lab.root / "open.txt").write_text("--model 'resnet18\n", encoding="utf-8")
    (lab.root / "none.txt").write_text("# nothing yet\n", encoding="utf-8")
    for arguments, said in (
        (["--lines", "open.txt"], "open.txt: No closing quotation"),
        (["--lines", "none.txt"], "none.txt has no line with arguments"),
        (["--", "--runs_dir", "x"], "--runs-dir cannot be submitted"),
        (["--", "--resume", "latest"], "--resume cannot be submitted"),
        (["--sbatch=--partition=nowhere", "--", "--epochs", "1"], "Slurm refuses"),
    ):
        done = lab.ask("submit", *arguments)
        assert done.returncode == 2
        assert said in done.stderr
    bare = {"PATH": str(Path(sys.executable).parent)}
    done = lab.lab("submit", "--", "--epochs", "1", env=bare)
    assert done.returncode == 2
    assert "no sbatch" in done.stderr


def test_each_line_and_each_value_of_a_range_is_a_job_of_this_project_alone(slurm, lab):
    lines = lab.root / "lines.txt"
    lines.write_text("--model resnet18 # slower\n\n--model simple_cnn --seed=8..9\n")
    held = ("submit", "--sbatch=--hold", "--sbatch=--cpus-per-task=1")
    done = lab.ask(*held, "--lines", lines, "--", "--epochs", "2..3", check=True)
    (job,) = set(re.findall(r"(?m)^job (\d+)_", done.stdout))
    assert [line for line in done.stdout.splitlines() if line.startswith("job")] == [
        f"job {job}_1: train.py --epochs 2 --model resnet18",
        f"job {job}_2: train.py --epochs 3 --model resnet18",
        f"job {job}_3: train.py --epochs 2 --model simple_cnn --seed=8",
        f"job {job}_4: train.py --epochs 2 --model simple_cnn --seed=9",
        f"job {job}_5: train.py --epochs 3 --model simple_cnn --seed=8",
        f"job {job}_6: train.py --epochs 3 --model simple_cnn --seed=9",
    ]
    other = Project(lab.root.with_name(f"{lab.root.name}-2"))
    shutil.copytree(lab.root, other.root, symlinks=True)
    other.ask = lambda *arguments, **options: other.lab(*arguments, env=slurm.env, **options)
    other.ask(*held, "--", "--epochs", "1", check=True)
    assert states(lab) == {f"job {job}_{number}": "queued" for number in range(1, 7)}
    assert list(states(other).values()) == ["queued"]
    lines.write_text("--model resnet18\n--resume=latest\n")
    assert "--resume cannot be submitted" in lab.ask("submit", "--lines", lines).stderr

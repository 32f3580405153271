"""Jobs on a real Slurm: many nodes, arrays, preemption, lost nodes, the end of the time."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(slurm_cluster.missing()), reason="needs Debian's slurm-wlm and munge (.ci/apt.txt)"
    ),
]
EPOCHS = ("--epochs", "60")
HASHES = ("weights_sha256", "best_weights_sha256", "test_loss")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture
def lab(slurm, repository):
    """Return what submits jobs of a fresh project, and what asks `lab` in it."""

    def ask(*arguments, **options):
        return repository.lab(*arguments, env=slurm.env, **options)

    def submit(*arguments, sbatch=()):
        options = [f"--sbatch={option}" for option in ("--cpus-per-task=1", *sbatch)]
        done = ask("submit", *options, *arguments, check=True)
        return re.search(r"job (\d+)", done.stdout)[1]

    repository.submit, repository.ask = submit, ask
    return repository


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
    job = lab.submit("--", *EPOCHS)
    slurm.wait(lambda: epochs(lab) >= 3)
    assert list(states(lab).values()) == ["running"]
    preempt(slurm, job)
    slurm.wait(lambda: slurm.state(job) == "PENDING")
    assert list(states(lab).values()) == ["preempted"]
    assert slurm.finish(job) == "COMPLETED", output(lab) + slurm.logs()
    where = re.search(r"goes on at epoch (\d+), step (\d+)", output(lab))
    assert int(where[1]) > 3
    assert int(where[2]) > 0
    (run,) = lab.runs()
    assert outcome(run) == uninterrupted
    assert f"run {run.name}" in (run / "slurm.out").read_text(encoding="utf-8")
    assert list(states(lab).values()) == ["finished"]


def test_a_run_that_is_preempted_while_it_starts_is_queued_again(slurm, lab):
    job = lab.submit("--", "--epochs", "1")
    slurm.wait(lambda: f"{job}.0" in slurm.run("squeue", "--steps", "-h", "-o", "%i"))
    preempt(slurm, job)
    slurm.wait(lambda: slurm.state(job) == "PENDING")
    assert lab.runs() == []
    assert "PreemptTime=2" not in slurm.run("scontrol", "show", "job", job)  # of the start before
    assert slurm.finish(job) == "COMPLETED", output(lab) + slurm.logs()


def test_a_job_out_of_time_saves_queues_again_and_ends_with_the_same_weights(
    slurm, lab, uninterrupted
):
    job = lab.submit("--", *EPOCHS)  # whose sbatch file asks for a warning at 120 s
    slurm.wait(lambda: epochs(lab) >= 3)
    hours, minutes = re.search(
        r"RunTime=(\d+):(\d+):", slurm.run("scontrol", "show", "job", job)
    ).groups()
    slurm.run(
        "scontrol", "update", f"jobid={job}", f"timelimit={int(hours) * 60 + int(minutes) + 2}"
    )
    slurm.wait(lambda: slurm.state(job) == "PENDING")
    slurm.run("scontrol", "update", f"jobid={job}", "timelimit=600")
    assert "stopped by a signal" in output(lab)
    assert slurm.finish(job) == "COMPLETED", output(lab) + slurm.logs()
    assert "goes on at" in output(lab)
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


def test_a_file_of_configurations_makes_a_job_for_each_line(slurm, lab):
    lines = lab.root / "sweep.txt"
    lines.write_text("# two widths of step\n--learning-rate 0.01\n--learning-rate 0.02\n")
    job = lab.submit("--lines", lines, "--", "--epochs", "1")
    for task in (1, 2):
        assert slurm.finish(f"{job}_{task}") == "COMPLETED", output(lab) + slurm.logs()
    runs = [json.loads((run / "config.json").read_text()) for run in lab.runs()]
    assert sorted(run["learning_rate"] for run in runs) == [0.01, 0.02]


def test_two_nodes_make_one_record_and_a_killed_node_changes_no_bit(slurm, lab):
    two = ["--nodes=2"]
    job = lab.submit("--", "--epochs", "30", sbatch=two)
    assert slurm.finish(job) == "COMPLETED", output(lab) + slurm.logs()
    (whole,) = lab.runs()
    environment = json.loads((whole / "environment.json").read_text(encoding="utf-8"))
    assert environment["world_size"] == 2
    assert environment["job"] == job
    nodes = set(re.findall(r"NodeList=(\S+)", slurm.run("scontrol", "show", "job", job)))
    assert "n[1-2]" in nodes

    job = lab.submit("--", "--epochs", "30", "--checkpoint-minutes", "0.02", sbatch=two)
    slurm.wait(lambda: len(lab.runs()) == 2 and (lab.runs()[1] / "checkpoint.pt").exists())
    slurm.kill_node("n2")
    slurm.wait(lambda: slurm.state(job) == "PENDING")
    slurm.start_node("n2")
    assert slurm.finish(job, hurry=False) == "COMPLETED", output(lab) + slurm.logs()
    assert "goes on at" in output(lab)
    assert [outcome(run) for run in lab.runs()] == [outcome(whole)] * 2


def test_a_job_that_fails_at_once_is_not_queued_again(slurm, lab):
    job = lab.submit("--", "--model", "no_such_model")
    assert slurm.finish(job) == "FAILED"
    assert "no_such_model" in output(lab)
    assert lab.runs() == []


def test_a_cancelled_job_saves_and_is_not_queued_again(slurm, lab):
    job = lab.submit("--", *EPOCHS)
    slurm.wait(lambda: epochs(lab) >= 1)
    slurm.run("scancel", job)
    assert slurm.finish(job) == "CANCELLED"
    slurm.wait((lab.runs()[0] / "checkpoint.pt").exists)
    time.sleep(2)
    assert slurm.state(job) == "CANCELLED"
    assert list(states(lab).values()) == ["unfinished"]


def test_what_cannot_be_submitted_is_refused(slurm, lab):
    for arguments, said in (
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

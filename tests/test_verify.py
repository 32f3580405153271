"""`lab verify` on real runs: what comes out again, what does not, and what cannot be asked."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Project, commit_all

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@pytest.fixture(scope="module")
def verifiable(pristine, tmp_path_factory):
    """Train once with an untracked module and a changed `train.py`."""
    root = tmp_path_factory.mktemp("verifiable") / pristine.root.name
    shutil.copytree(pristine.root, root, symlinks=True)
    made = commit_all(Project(root))
    helper = made.root / "src" / made.package / "helper.py"
    helper.write_text("SCALE = 1.0\n")
    train = made.root / "train.py"
    lines = train.read_text().replace(
        "loss = functional.cross_entropy(logits, labels)",
        "loss = SCALE * functional.cross_entropy(logits, labels)",
        1,
    )
    lines = lines.replace(
        "import torch\n", f"from {made.package}.helper import SCALE\nimport torch\n", 1
    )
    train.write_text(lines)
    made.train("--epochs", "2", check=True)
    return made


class Apart(Project):
    """A project with temporary files of its own: tests run side by side."""

    @property
    def env(self):
        """Add a folder for temporary files."""
        return super().env | {"TMPDIR": str(self.root.parent / "tmp")}


@pytest.fixture
def project(verifiable, tmp_path):
    """Copy the project with its run."""
    root = tmp_path / "lab"
    shutil.copytree(verifiable.root, root, symlinks=True)
    (tmp_path / "tmp").mkdir()
    return Apart(root)


def verdict_of(project):
    return json.loads((project.runs()[-1] / "verification.json").read_text())


def remains(project):
    """List the temporary folders of a verification."""
    return sorted((project.root.parent / "tmp").glob("lab-verify-*"))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_run_comes_out_identical_and_nothing_else_changes(project):
    before, status = remains(project), project.git("status", "--porcelain", "-z").stdout
    done = project.lab("verify", "latest")
    assert done.returncode == 0, done.stderr
    assert "identical" in done.stdout
    assert "epoch 2 of 2: identical" in done.stderr
    assert verdict_of(project)["verdict"] == "identical"
    assert remains(project) == before
    assert project.git("status", "--porcelain", "-z").stdout == status
    assert len(project.git("worktree", "list").stdout.splitlines()) == 1
    assert "✓ identical" in project.lab("runs").stdout


def test_the_tree_may_be_anything_by_now(project):
    (project.root / "src" / project.package / "helper.py").unlink()
    project.git("checkout", "-q", "--orphan", "elsewhere")
    project.git("commit", "-qam", "another history", "--no-verify")
    train = project.root / "train.py"
    train.write_text("raise SystemExit('not this file')\n")
    done = project.lab("verify", "latest")
    assert done.returncode == 0, done.stdout + done.stderr
    assert verdict_of(project)["verdict"] == "identical"


def test_the_first_epochs_alone_are_verified_with_the_schedule_of_all(project):
    done = project.lab("verify", "latest", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "only the first 1 epoch" in done.stdout
    assert verdict_of(project)["epochs"] == 1
    assert verdict_of(project)["verdict"] != "identical"


def test_another_shell_locale_and_time_zone_change_nothing_and_are_listed(project):
    env = {"OMP_NUM_THREADS": "2", "TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "5"}
    done = project.lab("verify", "latest", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verdict_of(project)["verdict"] == "identical"
    for word in ("TZ: ", "LC_ALL: ", "OMP_NUM_THREADS: 2 here"):
        assert word in done.stdout


def test_metrics_edited_by_hand_are_found_out(project):
    path = project.runs()[-1] / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["validation_accuracy"] = 0.9999
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = project.lab("verify", "latest")
    assert done.returncode == 1
    assert "epoch 2, validation_accuracy: 0.9999 ->" in done.stdout
    assert verdict_of(project)["deterministic"]
    assert "the record's numbers were changed after the run" in done.stdout


def test_an_edited_result_is_within_a_tolerance_only_when_one_is_given(project):
    path = project.runs()[-1] / "result.json"
    edit(path, lambda result: result.update(test_loss=result["test_loss"] + 1e-4))
    done = project.lab("verify", "latest", "--tolerance", "0.001")
    assert done.returncode == 0, done.stdout
    assert verdict_of(project)["verdict"] == "within tolerance"


def test_what_is_beyond_the_tolerance_is_named_and_the_result_beside_it(project):
    run = project.runs()[-1]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[0]["train_loss"] += 1e-6
    rows[1]["gradient_norm"] += 0.5
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    accuracy = json.loads((run / "result.json").read_text())["test_accuracy"]
    done = project.lab("verify", "latest", "--tolerance", "0.001")
    assert done.returncode == 1
    assert "first difference: epoch 2, gradient_norm: " in done.stdout
    assert f"test_accuracy: {accuracy} -> {accuracy}\n" in done.stdout


def test_a_tolerance_for_the_first_epochs_is_no_verdict_on_all(project):
    path = project.runs()[-1] / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["train_loss"] += 1e-4
    rows[-1]["train_loss"] += 1
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = project.lab("verify", "latest", "--tolerance", "0.001", "--epochs", "1")
    assert done.returncode == 0, done.stdout
    assert verdict_of(project)["verdict"] == "the first 1 epochs within tolerance"
    assert project.lab("verify", "latest", "--tolerance", "0.001").returncode == 1


def test_another_number_of_threads_is_named(project):
    run = project.runs()[-1]
    edit(run / "environment.json", lambda it: it.update(cpu={"model": "Other", "instructions": []}))
    edit(run / "result.json", lambda it: it.update(weights_sha256="0" * 64))
    done = project.lab("verify", "latest")
    assert done.returncode == 1
    assert "hardware: CPU model: Other ->" in done.stdout
    assert "result, weights_sha256" in done.stdout


@pytest.mark.parametrize("what", ["unfinished", "commit", "patch", "damaged", "config", "missing"])
def test_what_cannot_be_asked_is_said_with_a_remedy(project, what):
    run, name = project.runs()[-1], "latest"
    if what == "unfinished":
        (run / "result.json").unlink()
    elif what == "commit":
        edit(run / "code.json", lambda code: code.update(base="1" * 40))
    elif what == "patch":
        (run / "code.patch").write_bytes(b"nonsense")
        edit(run / "code.json", lambda code: code.pop("patch_sha256"))
    elif what == "damaged":
        (run / "environment.json").write_text("{")
    elif what == "config":
        edit(run / "config.json", lambda config: config.update(model="resnet19"))
    else:
        name = "19990101"
    before = remains(project)
    done = project.lab("verify", name)
    assert done.returncode == 2, done.stdout
    said = {
        "unfinished": "--resume", "commit": "not in this clone", "patch": "does not apply",
        "damaged": "damaged", "config": "resnet19", "missing": "no run '19990101'",
    }  # fmt: skip
    assert said[what] in done.stderr
    assert "Traceback" not in done.stderr
    assert remains(project) == before
    assert not (run / "verification.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_behind_after_an_interruption(project, number):
    edit(project.runs()[-1] / "config.json", lambda config: config.update(epochs=2000))
    before = remains(project)
    command = [sys.executable, "-m", f"{project.package}.lab.cli", "verify", "latest"]
    process = subprocess.Popen(command, cwd=project.root, env=project.env, text=True,
                               stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    for line in process.stderr:
        if line.startswith("epoch 1 "):
            break
    (mine,) = set(remains(project)) - set(before)
    os.kill(process.pid, number)
    process.stderr.read()
    assert process.wait(timeout=30) == 128 + number
    assert remains(project) == before
    assert len(project.git("worktree", "list").stdout.splitlines()) == 1
    time.sleep(0.5)
    running = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True)
    assert str(mine) not in running.stdout


def test_a_colleague_with_a_clone_verifies_the_record_card(project, tmp_path):
    project.git("add", "-A")
    project.git("commit", "-qm", "the code", "--no-verify")
    project.train("--epochs", "2", check=True)
    script = (f"from {project.package}.lab import records; from pathlib import Path\n"
              "record = records.find(Path.cwd(), 'latest')\n"
              "records.write_card(record, Path('reports/01_baseline/run'))")  # fmt: skip
    project.python("-c", script, check=True)
    card = project.root / "reports" / "01_baseline" / "run"
    assert sum(path.stat().st_size for path in card.iterdir()) < 300_000
    for path in card.iterdir():
        path.read_text(encoding="utf-8")
        assert str(Path.home()) + "/" not in path.read_text()
    project.git("add", "-A")
    project.git("commit", "-qm", "the report", "--no-verify")
    clone = Project(tmp_path / "elsewhere")
    subprocess.run(["git", "clone", "-q", project.root, clone.root], check=True)
    done = clone.lab("verify", "reports/01_baseline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": identical" in done.stdout
    changed = clone.git("status", "--porcelain", "-uall").stdout.split()
    assert changed == ["??", "reports/01_baseline/run/verification.json"]


def test_a_project_without_a_commit_says_so_when_training_starts(pristine, tmp_path):
    root = tmp_path / "bare"
    shutil.copytree(pristine.root, root, symlinks=True)
    project = Project(root)
    env = {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    done = project.train("--epochs", "1", env=env)
    assert done.returncode == 0, done.stderr
    assert "lab verify" in done.stdout + done.stderr
    asked = project.lab("verify", "latest", env=env)
    assert asked.returncode == 2
    assert "without a commit" in asked.stderr
    assert "--again" in asked.stderr

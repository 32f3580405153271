"""`train.py` as a newcomer meets it: what it writes, and what it says when it cannot."""

import json
import os
import re
import shutil

import pytest
from conftest import Project, commit_all
from training import script

pytestmark = pytest.mark.torch


def test_a_run_leaves_every_file_of_the_record(trained):
    (run,) = trained.runs()
    assert re.fullmatch(r"\d{8}-\d{6}-digits-simple_cnn-s42-[0-9a-f]{4}", run.name)
    files = {path.name for path in run.iterdir()}
    assert files >= {
        "config.json", "environment.json", "code.json", "code.patch", "data.json",
        "metrics.jsonl", "predictions.npz", "checkpoint.pt", "best.pt", "result.json",
    }  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    assert config["epochs"] == 2
    assert config["device"] in ("cpu", "cuda", "mps")
    assert config["threads"] == 1
    assert not {"runs_dir", "resume", "workers"} & config.keys()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert list(rows[0]) == [
        "epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy",
        "learning_rate", "gradient_norm", "seconds",
    ]  # fmt: skip
    environment = json.loads((run / "environment.json").read_text())
    assert {"gpus", "cuda", "cudnn", "blas", "cpu_capability"} <= environment.keys()
    result = json.loads((run / "result.json").read_text())
    assert result["epochs"] == 2
    assert re.fullmatch(r"[0-9a-f]{64}", result["weights_sha256"])
    data = json.loads((run / "data.json").read_text())
    assert data["sizes"] == {"train": 1294, "validation": 144, "test": 359}


def test_the_weights_hash_is_of_the_checkpoint_and_best_of_best(trained):
    code = f"""
import json, sys, torch
from pathlib import Path
from {trained.package}.lab.records import weights_sha256
run = Path(sys.argv[1])
result = json.loads((run / "result.json").read_text())
state = torch.load(run / "checkpoint.pt", weights_only=True)
best = torch.load(run / "best.pt", weights_only=True)
assert weights_sha256(state["model"]) == result["weights_sha256"]
assert weights_sha256(best) == result["best_weights_sha256"]
best["0.weight"].view(-1)[0] += 1e-7
assert weights_sha256(best) != result["best_weights_sha256"]
one = torch.zeros(4)
others = dict(b=one), dict(a=one.reshape(2, 2)), dict(a=one.to(torch.int32))
assert weights_sha256(dict(a=one)) not in map(weights_sha256, others)
"""
    trained.python("-c", code, trained.runs()[0], check=True)


def test_main_can_be_imported_and_returns_record_and_model(repository):
    code = """
import train
record, model = train.main(["--epochs", "1", "--seed", "3"])
assert record.state == "finished" and record.config["seed"] == 3, record
assert record.result["weights_sha256"] == train.records.weights_sha256(model.state_dict())
"""
    repository.python("-c", code, check=True)


def test_paths_are_found_from_the_project_and_not_from_the_working_folder(repository, tmp_path):
    repository.train("--epochs", "1", check=True, cwd=tmp_path)
    assert len(repository.runs()) == 1
    assert list(tmp_path.glob("runs")) == []


BAD = {
    ("--dataset", "mnist"): ["unknown data set 'mnist'", "digits"],
    ("--model", "resnet19"): ["unknown model 'resnet19'", "resnet18, simple_cnn"],
    ("--epochs", "-3"): ["--epochs -3", "1 or more"],
    ("--learning-rate", "0"): ["--learning-rate 0"],
    ("--learning-rate", "inf"): ["--learning-rate inf"],
    ("--weight-decay", "inf"): ["--weight-decay inf"],
    ("--resume", ""): ["no run ''"],
    ("--batch-size", "4000"): ["--batch-size 4000", "1294 training images"],
    ("--dataset", "folder", "--data-dir", "/nowhere"): ["/nowhere is no folder", "train/<class>"],
    ("--device", "cuda"): ["--device cuda", "finds none"],
    ("--runs-dir", "/proc/none"): ["/proc"],
}


def test_a_seed_of_128_bits_is_taken(repository):
    """What NumPy recommends: `secrets.randbits(128)`."""
    repository.train("--epochs", "1", "--seed", 2**127, "--split-seed", 2**127, check=True)


WRONG = (("--epochs", "many"), ("--epoch-count", "3"), ("--amp", "fp16"))


@pytest.fixture(scope="module")
def refusals(pristine, tmp_path_factory):
    """What `train.py` says to each of the bad arguments, with its exit code."""
    root = tmp_path_factory.mktemp("refusals") / pristine.root.name
    shutil.copytree(pristine.root, root)
    project = commit_all(Project(root))
    body = """
said = [(run(argv), open("../output.txt").read()) for argv in argvs]
assert not os.path.exists("runs")
print(json.dumps(said))
"""
    argvs = [*BAD, *WRONG]
    said = json.loads(script(project, body, argvs=argvs).splitlines()[-1])
    return dict(zip(argvs, said, strict=True))


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_is_one_line_with_the_remedy_and_leaves_nothing_behind(refusals, arguments):
    code, said = refusals[arguments]
    assert code == 2, said
    assert len(said.strip().splitlines()) == 1, said
    for words in BAD[arguments]:
        assert words in said


@pytest.mark.parametrize("arguments", WRONG)
def test_a_wrong_flag_or_type_exits_with_2_and_says_which(refusals, arguments):
    code, said = refusals[arguments]
    assert code == 2
    assert arguments[0] in said


def test_help_names_every_option_with_its_default(repository):
    done = repository.train("--help", check=True)
    for option in ("--dataset", "--model", "--epochs", "--batch-size", "--learning-rate", "--seed",
                   "--device", "--amp", "--no-deterministic", "--threads", "--data-dir",
                   "--runs-dir", "--checkpoint-minutes", "--stop-after-epochs", "--resume"):  # fmt: skip
        assert option in done.stdout


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_refuses_writing_is_said_in_one_line(repository, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    repository.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", runs, check=True)
    try:
        done = repository.train("--runs-dir", runs)
    finally:
        repository.run("umount", runs, check=True)
    assert done.returncode == 2
    assert "Read-only file system" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_disk_that_breaks_is_said_in_one_line(repository):
    (repository.root / "runs").mkdir()
    (repository.root / "runs" / ".gitignore").touch()  # so that the record's own files come first
    code = "import errno, os, train\ndef broken(_):\n    raise OSError(errno.EIO, 'I/O error')\n"
    done = repository.python("-c", f"{code}os.fsync = broken\ntrain.main(['--epochs', '1'])")
    assert done.returncode == 2
    assert "I/O error" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_package_of_another_project_is_refused(repository, bake, tmp_path):
    """An old kernel may still hold the package of a project that was moved or copied."""
    other = bake()
    code = f"import sys; sys.path.insert(0, {str(other.root / 'src')!r}); import {other.package}.config"
    code += f"; sys.path.insert(0, {str(repository.root)!r}); import train; train.main([])"
    done = repository.python("-c", code, env={"PYTHONPATH": ""})
    assert done.returncode == 2
    assert "restart python" in done.stderr


def test_tuples_and_plain_words_with_a_dash_come_back_as_they_were(repository):
    path = repository.root / "src" / repository.package / "config.py"
    fields = "    widths: tuple[int, ...] = (32, 64)\n    tag: str = 'none'\n"
    fields += "    lambda_: float = 0.5\n    use_x: bool = False\n"  # lambda is a word of Python's
    mark = "    deterministic: bool"
    path.write_text(path.read_text().replace(mark, fields + mark, 1))
    train = repository.root / "train.py"
    check = "    config = replace(config, device=world.device.type)\n"
    text = train.read_text()
    assert check in text
    train.write_text(text.replace(check, check + "    assert isinstance(config.widths, tuple)\n"))
    repository.git("commit", "-qam", "fields", "--no-verify")
    begin = ("--epochs", "2", "--stop-after-epochs", "1", "--tag=-x")
    repository.train(*begin, check=True)
    done = repository.train("--resume", "latest", "--widths", "32", "64", check=True)
    assert "warning" not in (done.stdout + done.stderr).lower()
    assert "identical" in repository.lab("verify", "latest", check=True).stdout


@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
def test_a_number_that_json_cannot_hold_is_refused(repository, value):
    path = repository.root / "src" / repository.package / "config.py"
    mark = "    deterministic: bool"
    path.write_text(path.read_text().replace(mark, "    clip: float = 5.0\n" + mark, 1))
    done = repository.train(f"--clip={value}")
    assert done.returncode == 2
    assert f"--clip {value} is out of range" in done.stderr
    assert repository.runs() == []

"""`train.py` as a newcomer meets it: what it writes, and what it says when it cannot."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Project, commit_all
from training import assert_last_row_is_of_the_checkpoint, script

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


def test_the_numbers_of_a_record_are_those_of_its_predictions(trained):
    (run,) = trained.runs()
    result = json.loads((run / "result.json").read_text())
    with np.load(run / "predictions.npz") as stored:
        found = dict(stored)
    labels, scores = found["labels"], found["probabilities"]
    assert np.abs(scores.sum(1) - 1).max() < 1e-5
    assert result["test_accuracy"] == pytest.approx((scores.argmax(1) == labels).mean())
    losses = -np.log(scores[np.arange(len(labels)), labels])
    assert result["test_loss"] == pytest.approx(losses.mean(), rel=1e-3)
    wrong = np.flatnonzero(scores.argmax(1) != labels)
    surest = wrong[np.argsort(-scores.max(1)[wrong], kind="stable")][:16]
    assert found["wrong_index"].tolist() == surest.tolist()
    with np.load(next(trained.root.glob("src/*/digits.npz"))) as stored:
        images = map(np.ndarray.tobytes, stored["images"] * 15)
        digits = set(zip(images, stored["labels"], strict=True))
    for index, image in zip(surest, found["wrong_images"], strict=True):
        assert (image.tobytes(), labels[index]) in digits
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert 0.3 < rows[0]["train_accuracy"] < rows[1]["train_accuracy"] < 1
    assert rows[0]["train_loss"] > rows[1]["train_loss"]
    assert rows[1]["learning_rate"] < 1e-6  # a cycle's end
    assert result["seconds"] == pytest.approx(sum(row["seconds"] for row in rows))


def test_the_validation_of_the_last_row_is_that_of_the_last_weights(trained, research):
    assert_last_row_is_of_the_checkpoint(research, trained.runs()[0])


def test_a_value_of_a_run_that_the_config_lost_is_named(research):
    with pytest.raises(research.config.UserError, match="Config lacks clip, which the run has"):
        research.config.take_recorded([], {"seed": 1, "clip": 5.0}, research.root)


def test_a_run_goes_on_on_its_own_device_where_any_is_allowed(research):
    given, recorded = ["--device", "auto"], {"device": "cpu"}
    config, _ = research.config.take_recorded(given, recorded, research.root)
    assert config.device == "cpu"


def test_a_path_behind_an_equals_sign_knows_the_home_as_a_shell_does(research):
    _, options = research.config.parse_arguments(["--data-dir=~/images"])
    assert options.data_dir == Path.home() / "images"


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


def test_main_can_be_imported_and_gives_what_a_plain_loop_does_whatever_reading_the_data_draws(
    repository,
):
    code = """
import random, numpy, torch, train
argv = ["--epochs", "1", "--seed", "3"]
record, model = train.main(argv)
assert record.state == "finished" and record.config["seed"] == 3, record
assert record.result["weights_sha256"] == train.records.weights_sha256(model.state_dict())
assert torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == 1
drawn, load = [], train.load_splits
def load_splits(*arguments):
    drawn.append((random.random(), numpy.random.rand(), torch.rand(1).item()))
    return load(*arguments)
train.load_splits = load_splits
for seed in range(2):
    random.seed(seed), numpy.random.seed(seed), torch.manual_seed(seed)
    again, _ = train.main(argv)
    assert again.result["weights_sha256"] == record.result["weights_sha256"]
assert drawn[0] == drawn[1], drawn

config, options = train.configuration.parse_arguments(argv)
splits, sums = load(config, options), torch.zeros(3)
train.seeding.seed_everything(3)
plain = train.build_model(config, splits.input_shape, 10)
optimizer = torch.optim.AdamW(plain.parameters(), 0.01, weight_decay=0.01, fused=True)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, 21)
batches = train.TrainingBatches(splits, config, train.join_world("cpu"), 0)
for images, labels in batches.epoch(train.seeding.generator(3, train.DATA, 0)):
    logits = plain(images)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    plain.zero_grad()
    loss.backward()
    norm = torch.cat([value.grad.flatten() for value in plain.parameters()]).norm()
    optimizer.step()
    schedule.step()
    sums += torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean(), norm])
assert train.records.weights_sha256(plain.state_dict()) == record.result["weights_sha256"]
(row,) = record.metrics
said = torch.tensor([row["train_loss"], row["train_accuracy"], row["gradient_norm"]])
torch.testing.assert_close(said, sums / 20)
"""
    repository.python("-c", code, check=True, env={"OMP_NUM_THREADS": "2"})


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
    ("--batch-size", "0"): ["--batch-size 0", "1 or more"],
    ("--threads", "0"): ["--threads 0", "1 or more"],
    ("--image-size", "7"): ["--image-size 7", "8 or more"],
    ("--workers", "-1"): ["--workers -1", "0 or more"],
    ("--weight-decay", "-0.1"): ["--weight-decay -0.1", "0 or more"],
    ("--seed", "-1"): ["--seed -1", "0 or more"],
    ("--split-seed", "-1"): ["--split-seed -1", "0 or more"],
    ("--stop-after-epochs", "0"): ["--stop-after-epochs 0", "1 or more"],
    ("--checkpoint-minutes", "-1"): ["--checkpoint-minutes -1", "0 or more"],
    ("--memory-limit-mb", "-1"): ["--memory-limit-mb -1", "0 or more"],
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

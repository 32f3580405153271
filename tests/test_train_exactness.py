"""The same config gives the same bits, and what should change nothing changes nothing."""

import json
import re
import sys

import pytest
from datasets import write_cifar10, write_fashion_mnist, write_folder
from training import outcome, outcomes, script

pytestmark = pytest.mark.torch


def test_two_processes_with_another_locale_zone_and_hash_seed_give_the_same_bits(repository):
    repository.train("--epochs", "2", check=True)
    surroundings = {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "LANG": "C",
                    "OMP_NUM_THREADS": "2"}  # fmt: skip
    repository.train("--epochs", "2", check=True, env=surroundings)
    first, second = map(outcome, repository.runs())
    assert first == second


def test_run_options_and_an_interruption_change_nothing(repository):
    body = """
assert run(["--epochs", "3", "--runs-dir", "a"]) == 0
assert run(["--epochs", "3", "--runs-dir", "b", "--checkpoint-minutes", "0", "--workers", "0"]) == 0
assert run(["--epochs", "3", "--runs-dir", "c", "--stop-after-epochs", "1"]) == 0
assert not list(__import__("pathlib").Path("c").glob("*/result.json"))
assert run(["--resume", "latest", "--runs-dir", "c"]) == 0
"""
    script(repository, body)
    a, b, c = (outcome(next((repository.root / name).glob("2*"))) for name in "abc")
    assert a == b == c


def test_a_terminal_instead_of_a_pipe_changes_nothing(repository):
    """A pseudo-terminal makes tqdm draw its bar."""
    spawn = (
        "import pty, sys; sys.exit(pty.spawn([sys.executable, 'train.py', '--epochs', '1']) >> 8)"
    )
    repository.python("-c", spawn, check=True)
    repository.train("--epochs", "1", check=True)
    first, second = map(outcome, repository.runs())
    assert first == second


def test_the_notebook_s_run_magic_gives_the_same_bits_and_leaves_record_and_model(repository):
    cell = "%run ../train.py --epochs 1\nprint('left:', record.result['test_accuracy'], len(model))"
    (repository.root / "scratch").mkdir()
    done = repository.python("-m", "IPython", "-c", cell, cwd=repository.root / "scratch")
    assert re.search(r"left: 0\.\d+ 10", done.stdout), done.stdout + done.stderr
    repository.train("--epochs", "1", check=True)
    first, second = map(outcome, repository.runs())
    assert first == second


def test_a_run_magic_that_fails_leaves_no_record_of_the_run_before(repository):
    cell = "%run ../train.py --epochs 1\n%run ../train.py --epochs 0\nprint('left:', record, model)"
    done = repository.python("-m", "IPython", "-c", cell, cwd=repository.root / "notebooks")
    assert "left: None None" in done.stdout, done.stdout + done.stderr


def test_a_reader_that_goes_away_costs_no_run(repository):
    """As `| tee` at Ctrl-C, or `| head`."""
    command = f"{sys.executable} train.py --epochs 3 | head -n 1"
    repository.run("sh", "-c", command, check=True)
    (run,) = repository.runs()
    assert (run / "result.json").exists()


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "fashion_mnist", "folder"])
def test_every_data_set_and_bf16_give_the_same_bits_again(repository, dataset):
    data = repository.root / "data"
    {"cifar10": write_cifar10, "fashion_mnist": write_fashion_mnist, "folder": write_folder}.get(
        dataset, lambda _: None
    )(data)
    argv = ["--dataset", dataset, "--data-dir", "data", "--epochs", "2", "--batch-size", "32"]
    argv += ["--image-size", "16"]
    first, again, half, half_again = outcomes(
        repository, argv, argv, [*argv, "--amp", "bf16"], [*argv, "--amp", "bf16"]
    )
    assert first == again
    assert half == half_again
    assert first["result"]["weights_sha256"] != half["result"]["weights_sha256"]


ORDER = """
import hashlib, json
seen, seeds = [], []
original = train.TrainingBatches.epoch
def epoch(self, generator, *arguments):
    seeds.extend([generator.initial_seed(), train.torch.initial_seed()])
    for images, labels in original(self, generator, *arguments):
        seen.append(hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest())
        yield images, labels
train.TrainingBatches.epoch = epoch
finished = train.Training.test
def test(self):
    finished(self)
    name = self.options.runs_dir.name + ".json"
    with open(name, "w") as file:
        json.dump({"seen": seen, "seeds": seeds, "test": self.splits.test.pixels.sum().item(),
                   "validation": self.splits.validation.pixels.sum().item()}, file)
train.Training.test = test
"""


def test_model_options_do_not_move_the_batches_and_batch_size_does_not_move_the_splits(repository):
    outcomes(
        repository,
        ["--epochs", "2"],
        ["--epochs", "2", "--model", "resnet18"],
        ["--epochs", "2", "--learning-rate", "0.02", "--weight-decay", "0.3", "--amp", "bf16"],
        ["--epochs", "2", "--batch-size", "128"],
        ["--epochs", "2", "--seed", "7"],
        before=ORDER,
    )
    first, model, rate, batch, seed = (
        json.loads((repository.root / f"{number}.json").read_text()) for number in range(5)
    )
    assert first["seen"] == model["seen"] == rate["seen"]
    assert first["seen"] != seed["seen"]
    assert len(set(first["seen"])) == 40  # two epochs
    assert len({*first["seeds"], *seed["seeds"]}) == 8  # order and dropout, of two seeds and epochs
    for name in ("test", "validation"):
        assert first[name] == batch[name] == seed[name]


def add_randomness(project) -> None:
    """Give the loop dropout, NumPy's noise and Python's dice, as a researcher would."""
    models = next((project.root / "src").glob("*/models.py"))
    text = models.read_text().replace("nn.Flatten(),", "nn.Flatten(),\n        nn.Dropout(0.3),")
    models.write_text(text)
    train = project.root / "train.py"
    noise = (
        "            import random, numpy\n"
        "            images = images + float(numpy.random.rand()) * 0.1\n"
        "            images = images * random.choice([0.9, 1.1]) + torch.randn_like(images) * 0.1\n"
        "            with self.amp:\n"
    )
    text = train.read_text()
    assert text.count("            with self.amp:\n") == 2
    train.write_text(text.replace("            with self.amp:\n", noise, 1))


def test_dropout_the_global_generators_and_the_clock_go_on_within_an_epoch(repository):
    add_randomness(repository)
    body = """
clock = '''
from types import SimpleNamespace
seconds, cut = [0], False
train.time = SimpleNamespace(perf_counter=lambda: seconds[0])
original = train.Training.save_if_asked
def save_if_asked(self, started):
    seconds[0] += 1  # each step takes one
    if cut and self.progress.epoch == 1 and self.progress.step == 7:
        os.kill(os.getpid(), signal.SIGTERM)
    original(self, started)
train.Training.save_if_asked = save_if_asked
'''
stop_at = clock.replace("False", "True")
assert run(["--epochs", "3", "--runs-dir", "whole"], clock) == 0
assert run(["--epochs", "3", "--runs-dir", "cut"], stop_at) == 143
again = ["--resume", "latest", "--runs-dir", "cut"]
assert run([*again, "--stop-after-epochs", "1"], clock) == 0  # is past
assert "goes on at epoch 2, step 7" in open("../output.txt").read()
assert run(again, clock) == 0, open("../output.txt").read()
"""
    script(repository, body)
    runs = [next((repository.root / name).glob("2*")) for name in ("whole", "cut")]
    whole, cut = map(outcome, runs)
    assert whole == cut
    for run in runs:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["seconds"] for row in rows] == [20, 20, 20]
        assert json.loads((run / "result.json").read_text())["seconds"] == 60


LOGITS = """
real = train.build_model
def build_model(config, *arguments):
    model = real(config, *arguments)
    if config.seed == 42:
        model[-1].register_forward_hook(lambda module, _, logits: logits * 1000)
    return model
train.build_model = build_model
"""
LOSSES = """
seen, evaluated, tested = [], train.Training.evaluate, train.Training.test
def evaluate(self, split):
    loss, accuracy, log_probs = evaluated(self, split)
    seen.append(train.records.weights_sha256(self.model.state_dict()))
    if self.config.seed == 42 or split is self.splits.test:
        return loss, accuracy, log_probs
    losses = train.torch.tensor([0.7, 1.3]).repeat(len(split) // 2)  # a standard error of 0.3 / 12
    log_probs = -losses[:, None].expand(-1, 10)
    return [1.0, 0.5, 0.52, 0.53, 0.9][len(seen) - 1], accuracy, log_probs
def test(self):
    tested(self)
    with open("weights.txt", "w") as file:
        print(*seen, train.records.weights_sha256(self.model.state_dict()), file=file)
train.Training.evaluate, train.Training.test = evaluate, test
"""


def test_the_last_epoch_within_one_standard_error_is_tested_and_ties_and_zeros_stop_no_choice(
    repository,
):
    rounded, chosen = outcomes(
        repository, ["--epochs", "3"], ["--epochs", "5", "--seed", "1"], before=LOGITS + LOSSES
    )
    losses = [row["validation_loss"] for row in rounded["metrics"]]
    best = min(losses)
    assert best > 0.1  # some image's class has a probability of 0 in float32
    assert rounded["result"]["best_epoch"] >= 1 + losses.index(best)
    *epochs, test, left = (repository.root / "weights.txt").read_text().split()
    assert len(set(epochs)) == 5
    assert chosen["result"]["best_epoch"] == 3
    assert chosen["result"]["best_weights_sha256"] == test == epochs[2]
    assert chosen["result"]["weights_sha256"] == left == epochs[4]


@pytest.mark.slow
def test_the_defaults_reach_98_5_percent_on_the_digits_in_nine_of_ten_seeds(repository):
    results = outcomes(repository, *(["--seed", str(seed)] for seed in range(10)))
    reached = [run["result"]["test_accuracy"] >= 0.985 for run in results]
    assert sum(reached) >= 9, [run["result"]["test_accuracy"] for run in results]

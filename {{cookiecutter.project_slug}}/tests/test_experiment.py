"""What must stay true while you change the code; add a test for what you add."""

import json

import pytest
import torch

import train
from {{cookiecutter.__package_name}}.config import Config, RunOptions
from {{cookiecutter.__package_name}}.data import load_splits
from {{cookiecutter.__package_name}}.models import MODELS, build_model

ONE_EPOCH = ["--dataset", "digits", "--model", "simple_cnn", "--batch-size", "64", "--epochs", "1"]
ONE_EPOCH += ["--learning-rate", "0.01", "--device", "cpu"]  # whatever Config says


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One epoch on the digits."""
    runs = str(tmp_path_factory.mktemp("runs"))
    record, _ = train.main([*ONE_EPOCH, "--runs-dir", runs])
    return record


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_a_model_gives_a_logit_for_each_class_and_learns_in_every_layer(name, shape):
    model = build_model(Config(model=name), shape, classes=10)
    logits = model(torch.randn(4, *shape))
    assert logits.shape == (4, 10)
    logits.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_the_splits_share_no_image():
    splits = load_splits(Config(dataset="digits"), RunOptions())
    parts = [splits.train, splits.validation, splits.test]
    images = [{image.numpy().tobytes() for image in part.pixels} for part in parts]
    assert sum(map(len, parts)) == 1797
    assert not images[0] & images[1] | images[0] & images[2] | images[1] & images[2]


def test_one_epoch_learns_and_leaves_a_finished_record(run):
    assert run.state == "finished"
    assert run.result["test_accuracy"] > 0.5  # chance is 0.1
    assert json.loads((run.path / "config.json").read_text(encoding="utf-8"))["epochs"] == 1


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(run, tmp_path):
    options = [*ONE_EPOCH, "--runs-dir", str(tmp_path)]
    again, _ = train.main(options)
    other, _ = train.main([*options, "--seed", "43"])
    assert again.result["weights_sha256"] == run.result["weights_sha256"]
    assert other.result["weights_sha256"] != run.result["weights_sha256"]

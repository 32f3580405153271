"""Data sets as people have them: in the real formats, damaged, missing, and too large."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from datasets import write_cifar10, write_fashion_mnist, write_folder
from training import outcome, outcomes

pytestmark = pytest.mark.torch

FOLDER = ["--dataset", "folder", "--data-dir", "data", "--image-size", "16", "--epochs", "2",
          "--batch-size", "32"]  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "write", "sizes"),
    [
        ("cifar10", write_cifar10, [270, 30, 60]),
        ("fashion_mnist", write_fashion_mnist, [270, 30, 60]),
    ],
)
def test_a_data_set_in_torchvision_s_files_trains(repository, dataset, write, sizes):
    write(repository.root / "data")
    repository.train("--dataset", dataset, "--epochs", "20", check=True)
    (run,) = repository.runs()
    data = json.loads((run / "data.json").read_text())
    assert list(data["sizes"].values()) == sizes
    assert len(data["class_names"]) == 10
    assert [sum(counts) for counts in data["class_counts"].values()] == sizes
    with np.load(run / "predictions.npz") as stored:
        images, labels = stored["sample_images"], stored["sample_labels"]
    brightness = images[:, : images.shape[1] // 2].mean((1, 2, 3))  # tells the class
    assert (np.abs(brightness - 29.5 - labels * 19) < 5).all()  # each image has its own label
    # Twelve steps learn little, and how much differs with the CPU; 80 steps gave 0.83 or more in
    # each of seven seeds. Chance is 0.1.
    assert outcome(run)["result"]["test_accuracy"] > 0.5


@pytest.mark.parametrize("dataset", ["cifar10", "fashion_mnist"])
def test_without_its_files_and_a_network_a_data_set_says_what_to_put_where(repository, dataset):
    done = repository.train("--dataset", dataset, "--data-dir", repository.root / "nowhere",
                            env={"https_proxy": "http://127.0.0.1:9", "no_proxy": ""})  # fmt: skip
    assert done.returncode == 2
    file = {"cifar10": "cifar-10-python.tar.gz", "fashion_mnist": "FashionMNIST/raw"}[dataset]
    assert f"{repository.root}/nowhere/{file}" in done.stderr
    assert "--dataset digits" in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
    assert done.stderr.endswith(f"{said[0]}\n")  # one line, after torchvision's own
    assert repository.runs() == []


def test_a_pickle_that_would_run_code_is_refused(repository):
    write_cifar10(repository.root / "data")
    evil = b"cos\nsystem\n(S'touch owned'\ntR."
    (repository.root / "data" / "cifar-10-batches-py" / "data_batch_3").write_bytes(evil)
    done = repository.train("--dataset", "cifar10")
    assert done.returncode == 2
    assert "data_batch_3 is damaged" in done.stderr
    assert not (repository.root / "owned").exists()


def test_a_folder_too_large_for_memory_gives_the_same_bits_with_any_number_of_workers(repository):
    write_folder(repository.root / "data", ("train", "val", "test"))
    memory, stream, workers = outcomes(
        repository,
        FOLDER,
        [*FOLDER, "--memory-limit-mb", "0", "--workers", "0"],
        [*FOLDER, "--memory-limit-mb", "0", "--workers", "2"],
    )
    assert memory == stream == workers


def test_a_stream_cut_in_mid_epoch_goes_on_to_the_same_bits(repository):
    from training import script

    write_folder(repository.root / "data")
    body = """
stop_at = '''
original = train.Training.save_if_asked
def save_if_asked(self, started):
    if self.progress.epoch == 1 and self.progress.step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    original(self, started)
train.Training.save_if_asked = save_if_asked
'''
argv += ["--memory-limit-mb", "0"]
assert run([*argv, "--runs-dir", "whole"]) == 0, open("../output.txt").read()
assert run([*argv, "--runs-dir", "cut"], stop_at) == 143
again = ["--resume", "latest", "--runs-dir", "cut", "--data-dir", "data", "--memory-limit-mb", "0"]
assert run(again) == 0, open("../output.txt").read()
"""
    script(repository, body, argv=FOLDER)
    whole, cut = (outcome(next((repository.root / name).glob("2*"))) for name in ("whole", "cut"))
    assert whole == cut


@pytest.mark.parametrize(
    ("after", "name"), [(0.0, "SIGINT"), (0.05, "SIGTERM"), (0.1, "SIGUSR1"), (0.2, "SIGHUP")]
)
def test_a_signal_to_the_workers_too_still_saves(repository, after, name):
    """Slurm and `timeout` signal every process of a job, those that read images as well."""
    write_folder(repository.root / "data")
    process = subprocess.Popen(
        [sys.executable, "train.py", *FOLDER[:-4], "--epochs", "60", "--batch-size", "32",
         "--memory-limit-mb", "0"],
        cwd=repository.root, env=repository.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("epoch 1 "):
            break
    time.sleep(after)  # the next epoch's workers start, or are at work
    number = getattr(signal, name)
    os.killpg(process.pid, number)
    said = process.stdout.read()
    assert process.wait(timeout=60) == 128 + number, said
    assert "stopped by a signal" in said
    assert "Traceback" not in said


def test_a_training_that_fails_ends_its_workers_and_itself(repository):
    write_folder(repository.root / "data")
    train = repository.root / "train.py"
    text, loop = train.read_text(), "        for images, labels in self.batches.epoch("
    start = text.index(loop)
    end = text.index("\n", start)
    # a name for the batches keeps them, and their workers, in the traceback
    kept = text[start:end].replace("for images, labels in", "batches =").rstrip(":")
    kept += "\n        for images, labels in batches:\n            1 / (1 - progress.step)"
    train.write_text(text[:start] + kept + text[end:])
    done = repository.train(*FOLDER, "--memory-limit-mb", "0", timeout=100)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_one_validation_image_still_chooses_the_best_epoch(repository):
    write_folder(repository.root / "data", ("train", "test"))
    one = next((repository.root / "data" / "train" / "dark").iterdir())
    place = repository.root / "data" / "val" / "dark" / one.name
    place.parent.mkdir(parents=True)
    one.rename(place)
    done = repository.train(*FOLDER, check=True)
    assert "Warning" not in done.stderr
    (run,) = repository.runs()
    losses = [row["validation_loss"] for row in outcome(run)["metrics"]]
    assert losses[0] != losses[1]
    assert outcome(run)["result"]["best_epoch"] == 1 + losses.index(min(losses))


def test_a_run_goes_on_with_no_other_data_than_it_began_with(repository):
    write_folder(repository.root / "data")
    repository.train(*FOLDER, "--stop-after-epochs", "1", check=True)
    image = next((repository.root / "data" / "train" / "dark").iterdir())
    content = image.read_bytes()
    image.write_bytes(next((repository.root / "data" / "train" / "bright").iterdir()).read_bytes())
    done = repository.train("--resume", "latest", "--data-dir", "data")
    assert done.returncode == 2
    assert "is not the data of" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    image.write_bytes(content)
    repository.train("--resume", "latest", "--data-dir", "data", check=True)


def test_a_resumed_run_finds_its_data_where_it_was(repository, tmp_path):
    write_folder(tmp_path / "elsewhere")
    given = [*FOLDER, "--data-dir", tmp_path / "elsewhere"]  # the last of two wins
    assert repository.train(*given, "--stop-after-epochs", "1").returncode == 0
    done = repository.train("--resume", "latest")
    assert done.returncode == 0, done.stderr
    assert repository.train(*given).returncode == 0
    resumed, uninterrupted = sorted((repository.root / "runs").glob("2*"))
    assert outcome(resumed) == outcome(uninterrupted)


@pytest.mark.parametrize("limit", ["4096", "0"])
def test_a_corrupt_image_is_named(repository, limit):
    write_folder(repository.root / "data")
    broken = sorted((repository.root / "data" / "train" / "dark").iterdir())[5]
    broken.write_bytes(broken.read_bytes()[:40])
    done = repository.train(*FOLDER, "--memory-limit-mb", limit)
    assert done.returncode == 2
    assert str(broken) in done.stderr
    assert "not a readable image" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_without_classes_or_images_or_at_all_is_said(repository):
    data = repository.root / "data"
    done = repository.train(*FOLDER)
    assert (done.returncode, "train/<class>/*.png" in done.stderr) == (2, True)
    write_folder(data, ("train", "val"))
    shutil.move(data / "val" / "dark", data / "val" / "grey")
    done = repository.train(*FOLDER)
    assert (done.returncode, "train lacks ['grey'], which val has" in done.stderr) == (2, True)
    shutil.rmtree(data / "train" / "dark")
    (data / "train" / "dark").mkdir()
    done = repository.train(*FOLDER)
    assert (done.returncode, "images of ['bright']" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_a_class_without_a_png_or_jpg_is_named_and_not_left_out(repository):
    train = repository.root / "data" / "train"
    write_folder(repository.root / "data")
    (train / "dim").mkdir()
    (train / "dim" / "1.dcm").write_bytes(b"DICM")
    done = repository.train(*FOLDER)
    assert done.returncode == 2
    assert "images of ['bright', 'dark'], not ['dim']" in done.stderr


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_image_that_is_neither_png_nor_jpg_is_refused_and_not_left_out(repository, part):
    write_folder(repository.root / "data", ("train", "test"))
    (repository.root / "data" / "train" / "dark" / "Thumbs.db").write_bytes(b"Windows made it")
    (repository.root / "data" / "train" / "dark" / ".cache.webp").write_bytes(b"RIFF")
    (repository.root / "data" / "train" / "dark" / "movie.gif").mkdir()  # frames of it, perhaps
    other = repository.root / "data" / part / "dark" / "one.WebP"
    other.write_bytes(b"RIFF")
    done = repository.train(*FOLDER)
    assert done.returncode == 2
    assert f"{other} is neither png nor jpg" in done.stderr
    other.unlink()
    repository.train(*FOLDER, check=True)


def test_images_behind_a_linked_folder_are_not_left_out(repository, tmp_path):
    write_folder(repository.root / "data", ("train", "test"))
    (repository.root / "data" / "train" / "dark").rename(tmp_path / "more")
    (repository.root / "data" / "train" / "dark" / "of").mkdir(parents=True)
    (repository.root / "data" / "train" / "dark" / "of" / "old").symlink_to(tmp_path / "more")
    repository.train(*FOLDER, check=True)
    data = json.loads((repository.runs()[-1] / "data.json").read_text())
    counts = data["class_counts"]
    dark = counts["train"][data["class_names"].index("dark")]
    dark += counts["validation"][data["class_names"].index("dark")]
    assert dark == len(list((tmp_path / "more").iterdir()))


def test_a_damaged_image_of_the_test_set_ends_a_streamed_run_before_it_begins(repository):
    write_folder(repository.root / "data", ("train", "val", "test"))
    broken = max((repository.root / "data" / "test" / "dark").iterdir())
    broken.write_bytes(broken.read_bytes()[:40])
    done = repository.train(*FOLDER, "--memory-limit-mb", "0")
    assert done.returncode == 2
    assert f"{broken} is not a readable image" in done.stderr
    assert not repository.runs()


def test_grey_images_of_16_bits_keep_their_range(repository):
    code = f"""
import numpy as np
from pathlib import Path
from PIL import Image
from {repository.package}.data import _read_image
ramp = np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)
Image.fromarray(ramp).save("ramp.png")
read = _read_image(Path("ramp.png"), 64).float()
assert read.min() == 0 and read.max() == 255 and 127 < read.mean() < 128, read
"""
    repository.python("-c", code, check=True)


def test_what_systems_hide_in_a_folder_is_neither_image_nor_class(repository):
    train = repository.root / "data" / "train"
    write_folder(repository.root / "data")
    (train / "dark" / "._001.png").write_bytes(b"Mac OS X")
    (train / ".ipynb_checkpoints").mkdir()
    (train / ".ipynb_checkpoints" / "x.png").write_bytes(b"")
    (train / "empty").mkdir()
    done = repository.train(*FOLDER)
    assert done.returncode == 0, done.stderr
    (data,) = (repository.root / "runs").glob("*/data.json")
    assert json.loads(data.read_text())["class_names"] == ["bright", "dark"]


def test_two_ranks_share_no_image_and_miss_none(repository):
    code = f"""
import torch
from types import SimpleNamespace
from {repository.package}.batches import TrainingBatches
from {repository.package}.config import Config, RunOptions
from {repository.package}.data import load_splits
config = Config()
splits = load_splits(config, RunOptions())
def epoch(rank, size):
    world = SimpleNamespace(rank=rank, size=size, device=torch.device("cpu"))
    batches = TrainingBatches(splits, config, world, 0)
    return list(batches.epoch(torch.Generator().manual_seed(3)))
whole, first, second = epoch(0, 1), epoch(0, 2), epoch(1, 2)
assert len(whole) == len(first) == len(second)
for one, left, right in zip(whole, first, second):
    for k in (0, 1):
        assert torch.equal(one[k][0::2], left[k]) and torch.equal(one[k][1::2], right[k])
seen = torch.cat([images for images, _ in whole])
assert len(seen) == len(whole) * 64
splits_pixels = [split.pixels.flatten(1) for split in (splits.train, splits.validation, splits.test)]
assert sum(map(len, splits_pixels)) == 1797
"""
    repository.python("-c", code, check=True)


def test_a_stream_of_many_images_needs_few_open_files(repository):
    """1024 is what most systems allow; each image that came alone would keep one open."""
    write_folder(repository.root / "data", ("train", "test"), count=1200)
    code = (
        "import resource, sys, train\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))\n"
        "train.main(sys.argv[1:])\n"
    )
    argv = [*FOLDER, "--image-size", "8", "--epochs", "1", "--memory-limit-mb", "0"]
    done = repository.python("-c", code, *argv, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_too_few_images_to_split_are_said(repository):
    write_folder(repository.root / "data")
    for folder in (repository.root / "data" / "train").iterdir():
        for path in sorted(folder.iterdir())[1:]:
            path.unlink()
    done = repository.train(*FOLDER, "--batch-size", "1")
    assert done.returncode == 2
    assert "too few images" in done.stderr

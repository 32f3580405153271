"""From a data set's files to what a model sees: labels, shifts, flips, numbers, shares."""

import collections
import itertools
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import write_cifar10, write_folder
from PIL import Image

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def noise(research):
    """Give 600 images of 5x6, each its own class; those of validation and test are white."""
    import torch

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (600, 5, 6, 3), generator=generator, dtype=torch.uint8)
    pixels //= torch.tensor([1, 2, 4], dtype=torch.uint8)  # each channel has its own statistics
    train = research.data.Split(torch.arange(600), pixels)
    white = research.data.Split(torch.arange(600), torch.full_like(pixels, 255))
    return research.data.Splits(train, white, white, [], [], research.root, shift=1, flip=True)


@pytest.mark.parametrize(
    ("flip", "augment", "ways"), [(True, True, 18), (False, True, 9), (True, False, 1)]
)
def test_images_are_shifted_to_every_side_and_mirrored_if_the_data_set_and_the_user_want_it(
    research, noise, flip, augment, ways
):
    import torch

    config = research.config.Config(augment=augment, batch_size=64)
    world = SimpleNamespace(rank=0, size=1, device=torch.device("cpu"))
    made = research.batches.TrainingBatches(replace(noise, flip=flip), config, world, 0)
    stored = noise.train.pixels.double()
    padded = np.pad(stored.numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)))
    found, order = collections.Counter(), []
    for images, labels in made.epoch(torch.Generator().manual_seed(1)):
        order += labels.tolist()
        raw = images.permute(0, 2, 3, 1) * stored.std((0, 1, 2)) + stored.mean((0, 1, 2))
        for image, index in zip(raw.numpy(), labels.tolist(), strict=True):
            for top, left, step in itertools.product(range(3), range(3), (1, -1)):
                crop = padded[index, top : top + 5, left : left + 6][:, ::step]
                found[top, left, step] += int(np.abs(image - crop).max() < 1)
    assert sum(found.values()) == 576  # nine batches
    assert order != sorted(order)
    found = +found  # those that there are
    assert len(found) == ways
    assert min(found.values()) > 10
    if ways == 1:
        assert (1, 1, 1) in found
    drawn = research.batches.draw_changes(100, 1, flip, torch.Generator())
    assert drawn[:, 2].any() == flip
    (crop,) = research.batches.augment(noise.train.pixels[:1], torch.tensor([[0, 2, 1]]), 1)
    assert crop.tolist() == padded[0, 0:5, 2:8][:, ::-1].tolist()  # top, left, mirrored


def test_a_batch_is_at_most_all_images_and_the_same_for_each_process(research, noise):
    for size, processes, fits in ((600, 1, True), (601, 1, False), (64, 2, True), (63, 2, False)):
        world = SimpleNamespace(rank=0, size=processes, device=noise.train.labels.device)
        config = research.config.Config(batch_size=size)
        if fits:
            assert len(research.batches.TrainingBatches(noise, config, world, 0)) == 600 // size
            continue
        with pytest.raises(research.config.UserError, match=f"--batch-size {size}: use at most"):
            research.batches.TrainingBatches(noise, config, world, 0)


def test_each_process_evaluates_its_share_in_order_normalised_as_the_training_images(
    research, noise
):
    import torch

    stored = noise.train.pixels.double()
    wanted = (stored - stored.mean((0, 1, 2))) / stored.std((0, 1, 2), correction=0)
    for rank, size in ((0, 1), (0, 2), (1, 2)):
        world = SimpleNamespace(rank=rank, size=size, device=torch.device("cpu"))
        made = torch.cat(list(research.batches.evaluation_batches(noise, noise.train, world, 0)))
        shown = made.permute(0, 2, 3, 1).double()
        torch.testing.assert_close(shown, wanted[rank::size], rtol=0, atol=1e-4)


def test_samples_are_the_first_training_images_as_stored_augmented_and_normalised(noise):
    samples, stored = noise.samples, noise.train.pixels[:16].numpy()
    assert (samples["images"] == stored).all()
    assert samples["labels"].tolist() == list(range(16))
    changed = (samples["augmented"] != stored).reshape(16, -1).any(1)
    assert 8 < changed.sum() <= 16
    counts = replace(noise, class_names=["one"] * 601).data["class_counts"]
    assert [len(values) for values in counts.values()] == [601] * 3  # one that no image has
    mean, deviation = (values.numpy() for values in noise.statistics)
    assert np.abs(samples["normalised"] * deviation + mean - stored).max() < 0.01


def test_images_that_never_change_are_normalised_to_finite_numbers(research, noise):
    splits = replace(noise, train=noise.test)
    assert research.batches.normalise(splits.train.pixels, *splits.statistics).abs().max() < 1e-3


def test_digits_are_not_mirrored_and_fill_the_range_of_a_byte(research):
    splits = research.data.load_splits(research.config.Config(), research.config.RunOptions())
    assert (splits.shift, splits.flip) == (1, False)
    assert splits.train.pixels.unique().tolist() == list(range(0, 241, 15))


def test_a_photograph_is_cropped_around_its_middle_and_not_squeezed(research, tmp_path):
    wide = np.zeros((16, 32, 3), dtype=np.uint8)
    wide[:, 8:24] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert research.data._read_image(tmp_path / "wide.png", 16).min() == 255


def test_a_png_with_a_broken_part_is_named(research, tmp_path):
    path = tmp_path / "large.png"
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    head, *parts = path.read_bytes().split(b"IDAT")
    assert len(parts) > 1
    path.write_bytes(head + b"IDAT" + b"\0\0\0\0".join(parts))
    with pytest.raises(research.config.UserError, match=r"large\.png is not a readable"):
        research.data._read_image(path, 16)


def test_a_folder_is_read_into_memory_up_to_the_limit_in_one_order_whatever_the_disk_gives(
    research, tmp_path, monkeypatch
):
    write_folder(tmp_path, count=38)  # of 64x64, with a copy padded to 72x72: 37 are under 1 MB
    Config, RunOptions = research.config.Config, research.config.RunOptions
    config, options = Config(dataset="folder"), RunOptions(data_dir=tmp_path, memory_limit_mb=1)
    splits = research.data.load_splits(config, options)
    assert splits.train.pixels is None
    assert splits.files == sorted(tmp_path.rglob("*.*g"))
    for split in (splits.train, splits.validation, splits.test):
        named = [splits.class_names[label] for label in split.labels]
        assert named == [path.parent.name for path in split.paths]
    assert (splits.shift, splits.flip) == (4, True)
    glob = research.data.glob.glob
    monkeypatch.setattr(research.data.glob, "glob", lambda *a, **k: glob(*a, **k)[::-1])
    assert research.data.load_splits(config, options).train.paths == splits.train.paths
    splits.files[0].unlink()
    odd = splits.files[1].rename(splits.files[1].with_suffix(".JPEG"))
    again = research.data.load_splits(config, options)
    assert again.train.pixels is not None
    assert odd in again.files
    assert len(again.files) == 37
    world = SimpleNamespace(rank=0, size=1, device=again.train.labels.device)
    large = research.batches.TrainingBatches(again, replace(config, batch_size=24), world, 0)
    ((images, _),) = large.epoch(research.seeding.generator(0))
    assert images.shape == (24, 3, 64, 64)


def test_validation_images_are_checked_before_hours_are_spent_and_not_again_on_a_resume(
    research, tmp_path
):
    write_folder(tmp_path, ("train", "val"), count=38)
    next((tmp_path / "val" / "dark").iterdir()).write_bytes(b"\x89PNG\r\n")
    config = research.config.Config(dataset="folder", image_size=16)
    options = research.config.RunOptions(data_dir=tmp_path, memory_limit_mb=0)
    with pytest.raises(research.config.UserError, match="is not a readable image"):
        research.data.load_splits(config, options)
    files = research.data.load_splits(config, replace(options, resume="latest")).files
    assert files == sorted(tmp_path.rglob("*.*g"))  # what a resume compares, of both parts


def test_an_image_that_is_damaged_meanwhile_is_named_by_the_worker_that_reads_it(
    research, tmp_path
):
    import torch

    write_folder(tmp_path, count=2)
    _, bad = paths = sorted(tmp_path.rglob("*.*g"))
    bad.write_bytes(bad.read_bytes()[:40])
    split = research.data.Split(torch.arange(2), None, tuple(paths), 16)
    indices = [torch.tensor([0]), torch.tensor([1])]
    read = research.batches._read_ahead(split, indices, 1, split.labels.device)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert next(read).shape == (1, 16, 16, 3)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked  # in the workers alone
    with pytest.raises(research.config.UserError) as refused:
        list(read)
    assert str(refused.value).startswith(f"{bad} is not a readable image")


def test_a_file_of_cifar_that_was_cut_short_is_named(research, tmp_path):
    write_cifar10(tmp_path)
    options = research.config.RunOptions(data_dir=tmp_path)
    splits = research.data.load_splits(research.config.Config(dataset="cifar10"), options)
    assert (splits.shift, splits.flip, len(splits.files)) == (4, True, 7)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes()[:0])
    with pytest.raises(research.config.UserError, match="data_batch_3 is damaged"):
        research.data.load_splits(research.config.Config(dataset="cifar10"), options)


def test_the_small_model_takes_images_that_are_no_squares(research):
    import torch

    model = research.models.build_model(research.config.Config(), (3, 12, 20), 5)
    assert model(torch.zeros(2, 3, 12, 20)).shape == (2, 5)


def test_neighbouring_seeds_epochs_streams_and_ranks_give_unrelated_numbers(research):
    parts = itertools.product(range(5), range(1, 3), range(5), range(3))
    assert len({research.seeding.derive_seed(*part) for part in parts}) == 5 * 2 * 5 * 3

"""The figures: drawn from a record alone, the same bytes each time, right on odd data."""

import json

import pytest

pytestmark = pytest.mark.torch

CODE = """
import hashlib, importlib, json, sys
from pathlib import Path
import numpy as np
figures = importlib.import_module(sys.argv[1] + ".figures")
records = importlib.import_module(sys.argv[1] + ".lab.records")
record = records.find(Path.cwd(), "latest")
kinds = ("class_distribution", "samples", "learning_curves", "gradient_norm", "confusion_matrix",
         "roc_curves", "confident_mistakes")
"""


def draw(project, code, *arguments):
    """Run code that prints JSON, with `figures`, `record` and `kinds` at hand."""
    done = project.python("-W", "error", "-c", CODE + code, project.package, *arguments, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def drawn(trained):
    """Draw each figure twice, and say what was imported."""
    code = """
def show(kind):
    data, words = getattr(figures, kind)(record)._repr_mimebundle_()
    return [hashlib.sha256(data["image/png"].encode()).hexdigest(), len(data["image/png"]),
            words["image/png"], data["text/plain"]]
first, second = ({kind: show(kind) for kind in kinds} for _ in range(2))
import base64
png = {kind: base64.b64decode(getattr(figures, kind)(record)._repr_mimebundle_()[0]["image/png"])
       for kind in kinds}
print(json.dumps({"first": first, "second": second, "torch": "torch" in sys.modules,
    "dated": [kind for kind in kinds if b"tEXt" in png[kind] or b"tIME" in png[kind]]}))
"""
    return draw(trained, code)


def test_the_same_record_gives_the_same_bytes_without_a_date(drawn):
    assert drawn["first"] == drawn["second"]
    assert drawn["dated"] == []


def test_a_figure_needs_no_model_in_memory(drawn):
    assert not drawn["torch"]


def test_each_says_in_words_what_is_seen_and_how_to_read_it(drawn):
    for _, size, words, plain in drawn["first"].values():
        assert size > 2000
        assert words["alt"] == plain
        assert len(words["caption"]) > 30
    assert len({words["alt"] for _, _, words, _ in drawn["first"].values()}) == 7


def test_figures_are_matplotlib_figures_and_take_splits_as_well(trained):
    code = """
import matplotlib.figure
config = importlib.import_module(sys.argv[1] + ".config")
data = importlib.import_module(sys.argv[1] + ".data")
splits = data.load_splits(*config.parse_arguments([]))
shown = {}
for kind in kinds[:2]:
    of_splits, of_record = (getattr(figures, kind)(source) for source in (splits, record))
    assert isinstance(of_splits, matplotlib.figure.Figure)
    shown[kind] = of_splits._repr_mimebundle_() == of_record._repr_mimebundle_()
print(json.dumps(shown))
"""
    assert draw(trained, code) == {"class_distribution": True, "samples": True}


def test_they_hold_for_many_classes_no_mistakes_and_colour_images(trained):
    code = """
from types import SimpleNamespace
generator = np.random.default_rng(0)
for classes, side, channels, perfect in ((2, 8, 1, True), (120, 16, 3, False)):
    names = [f"class number {index}" for index in range(classes)]
    labels = np.arange(4 * classes) % classes
    scores = generator.random((len(labels), classes))
    scores += 10 * np.eye(classes)[labels] * perfect
    scores /= scores.sum(1, keepdims=True)
    wrong = np.flatnonzero(scores.argmax(1) != labels)[:16]
    images = generator.integers(0, 256, (16, side, side, channels), dtype=np.uint8)
    fake = SimpleNamespace(
        data={"class_names": names, "class_counts": {
            split: [5] * classes for split in ("train", "validation", "test")}},
        samples={"images": images, "augmented": images, "normalised": images / 128 - 1.0,
                 "labels": labels[:16]},
        predictions={"labels": labels, "probabilities": scores, "wrong_index": wrong,
                     "wrong_images": images[: len(wrong)]},
        metrics=record.metrics, result=record.result,
    )
    drawn = [getattr(figures, kind)(fake)._repr_mimebundle_()[0] for kind in kinds]
    sizes = [len(data["image/png"]) for data in drawn]
    assert min(sizes) > 1000, sizes
print(json.dumps("drawn"))
"""
    assert draw(trained, code) == "drawn"


def test_many_classes_and_long_names_are_legible(trained):
    code = """
from types import SimpleNamespace
from matplotlib.backends.backend_agg import FigureCanvasAgg
generator = np.random.default_rng(0)

def fake(names):
    classes, labels = len(names), generator.integers(0, len(names), 1000)
    scores = generator.random((1000, classes)) + np.eye(classes)[labels] * 0.4
    images = generator.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    return SimpleNamespace(
        data={"class_names": names, "class_counts": {
            split: [90] * classes for split in ("train", "validation", "test")}},
        samples={"images": images, "augmented": images, "normalised": images / 128 - 1.0,
                 "labels": np.arange(16) % classes},
        predictions={"labels": labels, "probabilities": scores, "wrong_images": images,
                     "wrong_index": np.flatnonzero(scores.argmax(1) != labels)[:16]},
    )

def shown(kind, names):
    chart = getattr(figures, kind)(fake(names))
    canvas = FigureCanvasAgg(chart)
    canvas.draw()
    return chart, np.asarray(canvas.buffer_rgba())[..., :3].astype(int)

bars = shown("class_distribution", [str(number) for number in range(200)])[1]
blue = int((abs(bars - (0, 0x72, 0xB2)).sum(-1) < 60).sum())
long = [f"species_{number}_of_the_northern_hemisphere" for number in range(10)]
heights, overlaps = {}, {}
for kind in ("class_distribution", "confusion_matrix"):
    heights[kind] = shown(kind, long)[0].axes[0].get_position().height
for kind, columns in (("samples", 10), ("confident_mistakes", 6)):
    for names in (long, ["Abyssinian_cat"] * 10):
        row = shown(kind, names)[0].axes[:columns]
        boxes = [axes.title.get_window_extent() for axes in row]
        overlaps[f"{kind} {names[0]}"] = int(sum(a.x1 > b.x0 for a, b in zip(boxes, boxes[1:])))
for kind in ("class_distribution", "samples", "confusion_matrix", "roc_curves", "confident_mistakes"):
    shown(kind, list(range(10)))  # names that are numbers
legend = shown("roc_curves", ["狗", "猫"])[0].axes[0].get_legend()
assert legend.get_texts()[0].get_family() == legend.axes.title.get_family()
right = shown("roc_curves", long)[0].axes[1]
(left, end), (low, high) = right.get_xlim(), right.get_ylim()
points = np.concatenate([line.get_xydata() for line in right.get_lines()[1:]])
seen = int(((points[:, 0] < end) & (points[:, 1] > low) & (points[:, 1] < 1)).sum())
print(json.dumps([blue, heights, overlaps, seen]))
"""
    blue, heights, overlaps, seen = draw(trained, code)
    assert blue > 10_000
    assert min(heights.values()) > 0.2, heights
    assert not any(overlaps.values()), overlaps
    assert seen > 10  # of a model that is no good there is something in the enlarged corner


def test_one_epoch_is_enough_for_every_curve(trained):
    code = """
from types import SimpleNamespace
one = SimpleNamespace(metrics=record.metrics[:1], result={**record.result, "best_epoch": 1})
for kind in ("learning_curves", "gradient_norm"):
    getattr(figures, kind)(one)._repr_mimebundle_()
print(json.dumps("drawn"))
"""
    assert draw(trained, code) == "drawn"


def test_the_chosen_epoch_s_accuracy_is_found_by_its_number(trained):
    code = """
from types import SimpleNamespace
rows = [{**record.metrics[0], "epoch": epoch, "validation_accuracy": epoch / 20}
        for epoch in (0, 5, 10)]
some = SimpleNamespace(metrics=rows, result={**record.result, "best_epoch": 10, "epochs": 10})
print(json.dumps(figures.learning_curves(some).title))
"""
    assert draw(trained, code).startswith("Epoch 10 of 10 is chosen: 50.00%")


def test_a_run_that_diverged_is_valid_json_and_is_drawn(repository):
    repository.train("--epochs", "2", "--learning-rate", "1e30", check=True)
    (run,) = repository.runs()
    for text in [(run / "result.json").read_text(), *(run / "metrics.jsonl").open()]:
        json.loads(text, parse_constant=pytest.fail)  # NaN is none of JSON's words
    code = "print(json.dumps([getattr(figures, kind)(record).title for kind in kinds[2:5]]))"
    assert any("diverged" in title for title in draw(repository, code))
    repository.lab("report", "01_baseline", "--run", "latest", "--to", "md", check=True)


def test_a_run_that_diverged_at_once_has_every_chart(repository):
    repository.train("--epochs", "1", "--learning-rate", "1e30", check=True)
    code = """
for kind in kinds[2:]:
    getattr(figures, kind)(record)._repr_mimebundle_()
print(json.dumps("drawn"))
"""
    assert draw(repository, code) == "drawn"


def test_class_names_in_chinese_are_drawn(pristine):
    code = (
        f"from types import SimpleNamespace; from {pristine.package} import figures\n"
        "counts = dict.fromkeys(('train', 'validation', 'test'), [2, 3])\n"
        "data = dict(class_names=['\u732b', '\u72d7'], class_counts=counts)\n"
        "figures.class_distribution(SimpleNamespace(data=data))._repr_mimebundle_()"
    )
    done = pristine.python("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr  # a missing letter is a warning

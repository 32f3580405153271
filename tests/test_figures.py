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

chart, bars = shown("class_distribution", [str(number) for number in range(200)])
places, named = chart.axes[0].get_xticks(), chart.axes[0].get_xticklabels()
assert [str(place) for place in places] == [text.get_text() for text in named], places
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


def test_charts_name_and_place_what_is_in_the_record(trained):
    code = """
from types import SimpleNamespace
names = ["ant", "bee", "cow", "dog"]
labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])  # no dog is tested
scores = np.array([[.7, .1, .1, .1], [.6, .2, .1, .1], [.5, .1, .1, .3], [.05, .9, .03, .02],
                   [.3, .4, .2, .1], [.1, .8, .1, 0], [.62, .1, .18, .1], [.1, .1, .7, .1]])
images = np.arange(64, dtype=np.uint8).reshape(4, 4, 4, 1)
rows = [{"epoch": n, "train_loss": 4 - n, "validation_loss": 5 - n, "train_accuracy": n / 10,
         "validation_accuracy": n / 4, "learning_rate": n, "gradient_norm": n} for n in (1, 2, 3)]
record = SimpleNamespace(
    data={"class_names": names, "class_counts": {
        "train": [30, 10, 20, 10], "validation": [3, 1, 2, 1], "test": [4, 2, 2, 0]}},
    samples={"images": images, "augmented": images + 100, "normalised": images / 16 - 2.0,
             "labels": np.array([2, 0, 1, 3])},
    predictions={"labels": labels, "probabilities": scores, "wrong_index": np.array([3, 6]),
                 "wrong_images": images[:2]},
    metrics=rows, result={"best_epoch": 2, "epochs": 3})
charts = [getattr(figures, kind)(record) for kind in kinds]
bars, sheet, curves, norm, matrix, roc, mistakes = (chart.axes for chart in charts)
titles = [chart.title for chart in charts]
words = [chart.caption for chart in charts]

def axis_names(axes):
    return axes.get_xlabel(), axes.get_ylabel()

def values(axes):
    return {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()
            if line.get_marker() == "."}

assert titles[0].startswith("The largest class is 3.00 times the smallest"), titles
assert "70 train, 7 validation, 8 test" in words[0], words
places = [[round(bar.get_center()[0], 2) for bar in kind] for kind in bars[0].containers]
assert places == [[n + shift for n in range(4)] for shift in (-.27, 0, .27)], places
assert [bar.get_height() for bar in bars[0].containers[0]] == [30, 10, 20, 10]
assert axis_names(bars[0]) == ("class", "samples")
assert [axes.get_title() for axes in sheet] == ["cow", "ant", "bee", "dog", *[""] * 8]
assert [axes.get_ylabel() for axes in sheet[::4]] == ["stored", "augmented", "normalised"]
drawn = [axes.get_images()[0].get_array() for axes in sheet]
for row, shown in enumerate((images / 255, (images + 100) / 255, images / 63)):
    for column in range(4):
        assert np.allclose(drawn[4 * row + column], shown[column, ..., 0]), (row, column)
assert titles[2].startswith("Epoch 2 of 3 is chosen: 50.00%"), titles
assert values(curves[0]) == {"train": [3, 2, 1], "validation": [4, 3, 2]}
assert list(values(curves[1]).values()) == [[.1, .2, .3], [.25, .5, .75]]
assert [axes.get_lines()[-1].get_xdata() for axes in curves] == [[2, 2]] * 3
assert "between 1 and 3" in titles[3], titles
assert titles[4].startswith("6 of 8 "), titles
assert "75.00% are right" in words[4], words  # 3 of 4, 2 of 2, 1 of 2
counts = {text.get_position(): int(text.get_text()) for text in matrix[0].texts}
assert counts == {(0, 0): 3, (1, 0): 1, (1, 1): 2, (0, 2): 1, (2, 2): 1}, counts  # said, true
shares = matrix[0].get_images()[0].get_array()
assert shares[0].tolist() == [.75, .25, 0, 0] and shares[3].tolist() == [0] * 4, shares
assert axis_names(matrix[0]) == ("predicted class", "true class")

def area(truth, scores):
    won = np.sign(scores[truth][:, None] - scores[~truth]) / 2 + 0.5
    return won.mean()

areas = {n: area(labels == n, scores[:, n]) for n in range(3)}
said = [text.get_text() for text in roc[0].get_legend().get_texts()]
assert said == [*(f"{names[n]}: {areas[n]:.4f}" for n in areas), "micro average"], said
assert titles[5].endswith(f" {min(areas.values()):.4f}"), titles
assert f"{area(labels[:, None] == range(4), scores):.4f}" in words[5], words
assert axis_names(roc[0]) == ("false positive rate", "true positive rate")
assert [axes.get_title() for axes in mistakes[:2]] == [
    "true ant\\nsaid bee (90%)", "true cow\\nsaid ant (62%)"]
assert np.allclose(mistakes[1].get_images()[0].get_array(), images[1, ..., 0] / 255)
print(json.dumps("as recorded"))
"""
    assert draw(trained, code) == "as recorded"

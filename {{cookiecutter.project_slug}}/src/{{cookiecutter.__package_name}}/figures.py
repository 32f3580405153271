"""The pictures of sections 3, 5 and 6, drawn from a run's record with no model in memory.

Each function takes a `Record` (the first two also `Splits`: they read `data` and `samples` alone)
and returns a `Chart`, which is a matplotlib figure. Colours are those of Okabe and Ito, told apart
by the colour-blind, and lines have styles, told apart in print. The same record gives the same
bytes. Images have the shape (samples, height, width, channels), probabilities (samples, classes).
"""

import base64
import io
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import font_manager, style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn import metrics

from .lab.records import Record

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
MANY = 30  # with more classes than this, not all are named and counted in a picture
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "SimHei", "Microsoft YaHei", "Heiti TC")  # for Chinese
RC = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}


class Chart(Figure):
    """A figure with a title that says what is seen and a caption that says how to read it."""

    title = caption = ""

    def _repr_mimebundle_(self, include=None, exclude=None):  # noqa: ARG002 (Jupyter passes them)
        """Give Jupyter the picture, and `lab report` what to write beside it."""
        png = io.BytesIO()
        self.savefig(png, format="png", metadata={"Software": None})  # equal data, equal bytes
        data = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": self.title}
        return data, {"image/png": {"alt": self.title, "caption": self.caption}}


def _chart(title: str, caption: str, panels=(1, 1), height=2.7):
    """Start a chart of `height` inches; return it with its axes, always in two dimensions."""
    here = [name for name in FONTS if name in font_manager.get_font_names()]
    # whatever the user's own settings are
    with style.context(["default", {**RC, "font.family": here}]):
        chart = Chart(figsize=(6.3, height), dpi=180, layout="constrained")
        chart.title, chart.caption = title, caption
        chart.suptitle(title, x=0.01, ha="left", fontsize=12)
        return chart, chart.subplots(*panels, squeeze=False)


def _names(source: Any) -> list[str]:
    """Return the names of the classes, long ones without their middle."""
    return [n if len(n) < 17 else f"{n[:7]}…{n[-8:]}" for n in map(str, source.data["class_names"])]


def _name_ticks(axis, names: list[str]) -> None:
    """Write class names along an axis, every n-th where not all fit."""
    step = -(-len(names) // MANY)
    long = max(map(len, names)) * len(names) / step > 60
    axis.set_ticks(range(0, len(names), step), names[::step])
    if long:
        axis.set_tick_params(labelsize=7, rotation=90 if axis.axis_name == "x" else 0)


def _draw(axes, image: np.ndarray, low: float, high: float, title: str = "") -> None:
    """Draw one image whose values lie between `low` and `high`."""
    pixels = ((image - low) / max(high - low, 1e-9)).clip(0, 1)
    axes.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    letters = max(map(len, title.split("\n"))) * axes.get_gridspec().ncols  # of a whole row
    axes.set_title(title, fontsize=min(8, 700 / max(letters, 1)))


def class_distribution(source: Any) -> Chart:
    """Draw how many samples of each class each split of `source` has, as grouped bars."""
    names, counts = _names(source), source.data["class_counts"]
    sizes = ", ".join(f"{sum(values):,} {split}" for split, values in counts.items())
    share = max(counts["train"]) / least if (least := min(counts["train"])) else float("inf")
    title = f"The largest class is {share:.2f} times the smallest (training split)"
    chart, [[axes]] = _chart(title, f"Samples of each class in each split: {sizes}.")
    for index, (split, values) in enumerate(counts.items()):
        places = np.arange(len(names)) + (index - 1) * 0.27
        look = {"color": COLOURS[index], "hatch": ("", "///", "...")[index], "edgecolor": "white"}
        axes.bar(places, values, width=0.27, label=split, lw=len(names) <= MANY, **look)
    _name_ticks(axes.xaxis, names)
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="class", ylabel="samples")
    axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    return chart


def samples(source: Any, columns: int = 10) -> Chart:
    """Draw `columns` training samples of `source` as stored, augmented and normalised."""
    sheet, names = source.samples, _names(source)
    columns = min(columns, len(sheet["labels"]))
    low, high = float(sheet["normalised"].min()), float(sheet["normalised"].max())
    caption = (
        f"{columns} training samples: as stored; augmented, one random draw of many; normalised, "
        f"to values between {low:.1f} and {high:.1f}."
    )
    chart, axes = _chart("What is stored, and what the model sees", caption, (3, columns), 2.6)
    for row, kind in enumerate(("images", "augmented", "normalised")):
        bounds = (low, high) if kind == "normalised" else (0, 255)
        for panel, image, label in zip(axes[row], sheet[kind], sheet["labels"], strict=False):
            _draw(panel, image, *bounds, title="" if row else names[label])
        axes[row, 0].set_ylabel(kind.replace("images", "stored"), fontsize=8)
    return chart


def learning_curves(record: Record) -> Chart:
    """Draw loss, accuracy and learning rate of each epoch, with the chosen one marked."""
    lines, best, last = record.metrics, record.result["best_epoch"], record.result["epochs"]
    found = {line["epoch"]: line for line in lines}[best]["validation_accuracy"]
    chart, [axes] = _chart(
        f"Epoch {best} of {last} is chosen: {found:.2%} of the validation images are right",
        f"Dotted: epoch {best}, the last whose validation loss is within one standard error of the "
        "lowest, is tested. Training values: means over an epoch's steps, with any augmentation.",
        panels=(1, 3),
    )
    for panel, name in zip(axes, ("loss", "accuracy", "learning_rate"), strict=True):
        for index, split in enumerate([""] if name == "learning_rate" else ["train", "validation"]):
            values = np.array([line[f"{split}_{name}".strip("_")] for line in lines], dtype=float)
            look = {"color": COLOURS[index], "linestyle": DASHES[index], "label": split}
            panel.plot([line["epoch"] for line in lines], values, marker=".", **look)
        panel.axvline(best, color="0.3", linestyle=":")
        panel.set(title=name.replace("_", " "), xlabel="epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    if (np.array([line["train_loss"] for line in lines], dtype=float) > 0).any():
        axes[0].set_yscale("log")  # a run that diverged at once has nothing to scale
    axes[1].legend(loc="lower right", frameon=False)
    return chart


def gradient_norm(record: Record) -> Chart:
    """Draw the norm of the gradients of each epoch, which shows whether all vanish."""
    norms = np.array([line["gradient_norm"] for line in record.metrics], dtype=float)
    known = norms[np.isfinite(norms)]  # a run that diverged has no others
    title = f"The training diverged: in {len(norms) - len(known)} epochs there is no norm"
    if len(known) == len(norms):
        title = f"The gradient's norm stays between {known.min():.2g} and {known.max():.2g}"
    chart, [[axes]] = _chart(title, "L2 norm of the gradients, the mean of each epoch.", height=2.0)
    axes.plot([line["epoch"] for line in record.metrics], norms, marker=".", color=COLOURS[0])
    axes.set(xlabel="epoch", ylabel="gradient norm", yscale="log" if known.any() else "linear")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return chart


def confusion_matrix(record: Record) -> Chart:
    """Draw which class is taken for which on the test set: shares by colour, counts as numbers."""
    names, labels = _names(record), record.predictions["labels"]
    said = record.predictions["probabilities"].argmax(1)
    counts = metrics.confusion_matrix(labels, said, labels=range(len(names)))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    chart, [[axes]] = _chart(
        f"{np.trace(counts)} of {counts.sum()} test images are classified correctly",
        "Confusion matrix of the test set: counts, coloured by their share of the true class. "
        f"Averaged over the classes, {np.diag(shares)[counts.any(1)].mean():.2%} are right.",
        height=4.0,
    )
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts) if len(names) <= MANY else ():
        ink = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=ink)
    _name_ticks(axes.xaxis, names)
    _name_ticks(axes.yaxis, names)
    axes.grid(visible=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    chart.colorbar(picture, label="share of the true class", shrink=0.8)
    return chart


def roc_curves(record: Record) -> Chart:
    """Draw the ROC of each class against the rest, and the micro average, with their areas."""
    names, scores = _names(record), np.nan_to_num(record.predictions["probabilities"])
    truth = record.predictions["labels"][:, None] == np.arange(len(names))
    tested = [index for index in range(len(names)) if truth[:, index].any()]
    curves = {index: metrics.roc_curve(truth[:, index], scores[:, index])[:2] for index in tested}
    areas = {index: metrics.auc(*curve) for index, curve in curves.items()}
    micro = metrics.roc_curve(truth.ravel(), scores.ravel())[:2]
    worst = sorted(tested, key=areas.get)[:10]
    title = f"The lowest AUC of a class is {areas[worst[0]]:.4f}"
    caption = (
        "ROC of each tested class against the rest; AUC of the micro average: "
        f"{metrics.auc(*micro):.4f}. On the right the upper left corner, enlarged."
    )
    chart, [axes] = _chart(title, caption, (1, 2), 3.4)
    for panel in axes:
        panel.plot([0, 1], [0, 1], color="0.7", linewidth=1)  # guessing
        for index, dash, colour in zip(tested, cycle(DASHES), cycle(COLOURS), strict=False):
            label = f"{names[index]}: {areas[index]:.4f}" if index in worst else None
            panel.plot(*curves[index], label=label, color=colour, linestyle=dash)
        panel.plot(*micro, color="0.4", linewidth=4, alpha=0.4, label="micro average")
        panel.set(xlabel="false positive rate", ylabel="true positive rate")
    font = {"family": axes[0].title.get_family(), "size": 8}  # Chinese, too
    axes[0].legend(title="class: AUC", loc="lower right", prop=font)
    corner = max(0.1, 2 * np.maximum(micro[0], 1 - micro[1]).min())  # where the curves bend
    axes[1].set(xlim=(-corner / 50, corner), ylim=(1 - corner, 1 + corner / 50))
    return chart


def confident_mistakes(record: Record, columns: int = 6) -> Chart:
    """Draw the `columns` wrong predictions of which the model was surest, with both labels."""
    names, found = _names(record), record.predictions
    wrong = found["wrong_index"][: 2 * columns]
    rows = -(-len(wrong) // columns)
    title, caption = "There are no mistakes", "All test images are classified correctly."
    if rows:
        title = "The mistakes of which the model is surest"
        caption = "Wrongly classified test images, and how sure the model was of its answer."
    chart, axes = _chart(title, caption, (max(rows, 1), columns), height=0.4 + 1.3 * rows)
    for panel in axes.flat[len(wrong) :]:
        panel.set_axis_off()
    for index, image, panel in zip(wrong, found["wrong_images"], axes.flat, strict=False):
        true, scores = names[found["labels"][index]], found["probabilities"][index]
        title = f"true {true}\nsaid {names[scores.argmax()]} ({scores.max():.0%})"
        _draw(panel, image, 0, 255, title)
    return chart

# %% [markdown]
# # A small convolutional network reads 8×8 digits

# %% tags=["parameters"]
dataset = "digits"
architecture = "simple_cnn"
epochs = 30
seed = 42
run = None  # lab report --run sets it, and shows that run in place of %run below

# %%
# %load_ext autoreload
# %autoreload 2

from IPython.display import Markdown

from {{ cookiecutter.__package_name }} import figures
from {{ cookiecutter.__package_name }}.config import ROOT, parse_arguments, take_recorded
from {{ cookiecutter.__package_name }}.data import load_splits
from {{ cookiecutter.__package_name }}.lab import code, environment
from {{ cookiecutter.__package_name }}.lab.records import find
from {{ cookiecutter.__package_name }}.models import build_model

arguments = f"--dataset {dataset} --model {architecture} --epochs {epochs} --seed {seed}"
config, options = parse_arguments(arguments.split())
if run:
    found = find(ROOT, run)
    config, options = take_recorded([], found.config, found.data_folder(ROOT))

# %% [markdown]
# ## 1. Purpose
#
# Can a network small enough to train in seconds on a laptop read handwritten digits that have
# only 64 pixels each? If it can, it is the baseline that every later experiment of this project
# has to beat, and a check that all tools work.
#
# **Hypothesis.** Two blocks of convolution, trained for 30 epochs on fewer than 1,300 images,
# classify at least **98.5%** of the unseen test images correctly.
#
# **Why it is plausible.** A nearest-neighbour classifier, which knows nothing of images,
# already gets most of these digits right (section 3 measures it). A convolution shares its
# weights over all positions, so a stroke learned in one place is known in all, which should remove
# a good part of the remaining mistakes. Training images are also shifted by up to a pixel; whether
# that helps digits that are all centred is open (section 7).
#
# The network minimises the cross-entropy between its answer and the label, averaged over a batch
# of $N$ images with $C = 10$ classes:
#
# $$
# \mathcal{L}(\theta) = -\frac{1}{N} \sum_{i=1}^{N} \log p_\theta(y_i \mid x_i),
# $$
#
# $$
# p_\theta(c \mid x) = \frac{\exp z_c(x)}{\sum_{k=1}^{C} \exp z_k(x)},
# $$
#
# where $z(x) \in \mathbb{R}^C$ are the network's outputs for the image $x$ and $y_i$ is the true
# class. Guessing costs $\log 10 \approx 2.303$: a loss near this value means that nothing has been
# learned.

# %% [markdown]
# ## 2. Environment
#
# Nothing special is needed: a CPU is enough, and the data come with the project. The run's record
# keeps every package with its version, and conda's with their build; these are the parts that matter
# most here.

# %%
from datetime import UTC, datetime

if run:
    machine, source = found.environment, found.code
    started = datetime.strptime(found.id[:15], "%Y%m%d-%H%M%S")
else:
    machine = environment.capture(config.threads, 1, config.device)
    source, _ = code.capture(ROOT, [])
    started = datetime.now(UTC)
versions = {package["name"]: package["version"] for package in machine["packages"]}
rows = {
    "time": f"{started:%Y-%m-%d %H:%M} UTC",
    "commit": f"{str(source['commit'])[:10]}{', with uncommitted changes' if source['dirty'] else ''}",
    "system": machine["platform"],
    "processor": f"{machine['cpu']['model']}, {machine['threads']} thread(s) used",
    "GPU, CUDA": f"{', '.join(machine['gpus']) or 'no GPU'}; built for CUDA {machine['cuda']}",
    "Python": machine["python"],
    **{name: versions.get(name) for name in ("torch", "numpy", "scikit-learn")},
}
Markdown("| what | found |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in rows.items()))

# %% [markdown]
# ## 3. Data
#
# The data are the test part of the
# [optical recognition of handwritten digits](https://archive.ics.uci.edu/dataset/80) set: 1,797 grey
# images of 8×8 pixels, each pixel a count from 0 to 16, by 13 writers. A fifth, by the same writers,
# is our test set, used only once, at the end; a tenth of the rest is the validation set, which
# chooses the best epoch. The classes are about equally frequent, so accuracy is a fair measure.

# %%
splits = load_splits(config, options)
figures.class_distribution(splits)

# %% [markdown]
# Pixels are normalised with the mean and standard deviation of the training split. Augmentation
# shifts each training image by up to one pixel, differently in each epoch; it never flips, because
# a mirrored digit is not a digit.

# %%
figures.samples(splits)

# %% [markdown]
# The model to beat is the nearest neighbour by Euclidean distance, measured on the validation
# split so that the test images stay unseen.

# %%
import torch
from sklearn.neighbors import KNeighborsClassifier

train, validation = (
    (split.read(torch.arange(len(split))).flatten(1).numpy(), split.labels.numpy())
    for split in (splits.train, splits.validation)
)
neighbour = KNeighborsClassifier(n_neighbors=1).fit(*train).score(*validation)
Markdown(f"Nearest neighbour: **{neighbour:.2%}** of the validation images right.")

# %% [markdown]
# ## 4. Model
#
# Each block is there for a reason:
#
# | part | why |
# |---|------|
# | 3×3 convolution, 32 then 64 channels | finds strokes wherever they are; doubling the channels as the image shrinks keeps information |
# | batch normalisation | lets the high learning rate of the one-cycle schedule work |
# | 2×2 maximum pooling, then ReLU | tolerates a shift of one pixel; ReLU after pooling gives the same result from a quarter of the values |
# | flatten and one linear layer | sees *where* a stroke is, which tells 6 from 9; averaging over positions would lose this |

# %%
from torchinfo import summary

network = build_model(config, splits.input_shape, len(splits.class_names))
columns = {"col_names": ["output_size", "num_params"], "col_width": 16}
summary(network, input_size=(1, *splits.input_shape), device="cpu", **columns)

# %%
parameters = sum(parameter.numel() for parameter in network.parameters())
Markdown(f"**{parameters:,}** parameters, for {len(splits.train):,} training images.")

# %% [markdown]
# ## 5. Training
#
# AdamW with a one-cycle schedule: the learning rate rises to its peak and falls to nearly nothing,
# so that the last epochs settle; the first beta moves the other way, and weight decay acts on all
# parameters. Of the epochs whose validation loss lies within one standard error of the lowest, the
# last one is tested: so few validation images can hardly tell them apart. The same `train.py` runs
# here, in a terminal and on a cluster.

# %%
record = model = None  # so that a %run that fails shows no earlier run
# %run ../train.py {arguments}
if record is None:
    raise RuntimeError("the training failed; its message is above")

# %%
figures.learning_curves(record)

# %% [markdown]
# Do the gradients vanish? They do if their norm falls towards zero while the loss is still high; if
# the norm shrinks together with the loss, there is little left to learn. (It is the norm over all
# layers: one layer that learns nothing does not show in it.)

# %%
figures.gradient_norm(record)

# %% [markdown]
# ## 6. Results

# %%
result = record.result
chosen = {row["epoch"]: row for row in record.metrics}[result["best_epoch"]]
validated = chosen["validation_accuracy"]
Markdown(
    f"Tested once, with the weights of epoch {result['best_epoch']}: accuracy "
    f"**{result['test_accuracy']:.2%}**. The run is `{record.id}`. Of the validation images "
    f"{validated:.2%} are right; the nearest neighbour had {neighbour:.2%} "
    f"(one image is {1 / len(splits.validation):.1%})."
)

# %%
figures.confusion_matrix(record)

# %%
figures.roc_curves(record)

# %% [markdown]
# One number says little about what was learned. The mistakes say more: is there anything in these
# images from which a person could tell the true class?

# %%
figures.confident_mistakes(record)

# %%
labels, probabilities = record.predictions["labels"], record.predictions["probabilities"]
guesses, tested = probabilities.argmax(1), len(labels)
wrong = int((guesses != labels).sum())
ranked = (probabilities > probabilities[range(tested), labels][:, None]).sum(1) < 2
Markdown(
    f"{wrong or 'None'} of {tested} test images {'is' if wrong < 2 else 'are'} misclassified, "
    f"and for {int(ranked.sum())} the true class is the model's first or second choice. The least "
    f"sure answer has a probability of {probabilities.max(1).min():.0%}."
)

# %% [markdown]
# The curves of section 5 say whether more training could help: where the training loss still falls
# and the validation loss no longer does, the network learns the training images by heart, and more
# epochs would hardly make it read new digits better.

# %% [markdown]
# ## 7. Conclusion and next steps

# %%
from statistics import NormalDist

target, accuracy = 0.985, result["test_accuracy"]
z = NormalDist().inv_cdf(0.975)
spread = z / tested * (accuracy * (1 - accuracy) * tested + z**2 / 4) ** 0.5
low, high = (  # Wilson's interval, 95%
    (accuracy + z**2 / (2 * tested) + sign * spread) / (1 + z**2 / tested) for sign in (-1, 1)
)
settled = low > target or high < target
Markdown(
    f"The hypothesis **{'holds' if accuracy >= target else 'does not hold'}** in run `{record.id}`: "
    f"{accuracy:.2%} of {tested} test images are right; the target was {target:.1%}. On new images of "
    f"this kind the rate is between {low:.1%} and {high:.1%} (95% interval), which "
    f"{'settles the question' if settled else 'does not settle it; nor can more seeds, on the same images'}."
)

# %% [markdown]
# One seed is one random draw. What the project should do next:
#
# 1. Repeat with ten seeds (`python train.py --seed 0` to `9`, their mean by `lab runs --group`), then
#    with other splits (`--split-seed 1`, …): all seeds share one split, and with so few images the
#    split moves the accuracy more than the seed does.
# 2. Train without the shifts (`--no-augment`): do they help digits that are all centred?
# 3. Try other images: `lab new "And clothes?"`, with `dataset = "fashion_mnist"`, whose classes are
#    harder to tell apart.

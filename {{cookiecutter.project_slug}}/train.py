"""Train a model, and keep the run as a record: `python train.py --help`.

The same code runs from a shell, from a notebook (`%run ../train.py`) and under torchrun.
"""

import contextlib
import errno
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))  # the code beside this file, whatever is installed
# as the sources are now, before the slow imports: `capture` names those that were edited since
WRITTEN = {p: p.lstat().st_mtime_ns for p in (*ROOT.glob("*.py"), *ROOT.glob("src/**/*.py"))}

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from {{cookiecutter.__package_name}} import config as configuration
from {{cookiecutter.__package_name}} import seeding
from {{cookiecutter.__package_name}}.batches import TrainingBatches, evaluation_batches
from {{cookiecutter.__package_name}}.config import Config, RunOptions, UserError
from {{cookiecutter.__package_name}}.data import Split, Splits, load_splits
from {{cookiecutter.__package_name}}.distributed import World, join_world
from {{cookiecutter.__package_name}}.lab import checkpoints, records
from {{cookiecutter.__package_name}}.lab.checkpoints import Checkpoints, StopSignals
from {{cookiecutter.__package_name}}.models import build_model, copy_of

DATA, MODEL = 1, 2  # random streams: order and augmentation; what the model draws (dropout)


def main(argv: list[str] | None = None) -> tuple[records.Record | None, nn.Module]:
    """Train; return the record (`None` on ranks above 0) and the model with its last weights.

    Raises SystemExit: 2 if it cannot be done, 128 + the signal's number if a signal stopped it.
    """
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except (UserError, records.LabError) as error:
        message = str(error).replace("\n", " ")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
            raise
        message = f"{error}; fix this and start again, or use --resume if a run had begun"
    print(f"train.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def run(argv: list[str]) -> tuple[records.Record | None, nn.Module]:
    """Run one experiment, from its arguments to its result."""
    if configuration.ROOT != ROOT:
        raise UserError(f"another project is loaded: restart python, or pip install -e {ROOT}")
    config, options = configuration.parse_arguments(argv)
    record = None
    if options.resume is not None:
        record = records.find(ROOT, options.resume, options.runs_dir, state="unfinished")
        if record.state != "unfinished":
            raise UserError(f"{record.id} is {record.state}; --resume needs an unfinished run")
        config, options = configuration.take_recorded(argv, record.config, record.data_folder(ROOT))
    world = join_world(config.device)
    bf16_on_gpu = config.amp == "bf16" and world.device.type == "cuda"
    if bf16_on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("--amp bf16 needs a GPU of Ampere or later; use --amp none")
    code = None if world.rank else records.capture(ROOT, argv, WRITTEN)  # before more is edited
    config = replace(config, device=world.device.type)
    seeding.make_repeatable(config.deterministic, config.threads)
    seeding.seed_everything(config.seed)
    splits = world.first(lambda: load_splits(config, options)).to(world.device)
    stop = StopSignals()
    training = Training(config, options, splits, world, stop)  # may read images for minutes
    with stop:
        if record:
            training.go_on(record, code)
        elif world.rank == 0:
            training.begin(code)
        world.agree(0)  # a barrier on the CPU: NCCL would give up while rank 0 hashes
        if training.fit():
            training.test()
        elif training.record:
            print(f"stopped as asked; go on with --resume {training.record.id}")
    return training.record, training.model


@dataclass
class Progress:
    """How far a run is, and its best weights so far."""

    epoch: int = 0
    step: int = 0  # within the epoch
    seconds: float = 0.0  # of the complete epochs
    epoch_seconds: float = 0.0  # of this one, before an interruption
    lowest_loss: float = float("inf")  # of the validation images, in any epoch
    loss_limit: float = float("inf")  # one standard error above it
    best_epoch: int = 0  # the last at or below the limit
    best_weights: dict[str, Tensor] = field(default_factory=dict)


class Training:
    """Model, optimizer, schedule and progress of one run."""

    def __init__(
        self, config: Config, options: RunOptions, splits: Splits, world: World, stop: StopSignals
    ):
        self.config, self.options, self.splits = config, options, splits
        self.world, self.stop = world, stop
        seeding.seed_everything(config.seed)  # again: reading the data may have drawn
        model = build_model(config, splits.input_shape, len(splits.class_names))
        self.model = model.to(world.device)
        self.parallel = world.wrap(self.model, splits.input_shape)
        self.batches = TrainingBatches(splits, config, world, options.workers)
        settings = {"weight_decay": config.weight_decay, "fused": world.device.type != "mps"}
        self.optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, **settings)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.learning_rate, config.epochs * len(self.batches) + 1
        )  # + 1: the last step() comes after the last batch
        self.amp = torch.autocast(world.device.type, torch.bfloat16, config.amp == "bf16")
        self.progress = Progress()
        self.sums = torch.zeros(3, device=world.device)  # loss, accuracy, norm of the gradients
        self.record = self.checkpoints = None  # rank 0 alone has them

    def begin(self, code: tuple[dict, bytes]) -> None:
        """Start a new record."""
        known = {"data": self.splits.data, "files": self.splits.files, "folder": self.splits.folder}
        known |= {"data_dir": self.options.data_dir, "world_size": self.world.size}
        self.record = records.Record.create(
            ROOT, self.options.runs_dir, config=asdict(self.config), code=code, **known
        )
        self.checkpoints = Checkpoints(self.record.path, self.options.checkpoint_minutes, self.stop)

    def go_on(self, record: records.Record, code: tuple[dict, bytes] | None) -> None:
        """Continue an unfinished run from its last checkpoint."""
        if (size := record.environment.get("world_size", 1)) != self.world.size:
            raise UserError(f"{record.id} was begun by {size} processes; start as many by torchrun")
        if self.world.rank == 0:
            folder, cache = self.splits.folder, record.path.parent / ".fingerprints.json"
            now = records.fingerprint(self.splits.files, folder, cache)
            if now != record.data.get("fingerprint"):
                raise UserError(f"{folder} is not the data of {record.id}; give its --data-dir")
            self.checkpoints = Checkpoints(record.path, self.options.checkpoint_minutes, self.stop)
            self.record = record
        if state := checkpoints.load_newest(record.path):
            for name in ("model", "optimizer", "schedule"):
                getattr(self, name).load_state_dict(state[name])
            self.progress = Progress(**state["progress"])
            self.sums = state["sums"][self.world.rank].to(self.world.device)
            seeding.set_generator_states(state["generators"][self.world.rank], self.world.device)
        if self.record:
            record.go_on(ROOT, self.progress.epoch, self.progress.step, code)

    def fit(self) -> bool:
        """Train until the last epoch; return False where `--stop-after-epochs` comes first."""
        steps, last = len(self.batches), self.options.stop_after_epochs or self.config.epochs
        with tqdm(
            total=steps * self.config.epochs,
            initial=steps * self.progress.epoch + self.progress.step,
            unit="step",
            disable=self.world.rank > 0 or None,  # None: shown on a terminal alone
        ) as bar:
            while self.progress.epoch < min(last, self.config.epochs):
                self.train_epoch(bar)
        self.save()
        return self.progress.epoch == self.config.epochs

    def train_epoch(self, bar: tqdm) -> None:
        """Train one epoch, or the rest of one; validate; write its line of the record."""
        seed, progress, parameters = self.config.seed, self.progress, list(self.model.parameters())
        started = time.perf_counter() - progress.epoch_seconds
        if progress.step == 0:  # else the checkpoint's generators go on
            epoch_seed = seeding.derive_seed(seed, MODEL, progress.epoch, self.world.rank)
            seeding.seed_everything(epoch_seed)
        self.parallel.train()
        generator = seeding.generator(seed, DATA, progress.epoch)  # its own: no model moves it
        for images, labels in self.batches.epoch(generator, progress.step):
            with self.amp:
                logits = self.parallel(images)
                loss = functional.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self.optimizer.step()
            self.schedule.step()
            accuracy = (logits.detach().argmax(1) == labels).float().mean()
            self.sums += torch.stack([loss.detach().float(), accuracy, norm])
            progress.step += 1
            bar.update()
            self.save_if_asked(started)

        means = self.world.total(self.sums) / (progress.step * self.world.size)
        train_loss, train_accuracy, gradient_norm = means.tolist()
        validation_loss, validation_accuracy, log_probs = self.evaluate(self.splits.validation)
        seconds = time.perf_counter() - started
        progress.epoch += 1
        row = {
            "epoch": progress.epoch,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "learning_rate": self.schedule.get_last_lr()[0],
            "gradient_norm": gradient_norm,
            "seconds": seconds,
        }
        if self.record:
            self.record.append(row)
            with contextlib.suppress(OSError):  # `| tee` may be gone; training must still save
                bar.write("  ".join(f"{k} {v:.4g}" for k, v in row.items()).replace("_", " "))
        # After the one-standard-error rule (Hastie et al. 2009, 7.10), which takes the simplest
        # model: of such epochs the last, since few images would often pick an early one by luck.
        if validation_loss < progress.lowest_loss:
            losses = -log_probs.gather(1, self.splits.validation.labels.cpu()[:, None])
            std_error = float(losses.std(correction=0) / len(losses) ** 0.5)
            progress.lowest_loss, progress.loss_limit = validation_loss, validation_loss + std_error
        if validation_loss <= progress.loss_limit or not progress.best_weights:  # or all NaN so far
            progress.best_epoch, progress.best_weights = progress.epoch, copy_of(self.model)
        progress.step, progress.epoch_seconds = 0, 0.0
        progress.seconds += seconds
        self.sums.zero_()

    @torch.inference_mode()
    def evaluate(self, split: Split) -> tuple[float, float, Tensor]:
        """Return loss, accuracy and log-probabilities, (N, classes) float32, of a split."""
        self.world.share_buffers(self.model)
        self.model.eval()
        parts, labels = [], split.labels.cpu()
        for images in evaluation_batches(self.splits, split, self.world, self.options.workers):
            with self.amp:
                logits = self.model(images)
            parts.append(logits.float().log_softmax(1))
        log_probs = torch.zeros(len(split), len(self.splits.class_names))
        for rank, part in enumerate(self.world.gather([part.cpu() for part in parts])):
            log_probs[rank :: self.world.size] = torch.cat([*part, log_probs[:0]])  # or none
        accuracy = (log_probs.argmax(1) == labels).float().mean()
        return functional.nll_loss(log_probs, labels).item(), accuracy.item(), log_probs

    def save_if_asked(self, started: float) -> None:
        """Save when it is time or a signal came; after a signal, stop."""
        due = self.checkpoints is not None and self.checkpoints.due()  # rank 0's clock
        # both in one number: one exchange makes all ranks decide alike, at the same step
        signal, due = divmod(self.world.agree(2 * self.stop.received + due), 2)
        if signal or due:
            self.progress.epoch_seconds = time.perf_counter() - started
            self.save()
        if signal:
            if self.record:
                print("stopped by a signal; go on with --resume", self.record.id, file=sys.stderr)
            raise SystemExit(128 + signal)

    def save(self) -> None:
        """Write a checkpoint: all that a resumed run needs to end with the same bits."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": vars(self.progress),
            "sums": self.world.gather(self.sums.cpu()),
            "generators": self.world.gather(seeding.generator_states(self.world.device)),
        }
        if self.world.rank == 0:
            self.checkpoints.save(state, best=self.progress.best_weights)

    def test(self) -> None:
        """Evaluate the best weights on the test images, once; finish the record."""
        last, best = copy_of(self.model), self.progress.best_weights
        self.model.load_state_dict(best)
        test_loss, test_accuracy, log_probs = self.evaluate(self.splits.test)
        self.model.load_state_dict(last)
        if not self.record:
            return
        labels, (confidence, predicted) = self.splits.test.labels.cpu(), log_probs.max(1)
        wrong = torch.nonzero(predicted != labels)[:, 0]
        wrong = wrong[confidence[wrong].argsort(descending=True, stable=True)][:16]
        self.record.finish(
            result={
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "best_epoch": self.progress.best_epoch,
                "epochs": self.progress.epoch,
                "seconds": self.progress.seconds,
                "weights_sha256": records.weights_sha256(last),
                "best_weights_sha256": records.weights_sha256(best),
            },
            labels=labels.numpy(),
            probabilities=log_probs.exp().numpy(),
            wrong_index=wrong.numpy(),
            wrong_images=self.splits.test.read(wrong).cpu().numpy(),
            **{f"sample_{name}": values for name, values in self.splits.samples.items()},
        )
        print(f"test accuracy {test_accuracy:.2%}, from epoch {self.progress.best_epoch}")


if __name__ == "__main__":
    record = model = None  # a notebook's `%run` that fails must not leave those of the run before
    record, model = main()

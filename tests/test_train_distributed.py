"""Two real processes train one model, by torchrun and gloo."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from training import assert_last_row_is_of_the_checkpoint, outcome

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def torchrun(project, *arguments, wait=True, before=()):
    """Run `train.py` in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-port", port, "--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1"]
    command = [*launcher, *before, "train.py", *arguments]
    if wait:
        return project.run(*command)
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=project.root, env=project.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def test_two_processes_give_the_same_bits_again_also_when_stopped_in_mid_epoch(
    repository, research
):
    first = torchrun(repository, "--epochs", "6")
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("test accuracy") == 1  # rank 0 alone records
    process = torchrun(repository, "--epochs", "6", wait=False)
    for line in process.stdout:
        if "epoch 2 " in line:
            break
    process.send_signal(signal.SIGUSR1)
    process.stdout.read()
    assert process.wait(timeout=60) == 1  # the agent's own exit code, whatever the ranks say
    again = torchrun(repository, "--resume", "latest")
    assert again.returncode == 0, again.stderr
    where = re.search(r"goes on at epoch (\d+), step (\d+)", again.stdout)
    assert int(where[1]) >= 2
    whole, cut = map(outcome, repository.runs())
    assert whole == cut
    state = assert_last_row_is_of_the_checkpoint(research, repository.runs()[0])
    assert state["model"]["1.num_batches_tracked"] == 6 * 20  # batch norm saw nothing else
    first, second = (states["torch"].tolist() for states in state["generators"])
    assert first != second  # each has dropout of its own


COUNTED = """
import sys
sys.path.insert(0, ".")
import train
saved = []
save = train.Checkpoints.save
train.Checkpoints.save = lambda self, *state, **more: saved.append(1) or save(self, *state, **more)
signals, *argv = sys.argv[1:]
after = train.Training.save_if_asked
def save_if_asked(self, started):
    if signals == "stop" and (self.progress.epoch, self.progress.step, self.world.rank) == (0, 7, 1):
        self.stop.received = 15
    after(self, started)
train.Training.save_if_asked = save_if_asked
record, _ = train.main(argv)
if record:
    print("saved", len(saved))
"""


def test_three_processes_go_on_to_the_same_bits_and_save_no_more_often_than_asked(repository):
    """Three numbers can be added in different orders; two cannot."""
    (repository.root / ".gitignore").open("a").write("counted.py\n")
    (repository.root / "counted.py").write_text(COUNTED)

    def three(signals, *arguments):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
        return repository.python(*launcher, "counted.py", signals, *arguments)

    options = ["--epochs", "2", "--batch-size", "63"]
    assert three("whole", *options).returncode == 0
    assert three("stop", *options).returncode == 1
    minutes = 0.2 / 60
    done = three("whole", "--resume", "latest", "--checkpoint-minutes", f"{minutes:.5f}")
    assert done.returncode == 0, done.stderr
    whole, cut = map(outcome, repository.runs())
    assert whole == cut
    rows = json.loads((repository.runs()[1] / "result.json").read_text())
    assert int(re.search(r"saved (\d+)", done.stdout)[1]) <= 2 + rows["seconds"] / 0.2


def test_a_run_goes_on_with_as_many_processes_as_it_began_with(repository):
    torchrun(repository, "--epochs", "2", "--stop-after-epochs", "1")
    done = repository.train("--resume", "latest")
    assert done.returncode == 2
    assert "begun by 2 processes" in done.stderr


GRADIENTS = """
import sys
sys.path.insert(0, ".")
import torch, train
from torch import nn
models = sys.modules[train.build_model.__module__]
models.MODELS["plain"] = lambda config, shape, classes: nn.Sequential(
    nn.Conv2d(shape[0], 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, classes))
step = torch.optim.AdamW.step
def keep(self, *arguments):
    if not hasattr(self, "kept"):
        self.kept = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        torch.save(self.kept, sys.argv[1] + ".gradients")
    return step(self, *arguments)
torch.optim.AdamW.step = keep
train.main(["--model", "plain", "--epochs", "1"])
"""


def test_the_first_gradients_equal_those_of_one_process(repository):
    import torch

    (repository.root / "gradients.py").write_text(GRADIENTS)
    repository.python("gradients.py", "one", check=True)
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    repository.python(*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
                      "gradients.py", "two", check=True)  # fmt: skip
    one, two = (torch.load(repository.root / f"{name}.gradients") for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_accuracy_over_three_seeds_is_within_one_and_a_half_points_of_one_process(repository):
    from training import outcomes

    seeds = ("1", "2", "3")
    one = outcomes(repository, *(["--seed", seed, "--epochs", "15"] for seed in seeds))
    for seed in seeds:
        torchrun(repository, "--seed", seed, "--epochs", "15")
    two = [outcome(run) for run in repository.runs()]
    mean = [sum(run["result"]["test_accuracy"] for run in runs) / 3 for runs in (one, two)]
    assert abs(mean[0] - mean[1]) <= 0.015, mean


def test_a_rank_that_dies_ends_the_run_with_its_name_instead_of_a_hang(repository):
    process = torchrun(repository, "--epochs", "500", wait=False)
    for line in process.stdout:
        if "epoch 1 " in line:
            break
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
    )
    victim = int(children.stdout.split()[1])
    os.kill(victim, signal.SIGKILL)
    started = time.monotonic()
    rest = process.stdout.read()
    assert process.wait(timeout=120) == 1
    assert time.monotonic() - started < 60
    assert "Signal 9 (SIGKILL)" in rest
    assert str(victim) in rest


def test_data_that_cannot_be_read_are_said_in_a_line_by_each_rank(repository):
    done = torchrun(repository, "--dataset", "folder", "--data-dir", "/nowhere")
    assert done.returncode == 1  # the agent's own
    assert done.stderr.count("train.py: /nowhere is no folder") >= 1
    assert "Connection closed by peer" not in done.stderr


def test_a_batch_that_cannot_be_shared_is_refused(repository):
    done = torchrun(repository, "--batch-size", "33")
    assert done.returncode == 1
    assert "--batch-size 33" in done.stderr
    assert "divisible by the number of processes, 2" in done.stderr
    assert repository.runs() == []


def test_ranks_may_outnumber_the_images_of_a_split(repository):
    from datasets import write_folder

    write_folder(repository.root / "data", count=21)
    folder = ["--dataset", "folder", "--data-dir", "data", "--image-size", "16", "--epochs", "1"]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "4", "--master-port", "0"]
    for limit in ("0", "100"):
        done = repository.python(
            *launcher, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
            "train.py", *folder, "--batch-size", "4", "--memory-limit-mb", limit,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    one, other = map(outcome, repository.runs())
    assert one == other


def test_more_processes_than_gpus_are_refused_in_one_line(pristine):
    code = f"""
import os, torch
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1  # as where one card is
os.environ |= {{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}}
from {pristine.package} import config, distributed
try:
    distributed.join_world("cuda")
except config.UserError as error:
    print(error)
"""
    said = pristine.python("-c", code, check=True).stdout
    assert said == "torchrun starts more processes here than there are GPUs: 1\n"


def test_a_model_for_a_macs_gpu_is_laid_out_as_it_can_be_trained_there(pristine):
    code = f"""
from dataclasses import replace
from {pristine.package} import config, models
for device in ("cpu", "mps"):
    model = models.build_model(replace(config.Config(), device=device), (3, 8, 8), 10)
    print([value.is_contiguous() for name, value in model.state_dict().items() if "0.weight" == name])
"""
    assert pristine.python("-c", code, check=True).stdout == "[False]\n[True]\n"

"""The processes of one training: this one's rank, how many there are, and the device."""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from .config import UserError

TIMEOUT = timedelta(days=1)  # while rank 0 downloads or hashes; torchrun notices the dead


@dataclass(frozen=True)
class World:
    """One process among `size`; rank 0 alone records."""

    rank: int
    size: int
    device: torch.device
    control: Any = None  # a group on the CPU: agreeing must not make a GPU wait

    def wrap(self, model: nn.Module, input_shape: tuple[int, int, int]) -> nn.Module:
        """Make all processes train one `model` of images of `input_shape`, on `device`."""
        if self.size == 1:
            return model
        if self.device.type == "cuda":  # SyncBatchNorm cannot be on a CPU
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        parallel = nn.parallel.DistributedDataParallel(model)
        # DDP regroups gradients after its first step, and then sums in another order: spend that
        # step here, so that fresh and resumed runs give the same bits.
        before = {name: value.clone() for name, value in model.state_dict().items()}
        parallel(torch.zeros(2, *input_shape, device=self.device)).sum().backward()
        model.load_state_dict(before)
        model.zero_grad()
        return parallel

    def first(self, make: Callable[[], Any]) -> Any:
        """Call `make` on rank 0 before the others, as it may download files; return its result."""
        if self.rank > 0:
            self.agree(0)
            return make()
        try:
            return make()
        finally:  # also where it fails: the others then fail alike, instead of waiting for this
            self.agree(0)

    def agree(self, value: int) -> int:
        """Return the largest `value` of all processes, everywhere."""
        if self.size == 1:
            return value
        shared = torch.tensor(value)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX, group=self.control)
        return int(shared)

    def total(self, values: Tensor) -> Tensor:
        """Sum `values`, of any shape, on `device`, over all processes, in place; return them."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return every process's `value`, by rank."""
        values = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value, group=self.control)
        return values

    def share_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's buffers (batch norm's running statistics) into every process's `model`."""
        if self.size > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, src=0)


def join_world(device: str) -> World:
    """Join the processes that torchrun started, or be the only one.

    Parameters
    ----------
    device : {'auto', 'cpu', 'cuda', 'mps'}
        `auto` takes cuda, else cpu: for mps PyTorch promises no repeatable results. The backend is
        NCCL for cuda, else gloo.

    Returns
    -------
    World
        Rank, size and device.

    Raises
    ------
    UserError
        If PyTorch has no such device here, or torchrun starts more processes than GPUs.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = ("cuda" if has["cuda"] else "cpu") if device == "auto" else device
    if not has[device]:
        raise UserError(f"--device {device}: PyTorch finds none here; `lab doctor` says why")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = torch.device(device)
    if device == "cuda":
        if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > (gpus := torch.cuda.device_count()):
            raise UserError(f"torchrun starts more processes here than there are GPUs: {gpus}")
        place = torch.device(device, int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    if size == 1:
        return World(0, 1, place)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)
    control = distributed.new_group(backend="gloo", timeout=TIMEOUT)
    return World(distributed.get_rank(), size, place, control)

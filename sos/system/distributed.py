"""Train one model with several processes, started by torchrun or accelerate.

Every process makes the same batch and the same noise from the same streams and takes its share.
Results are therefore the same for any number of processes, up to rounding. Outside of
`process_group` there is one.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

# The main process may make images for hours. If one process fails, the launcher ends the others.
PATIENCE = timedelta(days=7)

T = TypeVar("T")


def launched() -> int:
    """Return the number of processes that the launcher has started: WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Return whether this process prints and writes, as the one with `rank` 0 does.

    The answer is known before the processes have met.
    """
    return launched() == 1 or int(os.environ.get("RANK", 0)) == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Let all processes of a launcher work together in a block; do nothing where there is only one.

    Raises RuntimeError where a machine has fewer GPUs than processes.
    """
    if launched() == 1:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= gpus:
            raise RuntimeError(f"{gpus} GPUs here are too few: start at most one process on each")
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
        dist.barrier()
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Return how many processes work together here and now."""
    together = dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if together else 1


def process_index() -> int:
    """Return the number of this process among those that work together; the main process has 0."""
    return dist.get_rank() if world_size() > 1 else 0


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the main process go through a block before all others, which find what it made."""
    if process_index() > 0:
        dist.barrier()
    yield
    if process_index() == 0 and world_size() > 1:
        dist.barrier()


def broadcast(value: T) -> T:
    """Return the main process's value in all processes."""
    if world_size() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def all_gather(value: T) -> list[T]:
    """Return every process's value, in the order of ranks."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def broadcast_parameters(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of the main process."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def shard(batch: Tensor) -> Tensor:
    """Return this process's part of a batch."""
    return batch.tensor_split(world_size())[process_index()]


class Sum(torch.autograd.Function):
    """Sum a tensor over processes; the backward pass sums the gradients of all processes too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def all_reduce_mean(terms: T, items: int) -> T:
    """Average a dataclass of means over the shares of all processes; this one's has `items` items.

    The results have the gradient of this process's part; `sum_gradients` adds those of the others.
    """
    if world_size() == 1:
        return terms
    local = {name: term for name, term in vars(terms).items() if term is not None}
    values = torch.stack([term.detach().double() for term in local.values()])
    sums = items * torch.cat([values, values.new_ones(1)])
    dist.all_reduce(sums)
    shared, weight = {}, items / sums[-1]
    for (name, term), total in zip(local.items(), sums, strict=False):
        part = weight.to(term) * term
        # The part enters as an exact zero, so that all processes hold the same bits.
        shared[name] = (total / sums[-1]).to(term) + (part - part.detach())
    return replace(terms, **shared)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum the gradients over all processes, in one message."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    message = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(message)
    parts = message.split([gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, parts, strict=True):
        gradient.copy_(total.view_as(gradient))

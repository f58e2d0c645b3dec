"""Train one model with several processes, started by torchrun or accelerate.

Every process makes the same batch and the same noise from the same streams and takes its share, so
that the number of processes changes only the order of sums. Outside of `joined` there is one
process.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

# The main process may make images for hours. If one process fails, the launcher ends the others.
PATIENCE = timedelta(days=7)

T = TypeVar("T")


def launched() -> int:
    """Return the number of processes that the launcher has started: WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Return whether this is the main process, which prints and writes.

    It has `rank` 0, which is known before `joined` connects the processes.
    """
    return launched() == 1 or int(os.environ.get("RANK", 0)) == 0


@contextmanager
def joined() -> Iterator[None]:
    """Connect all processes of a launcher for a block; do nothing where there is only one.

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
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def world_size() -> int:
    """Return the number of processes that work together now."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def rank() -> int:
    """Return the number of this process, 0 for the main process."""
    return distributed.get_rank() if world_size() > 1 else 0


@contextmanager
def first() -> Iterator[None]:
    """Let the main process run a block before all others, which then find what it made."""
    if rank() > 0:
        distributed.barrier()
    yield
    if rank() == 0 and world_size() > 1:
        distributed.barrier()


def agreed(value: T) -> T:
    """Return the main process's value."""
    if world_size() == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def gathered(value: T) -> list[T]:
    """Return every process's value, in the order of ranks."""
    values = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(values, value)
    return values


def start_alike(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the main process."""
    if world_size() > 1:
        for tensor in tensors:
            distributed.broadcast(tensor.detach(), src=0)


def share(batch: Tensor) -> Tensor:
    """Return this process's part of a batch."""
    return batch.tensor_split(world_size())[rank()]


class Sum(torch.autograd.Function):
    """Sum of a tensor over processes; backward sums the gradients of all processes too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


def pooled(terms: T, items: int) -> T:
    """Average a dataclass of means over a share of `items` items to the means over all shares.

    They have the gradient of this process's part; `sum_gradients` adds those of the others.
    """
    if world_size() == 1:
        return terms
    local = {name: term for name, term in vars(terms).items() if term is not None}
    values = torch.stack([term.detach().double() for term in local.values()])
    sums = items * torch.cat([values, values.new_ones(1)])
    distributed.all_reduce(sums)
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
    distributed.all_reduce(message)
    parts = message.split([gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, parts, strict=True):
        gradient.copy_(total.view_as(gradient))

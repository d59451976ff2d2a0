"""Several processes that train one network: started by ``torchrun``, or one that needs nothing.

Every process holds the same weights and sees its own share of a step's voxels; gradients are
averaged before each step, as PyTorch's DistributedDataParallel does.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn


@dataclass(frozen=True)
class World:
    """Which process this is, and of how many."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            distributed.barrier()

    def average_gradients(self, network: nn.Module) -> None:
        """Give every process the mean of all processes' gradients."""
        if self.size == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))


ALONE = World()


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The processes that ``torchrun`` started, for as long as they train together."""
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        yield ALONE
        return
    distributed.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
    try:
        yield World(distributed.get_rank(), distributed.get_world_size())
        distributed.barrier()
    finally:
        distributed.destroy_process_group()

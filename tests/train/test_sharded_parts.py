"""Tensors shorter than the row of processes that shards them: one process holds all rows, the others none."""

from pathlib import Path

import gloo_processes
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from train.layout import SHARD, part_of
from train.state import digest_parts, tensor_digest


def gate() -> nn.Linear:
    """One row of weights and one bias, such as the gate of a shared expert."""
    torch.manual_seed(3)
    return nn.Linear(5, 1)


def digests_agree(rank: int, size: int, rendezvous: Path) -> None:
    expected = {name: tensor_digest(name, tensor) for name, tensor in gate().named_parameters()}
    with gloo_processes.joined(rank, size, size, rendezvous) as layout:
        assert layout.mesh is not None
        sharded = fully_shard(gate(), mesh=layout.mesh[SHARD])
        parts = [part_of(name, parameter, layout) for name, parameter in sharded.named_parameters()]
        assert digest_parts(parts, layout) == expected


def test_every_process_has_the_digests_of_the_whole_tensors(tmp_path: Path) -> None:
    gloo_processes.run_processes(digests_agree, 2, 2, tmp_path / "rendezvous")

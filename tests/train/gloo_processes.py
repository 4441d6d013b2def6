"""Real processes for tests of layouts: started from a server that imported the libraries once, joined by gloo."""

import gc
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from train.layout import Layout, World, make_layout

TIMEOUT_SECONDS = 240
PRELOADED = [
    "pytest",
    "torch.distributed.fsdp",
    "train.loop",
    *("data_recipes.bpe", "data_recipes.settings", "data_recipes.tokenizer_proof", "train.settings"),
    *(f"transformers.models.{name}.modeling_{name}" for name in ("deepseek_v3", "llama", "olmo3")),
]


def server() -> Any:
    """The server that forks processes: whatever they would import, it imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def begin() -> None:
    """What a process does first: no look at what it has from the server, which would copy each page of it."""
    gc.freeze()
    torch.set_num_threads(1)


def run_processes(function: Callable[..., None], num_processes: int, *args: Any) -> None:
    """Call `function(rank, *args)` in each of some processes; fails when one of them fails or hangs."""
    context = server()
    processes = [
        context.Process(target=_call, args=(function, rank, *args), daemon=True) for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_SECONDS)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * num_processes


def _call(function: Callable[..., None], rank: int, *args: Any) -> None:
    begin()
    function(rank, *args)


@contextmanager
def joined(
    rank: int,
    size: int,
    shard_size: int,
    rendezvous: Path,
    tensor_size: int = 1,
    context_size: int = 1,
    device: str = "cpu",
) -> Iterator[Layout]:
    """Join the first `size` processes; `rendezvous` is a file that no other group uses.

    gloo also carries tensors of a GPU, so that several processes can share one, which NCCL refuses.
    """
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    try:
        yield make_layout(World(rank, size, torch.device(device)), shard_size, tensor_size, context_size)
    finally:
        dist.destroy_process_group()

"""Fresh processes for a measurement: what they measured comes back as JSON."""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from provenance.canonical import Json
from train.layout import Layout, World, make_layout

THREADS_PER_PROCESS = 1


def measure_in_processes(
    function: Callable[..., Json], num_processes: int, *args: Any, returns_memory: bool = False
) -> list[Json]:
    """Call `function(layout, *args)` in each of some fresh processes, joined by gloo; returns what each of them found.

    Args:
        returns_memory: the C library gives the memory of every freed tensor back at once, so that resident memory is
            what tensors take, at the price of speed.

    Raises:
        RuntimeError: when one of them fails.
    """
    threads = str(THREADS_PER_PROCESS)
    os.environ.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, TOKENIZERS_PARALLELISM="false")
    os.environ.pop("MALLOC_MMAP_THRESHOLD_", None)
    if returns_memory:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        members = [
            context.Process(target=_member, args=(function, rank, num_processes, Path(scratch), args))
            for rank in range(num_processes)
        ]
        for member in members:
            member.start()
        for member in members:
            member.join()
        codes = [member.exitcode for member in members]
        if any(codes):
            raise RuntimeError(f"{function.__name__} ended with codes {codes}")
        return [json.loads((Path(scratch) / f"{rank}.json").read_text()) for rank in range(num_processes)]


def _member(function: Callable[..., Json], rank: int, size: int, scratch: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(THREADS_PER_PROCESS)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    with _joined(rank, size, scratch / "rendezvous") as layout:
        (scratch / f"{rank}.json").write_text(json.dumps(function(layout, *args)))


@contextmanager
def _joined(rank: int, size: int, rendezvous: Path) -> Iterator[Layout]:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    try:
        yield make_layout(World(rank, size), 1)
    finally:
        dist.destroy_process_group()

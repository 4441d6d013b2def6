"""The program that `accelerate launch` starts once per process: `python -m train.worker JOB.json NUM_PROCESSES`."""

import errno
import fcntl
import json
import os
import signal
import sys
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed import HashStore  # type: ignore[attr-defined]

from provenance.canonical import write_json
from provenance.environment import environment_record
from provenance.errors import OpenwrightError, TrainingError
from train.job import LOCK, OUTCOME, STOP_REQUEST, TrainingJob
from train.layout import World, make_layout
from train.lifetime import die_with_parent
from train.loop import run_job
from train.settings import RunConfig


def main() -> None:
    """Run the job named on the command line as this process's part of it."""
    job = TrainingJob.load(Path(sys.argv[1]))
    run_dir = Path(job.run_dir)
    die_with_parent()
    _stop_on_signals(run_dir)
    torch.set_num_threads(job.config.threads_per_process)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    use_cpu = wants_cpu(job.config)
    accelerator = Accelerator(cpu=use_cpu)
    world = World(accelerator.process_index, accelerator.num_processes, accelerator.device)
    lock = None
    try:
        if world.size != int(sys.argv[2]):
            raise TrainingError(f"{world.size} processes were started", expected=f"{sys.argv[2]}")
        lock = _lock(run_dir) if world.rank == 0 else None
        if world.rank == 0:
            write_json(run_dir / "environment.json", environment_record())
        _need_process_group(world)
        finished = run_job(job, make_layout(world, job.config.execution.shard_size))
    except (OpenwrightError, OSError) as caught:
        error = caught if isinstance(caught, OpenwrightError) else _disk_error(caught)
        if world.rank == 0 or not (run_dir / OUTCOME).exists():
            _report(run_dir, "failed", error)
        # The other processes may wait in a collective for ever; leaving at once lets the launcher end them.
        os._exit(1)
    if world.rank == 0:
        _report(run_dir, "finished" if finished else "stopped")
    accelerator.end_training()
    if lock is not None:
        lock.close()


def wants_cpu(config: RunConfig) -> bool:
    """Whether the job runs on the CPU: asked for, or there is no GPU."""
    device = config.execution.device
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("torch finds no GPU", expected="one, as execution.device: cuda asks")
    return device == "cpu" or not torch.cuda.is_available()


def _need_process_group(world: World) -> None:
    """One process alone gets a group of its own: sharding and bf16 are then the same code at every number."""
    if not dist.is_initialized():
        backend = "gloo" if world.device.type == "cpu" else "nccl"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def _disk_error(error: OSError) -> OpenwrightError:
    """What a full or read-only disk means for a run.

    Raises:
        OSError: the error itself when it is of another kind.
    """
    meanings = {errno.ENOSPC: "full", errno.EDQUOT: "full (quota)", errno.EROFS: "read-only", errno.EFBIG: "full"}
    if error.errno not in meanings:
        raise error
    return TrainingError(
        f"the disk is {meanings[error.errno]}",
        expected="room for checkpoints and ledger",
        where=str(error.filename or "the run directory"),
        next_command="make room and run the same command again; the last full checkpoint is whole",
    )


def _stop_on_signals(run_dir: Path) -> None:
    """SIGTERM and SIGUSR1 ask for a checkpoint and a stop at the next step boundary."""

    def ask(*_: object) -> None:
        (run_dir / STOP_REQUEST).touch()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGUSR1, ask)


def _lock(run_dir: Path) -> IO[str]:
    """Hold the run directory; the lock of a dead process is gone with it.

    Raises:
        TrainingError: when a living process holds it.
    """
    file = (run_dir / LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise TrainingError(
            "another process is training in this directory",
            where=str(run_dir),
            next_command="wait for it, or stop it and run the same command again",
        ) from None
    return file


def _report(run_dir: Path, outcome: str, error: OpenwrightError | None = None) -> None:
    fields = ("found", "expected", "where", "next_command")
    details = {name: getattr(error, name) for name in fields} if error else {}
    (run_dir / OUTCOME).write_text(json.dumps({"outcome": outcome, "error": details}))


if __name__ == "__main__":
    main()

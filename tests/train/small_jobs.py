"""Whole small jobs without a launcher: in this process, or in processes that a test may kill at any point."""

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import gloo_processes
import tiny_runs
import torch

from provenance.errors import StoppedForRequeue
from provenance.ledger import read_chain
from train.job import STOP_REQUEST, TrainingJob
from train.layout import Layout, World
from train.loop import TrainingRun, run_steps
from train.settings import PretrainConfig

OBSERVED = {"journal.jsonl", "environment.json", "accelerate.yaml", STOP_REQUEST}
SMALL: dict[str, Any] = {
    "model": tiny_runs.LLAMA,
    "data": {**tiny_runs.pretrain_values()["data"], "heldout_windows": 2, "heldout_every_steps": 3},
    "phases": [{"num_steps": 6, "sequences_per_step": 4}],
    "schedule": {"warmup_steps": 1, "decay_steps": 2},
    "checkpoints": {"weights_until_step": 1, "full_every_steps": 2},
    "num_logical_replicas": 4,
}
Listener = Callable[[int, dict[str, float]], None]
Point = Callable[..., None]
"""Called in a job's process before it begins, with its run directory and what else was given."""


def small_config(**changes: Any) -> PretrainConfig:
    """A recipe of six steps; keyword arguments replace top-level keys."""
    return tiny_runs.pretrain_config(**{**SMALL, **changes})


def small_job(corpus: Path, run_dir: Path, config: PretrainConfig, **changes: Any) -> TrainingJob:
    """A job over a small recipe."""
    return tiny_runs.make_job("pretrain", config, corpus, run_dir, **changes)


def run_here(job: TrainingJob, listener: Listener | None = None) -> bool:
    """Run a job in this process, alone; returns whether it finished."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    (Path(job.run_dir) / STOP_REQUEST).unlink(missing_ok=True)
    return run_steps(TrainingRun(job, Layout(World())), [listener] if listener else [])


def run_small(corpus: Path, run_dir: Path, **changes: Any) -> Path:
    """Run a small recipe in this process."""
    assert run_here(small_job(corpus, run_dir, small_config(**changes)))
    return run_dir


def stop_after(run_dir: Path, step: int) -> Listener:
    """A listener that asks the job to stop after a step."""
    return lambda done, _: (run_dir / STOP_REQUEST).touch() if done == step else None


def launch_here(stop: bool) -> Callable[..., None]:
    """In place of `launch`: the job in this process, stopped after step 3 or not."""

    def launch(job: TrainingJob, *_: Any, **__: Any) -> None:
        run_dir = Path(job.run_dir)
        if not run_here(job, stop_after(run_dir, 3) if stop else None):
            raise StoppedForRequeue("stopped")
        (run_dir / STOP_REQUEST).unlink(missing_ok=True)

    return launch


def results(run_dir: Path) -> dict[str, bytes]:
    """Bytes of every result file of a run."""
    files = [path for path in run_dir.rglob("*") if path.is_file() and path.name not in OBSERVED]
    return {path.relative_to(run_dir).as_posix(): path.read_bytes() for path in files}


def differing(found: Path, expected: Path) -> list[str]:
    """Names of the result files in which two runs differ."""
    one, other = results(found), results(expected)
    return sorted(name for name in {**one, **other} if one.get(name) != other.get(name))


def records(run_dir: Path, kind: str = "", name: str = "ledger.jsonl") -> list[dict[str, Any]]:
    """Records of a run's ledger (or journal), of one kind or all."""
    return [record for record in read_chain(run_dir / name) if kind in ("", record["kind"])]


def start_job(
    size: int, shard_size: int, corpus: Path, run_dir: Path, changes: dict[str, Any], point: Point | None, *more: Any
) -> list[BaseProcess]:
    """Start the processes of a small job; `point` is called on process 0 before it begins."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / STOP_REQUEST).unlink(missing_ok=True)
    rendezvous = run_dir.with_name(f"{run_dir.name}.rendezvous")
    rendezvous.unlink(missing_ok=True)
    context = gloo_processes.server()
    values = (size, shard_size, corpus, run_dir, changes, rendezvous, point, more)
    processes: list[BaseProcess] = [
        context.Process(target=_work, args=(rank, *values), daemon=True) for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def _work(
    rank: int,
    size: int,
    shard_size: int,
    corpus: Path,
    run_dir: Path,
    changes: dict[str, Any],
    rendezvous: Path,
    point: Point | None,
    more: tuple[Any, ...],
) -> None:
    gloo_processes.begin()
    torch.use_deterministic_algorithms(True)
    execution = {**changes.get("execution", {}), "num_processes": size, "shard_size": shard_size}
    job = small_job(corpus, run_dir, small_config(**{**changes, "execution": execution}))
    if point is not None and rank == 0:
        point(run_dir, *more)
    if size == 1 and changes.get("precision") != "bf16":
        finished = run_steps(TrainingRun(job, Layout(World())))
    else:
        inner = job.config.execution.tensor_size, job.config.execution.context_size
        with gloo_processes.joined(rank, size, shard_size, rendezvous, *inner) as layout:
            finished = run_steps(TrainingRun(job, layout))
    os._exit(0 if finished else 75)


def end_job(processes: Sequence[BaseProcess], seconds: float = 120.0) -> list[int | None]:
    """Wait for a job; when a process died, the others are given a moment and then killed, as a launcher does.

    Returns:
        Exit codes; None for a process that had to be killed by us.
    """
    for process in processes:
        process.join(seconds)
        if process.exitcode != 0:
            seconds = 3.0
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def run_job_at(
    layout: tuple[int, int],
    corpus: Path,
    run_dir: Path,
    changes: dict[str, Any],
    point: Point | None = None,
    *more: Any,
) -> list[int | None]:
    """Run a small job at a layout (processes, processes that share a copy) to its end or its death."""
    return end_job(start_job(*layout, corpus, run_dir, changes, point, *more))


def die() -> None:
    """What `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def copy_run(run_dir: Path, target: Path) -> Path:
    """A copy of a run's directory."""
    shutil.copytree(run_dir, target)
    return target

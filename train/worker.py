"""The program that `accelerate launch` starts once per process: `provenance.program train.worker JOB.json NUM`."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed import HashStore  # type: ignore[attr-defined]

from provenance.canonical import hex_float, write_json
from provenance.environment import environment_record
from provenance.errors import OpenwrightError, TrainingError
from provenance.lifetime import die_with_parent
from train.checkpoint import whole_bytes
from train.job import OUTCOME, STOP_REQUEST, TrainingJob
from train.jobs import LIBRARIES, PACKAGES
from train.launcher import LAUNCHER_MODULE
from train.layout import World, make_layout
from train.loop import TrainingRun, run_steps
from train.preflight import checkpoint_bytes_to_come, preflight
from train.retention import kept_checkpoints
from train.run_directory import disk_error, lock_directory, report_outcome, unlock_directory
from train.settings import RunConfig
from train.trackers import StepListener, check_installed, start_trackers, tracker_dir
from train.watchdog import Hang, Watchdog


def main() -> None:
    """Run the job named on the command line as this process's part of it."""
    job = TrainingJob.load(Path(sys.argv[1]))
    run_dir = Path(job.run_dir)
    reports = (run_dir, Path(sys.argv[1]).parent)
    die_with_parent(LAUNCHER_MODULE)
    _stop_on_signals(run_dir)
    be_deterministic(job.config.threads_per_process)
    trackers = job.config.execution.trackers
    accelerator = Accelerator(
        cpu=_wants_cpu(job.config), log_with=list(trackers) or None, project_dir=str(tracker_dir(run_dir))
    )
    world = World(accelerator.process_index, accelerator.num_processes, accelerator.device)
    lock = None
    try:
        if world.size != int(sys.argv[2]):
            raise TrainingError(f"{world.size} processes were started", expected=f"{sys.argv[2]}")
        lock = lock_directory(run_dir) if world.rank == 0 else None
        if world.rank == 0:
            write_json(run_dir / "environment.json", environment_record())
        need_process_group(world)
        check_installed(trackers)
        wanted = job.config.execution
        run = TrainingRun(job, make_layout(world, wanted.shard_size, wanted.tensor_size, wanted.context_size))
        _check_processes(run)
        listeners = [start_trackers(accelerator, job.stage, run_dir)] if trackers else []
        with _watching(run) as beat:
            finished = run_steps(run, [*listeners, beat])
    except (OpenwrightError, OSError) as caught:
        error = caught if isinstance(caught, OpenwrightError) else disk_error(caught)
        if world.rank == 0 or not (run_dir / OUTCOME).exists():
            report_outcome(reports, "failed", error)
        # The other processes may wait in a collective for ever; leaving at once lets the launcher end them.
        os._exit(1)
    if world.rank == 0:
        report_outcome(reports, "finished" if finished else "stopped")
    accelerator.end_training()
    if lock is not None:
        unlock_directory(run_dir, lock)
    leave()


def leave() -> None:
    """End this process, which has written all that it had to write, at once.

    Python's own end tears torch down under the threads of its process groups: one that then drops a tensor needs the
    interpreter, is ended in the middle, and takes the process with it (SIGABRT, "terminate called without an active
    exception"). A finished run would be reported as failed, about once in some thousand.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _wants_cpu(config: RunConfig) -> bool:
    """Whether the job runs on the CPU: asked for, or there is no GPU."""
    device = config.execution.device
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("torch finds no GPU", expected="one, as execution.device: cuda asks")
    return device == "cpu" or not torch.cuda.is_available()


def be_deterministic(num_threads: int) -> None:
    """What torch must be told so that equal inputs give equal bits; measured on one NVIDIA H200, 2026-11-26."""
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    # Flash and plain attention have deterministic backward passes; these two have not.
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def _check_processes(run: TrainingRun) -> None:
    """Compare the processes before the first step."""
    data = run.config.data
    weights_bytes = sum(whole_bytes(part) for part in run.weights)
    state_bytes = sum(whole_bytes(part) for part in run.optimizer.state())
    plan = kept_checkpoints(run.config, weights_bytes, weights_bytes + state_bytes)
    preflight(
        run.world,
        run_dir=run.run_dir,
        corpus=Path(run.job.corpus),
        splits=(data.split, data.heldout_split),
        packages=PACKAGES,
        libraries=LIBRARIES,
        needed_bytes=0 if run.job.replay_from else checkpoint_bytes_to_come(plan, run.run_dir),
        expected_libraries=run.job.libraries or None,
        expected_code=run.job.code,
    )


@contextmanager
def _watching(run: TrainingRun) -> Iterator[StepListener]:
    """Watch for a step that never ends; yields what is called when one has ended."""

    def report(hang: Hang) -> None:
        run.note("hang", step=hang.last_step, rank=hang.rank, waited_seconds=hex_float(hang.waited_seconds))

    watchdog = Watchdog(run.run_dir, run.run_dir.parent / "hangs", run.world.rank, on_hang=report).start()
    try:
        yield lambda step, _: watchdog.beat(step)
    finally:
        watchdog.stop()


def need_process_group(world: World) -> None:
    """One process alone gets a group of its own: sharding and bf16 are then the same code at every number."""
    if not dist.is_initialized():
        backend = "gloo" if world.device.type == "cpu" else "nccl"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def _stop_on_signals(run_dir: Path) -> None:
    """SIGTERM and SIGUSR1 ask for a checkpoint and a stop at the next step boundary."""

    def ask(*_: object) -> None:
        (run_dir / STOP_REQUEST).touch()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGUSR1, ask)

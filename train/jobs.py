"""Training stages as the pipeline calls them: write the job, start `accelerate launch`, wait, seal the artifact."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from data_recipes.order_file import ORDER_FILE, keep_order
from provenance.artifacts import Artifact
from provenance.canonical import Json, read_json
from provenance.config import recipe_of
from provenance.console import fact
from provenance.digests import Parent
from provenance.errors import ConfigError, JobKilled, StoppedForRequeue, TrainingError
from provenance.fingerprint import library_versions, project_root, sources_digest
from provenance.lifetime import die_with_parent, killed_by
from provenance.stage import StageContext, StageSpec, run_stage
from train.branch import find_branch_point
from train.identity import begin_or_go_on, run_identity
from train.job import OUTCOME, STOP_REQUEST, TrainingJob
from train.launcher import HERE, Launcher, load_launcher
from train.run_directory import lock_directory, naming_disk_errors, read_outcome
from train.run_order import settle_phases, unseparated_documents
from train.settings import ExecutionConfig, PretrainConfig, RunConfig, SftConfig
from train.watchdog import OUTCOME_HUNG

LIBRARIES = ("torch", "transformers", "accelerate", "safetensors", "tokenizers", "numpy")
PACKAGES = ("provenance", "data_recipes", "train")
OBSERVATIONS = ("journal.jsonl", "environment.json", "accelerate.yaml", "identity.json")
PRETRAIN_SPEC = StageSpec("pretrain", PACKAGES, LIBRARIES, OBSERVATIONS)
SFT_SPEC = StageSpec("sft", PACKAGES, LIBRARIES, OBSERVATIONS)


def pretrain(config: PretrainConfig, context: StageContext, corpus: Artifact) -> Artifact:
    """Train from random weights on a corpus; an interrupted call goes on from its last full checkpoint.

    Raises:
        StoppedForRequeue: when a signal asked for a stop; a checkpoint was written.
        TrainingError: when the job failed; JobKilled where a process of it was killed from outside.
    """
    return _train(PRETRAIN_SPEC, config, context, corpus, [corpus.as_parent("corpus")], base_checkpoint="")


def finetune(config: SftConfig, context: StageContext, corpus: Artifact, base: Artifact) -> Artifact:
    """Fine-tune the final checkpoint of `base` on the conversations of a corpus; raises as `pretrain` does."""
    final = base.path / read_json(base.path / "run.json")["final"]["path"]
    parents = [corpus.as_parent("corpus"), base.as_parent("base")]
    return _train(SFT_SPEC, config, context, corpus, parents, base_checkpoint=str(final.resolve()))


def _train(
    spec: StageSpec,
    config: RunConfig,
    context: StageContext,
    corpus: Artifact,
    parents: Sequence[Parent],
    *,
    base_checkpoint: str,
) -> Artifact:
    settled = settle_phases(config, corpus.path)
    for stated, phase in zip(config.phases, settled.phases, strict=True):
        if stated.epochs is not None and not isinstance(phase.mixture, str):
            left = sum(phase.mixture.values()) - phase.num_steps * phase.sequences_per_step
            fact(f"{spec.kind}: {phase.num_steps:,} steps of {stated.epochs} epochs; {left} windows are left over")
    config, recipe = settled, recipe_of(settled)

    def body(work: Path) -> None:
        identity = run_identity(recipe, parents, spec.packages, spec.libraries, context.code.commit)
        begin_or_go_on(work, identity, fresh=context.fresh, in_sweep=context.seed is not None)
        if config.data.order is not None:
            keep_order(config.order_source, config.data.order.sha256, work)
        job = TrainingJob(
            stage=spec.kind,
            recipe=recipe,
            execution=recipe_of(config.execution),
            corpus=str(corpus.path.resolve()),
            run_dir=str(work.resolve()),
            base_checkpoint=base_checkpoint,
            parents=tuple(parent.as_json() for parent in sorted(parents)),
            branch_from=str(find_branch_point(context.store, config.branch).resolve()) if config.branch else "",
            replay_from="",
            last_step=config.num_steps,
            order_file=str(work.resolve() / ORDER_FILE),
        )
        execution = config.execution
        processes = execution.num_processes or default_processes(config.num_logical_replicas, execution.device)
        launcher = load_launcher(context.launcher) if context.launcher else HERE
        if config.reduction == "native":
            fact(f"reduction: native: equal bits are promised for this layout of {processes} processes only")
        if num_documents := unseparated_documents(config, corpus.path):
            fact(f"data.document_masking: {num_documents:,} documents without an end token are one with the next")
        launch(job, processes, config.threads_per_process, launcher=launcher)

    return run_stage(context, spec, recipe, parents, body)


def default_processes(num_logical_replicas: int, device: str = "auto") -> int:
    """The largest power of two that fits the GPUs, or else the cores, of this machine and the logical replicas."""
    units = num_gpus() if device != "cpu" else 0
    return 1 << (min(units or len(os.sched_getaffinity(0)), num_logical_replicas).bit_length() - 1)


def num_gpus() -> int:
    """NVIDIA GPUs that this process may use, as their driver tells it: without loading torch, which takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:  # no driver
        return 0
    count = ctypes.c_int(0)
    is_counted = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if is_counted else 0


def accelerate_file(
    num_processes: int, num_machines: int = 1, *, use_cpu: bool = True, execution: ExecutionConfig | None = None
) -> dict[str, Json]:
    """The config file for `accelerate launch` that ships in the run.

    accelerate starts several processes on CPUs through MPI only; `MULTI_GPU` names its launcher over torch's own
    rendezvous, which serves CPUs as well (the workers ask for the device themselves).

    Args:
        execution: how the processes are laid out; None for any way without tensor and context parallelism.
    """
    context_size = 1 if execution is None else execution.context_size
    return {
        **({} if use_cpu or execution is None else _parallelism(num_processes, execution)),
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": _distributed_type(num_processes, 1 if use_cpu else context_size),
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": "no",
        "num_machines": num_machines,
        "num_processes": num_processes,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": use_cpu,
    }


def _distributed_type(num_processes: int, context_size: int) -> str:
    """accelerate's name; it takes context parallelism together with FSDP only (which the workers do not let it do)."""
    if num_processes == 1:
        return "NO"
    return "FSDP" if context_size > 1 else "MULTI_GPU"


def _parallelism(num_processes: int, execution: ExecutionConfig) -> dict[str, Json]:
    """The fields of accelerate's ParallelismConfig, which it refuses on CPUs (1.15.0); none for data parallelism alone.

    It counts the processes that share windows beside those over which the model is sharded, and not among them.
    """
    tensor_size, context_size = execution.tensor_size, execution.context_size
    if max(tensor_size, context_size) == 1:
        return {}
    sizes = {
        "dp_replicate_size": num_processes // (execution.shard_size * tensor_size),
        "dp_shard_size": execution.shard_size // context_size,
        "cp_size": context_size,
        "tp_size": tensor_size,
    }
    fields: dict[str, Json] = {
        "parallelism_config": {f"parallelism_config_{name}": size for name, size in sizes.items()}
    }
    return {**fields, "fsdp_config": {"fsdp_version": 2}} if context_size > 1 else fields


def launch(
    job: TrainingJob,
    num_processes: int,
    threads_per_process: int,
    code_root: Path | None = None,
    launcher: Launcher = HERE,
) -> None:
    """Start a job's processes and wait for them.

    Args:
        job: the job; its run directory must exist.
        num_processes: processes on all machines.
        threads_per_process: threads of each; part of the recipe.
        code_root: source tree whose packages run, by default the one that runs now.
        launcher: where the processes run, by default on this machine.

    Raises:
        StoppedForRequeue, TrainingError: as `pretrain`.
        ConfigError: when there are more processes than GPUs.
    """
    root = code_root or project_root()
    job = replace(job, code=sources_digest(PACKAGES, root), libraries=library_versions(LIBRARIES))
    run_dir = Path(job.run_dir)
    config_file = run_dir / "accelerate.yaml"
    execution = job.config.execution
    use_cpu = not _gpus_of_each_machine(execution.device, num_processes, launcher.num_machines)
    values = accelerate_file(num_processes, launcher.num_machines, use_cpu=use_cpu, execution=execution)
    with naming_disk_errors():
        lock_directory(run_dir).close()  # before anything of a job that runs there is touched
        for name in (STOP_REQUEST, OUTCOME):
            (run_dir / name).unlink(missing_ok=True)
        config_file.write_text(yaml.safe_dump(values, sort_keys=True))
    with tempfile.TemporaryDirectory(prefix=".openwright-job-", dir=launcher.job_directory(run_dir)) as scratch:
        job.save(Path(scratch) / "job.json")
        program = ["provenance.program", "train.worker", str(Path(scratch) / "job.json"), str(num_processes)]
        command = launcher.command(config_file, ["--module", *program])
        environment = job_environment(root, threads_per_process)
        with subprocess.Popen(
            command, env=environment, cwd=scratch, start_new_session=True, preexec_fn=die_with_parent
        ) as process:
            code = _wait(process, lambda: (run_dir / STOP_REQUEST).touch())
        result = read_outcome((run_dir, Path(scratch)))
    _conclude(job, run_dir, code, result)


def _gpus_of_each_machine(device: str, num_processes: int, num_machines: int) -> int:
    """GPUs that a job takes on this machine as on every other; none for a job on CPUs.

    Raises:
        ConfigError: when it has more processes than GPUs.
    """
    found = num_gpus() if device != "cpu" else 0
    wanted = -(-num_processes // num_machines)
    if 0 < found < wanted:
        raise ConfigError(
            f"{wanted} processes on a machine with {found} GPU{'s' if found > 1 else ''}",
            expected="a GPU for each process",
            where="execution.num_processes",
            next_command=f"set execution.num_processes to {found * num_machines}, or execution.device to cpu",
        )
    return wanted if found else 0


def _wait(process: "subprocess.Popen[bytes]", ask_to_stop: Callable[[], None]) -> int:
    """Wait for the launcher; a first signal asks the job to stop after its step, a second one ends it at once."""
    signals = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            print("stopping after this step, with a checkpoint; once more to stop at once", file=sys.stderr)
            ask_to_stop()
        else:
            os.killpg(process.pid, signal.SIGKILL)

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, on_signal) for number in handled}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _conclude(job: TrainingJob, run_dir: Path, code: int, result: dict[str, Any]) -> None:
    if result["outcome"] == "finished" and code == 0:
        for name in (STOP_REQUEST, OUTCOME):
            (run_dir / name).unlink(missing_ok=True)
        return
    if result["outcome"] == "stopped":
        raise StoppedForRequeue(
            f"{job.stage} stopped with a checkpoint", next_command="run the same command again to go on"
        )
    if result["outcome"] == OUTCOME_HUNG:
        raise StoppedForRequeue(**result["error"])
    if result["outcome"] == "failed":
        raise TrainingError(**result["error"])
    if killer := killed_by(code):
        raise JobKilled(
            f"a process of the {job.stage} job was killed from outside ({killer.name})",
            signal_number=killer,
            expected="its last step",
            where=str(run_dir),
            next_command="where nobody did it, see whether memory ran out: `openwright plan` says how much is needed; "
            "the same command goes on from the last full checkpoint",
        )
    raise TrainingError(
        f"the {job.stage} job ended with code {code}",
        expected="its last step",
        where=str(run_dir),
        next_command="read the lines above; the same command goes on from the last full checkpoint",
    )


def job_environment(code_root: Path, threads_per_process: int) -> dict[str, str]:
    """The parent's environment with what would change results set by us."""
    threads = str(threads_per_process)
    return {
        **os.environ,
        "PYTHONPATH": str(code_root),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }

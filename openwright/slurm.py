"""A release as a chain of Slurm jobs: one script per stage, each waiting for the one before it to succeed.

In a sweep the stages from the first whose seed changes are job arrays. The number of a task is its seed, and it waits
for the task with the same number in the array before.

A job runs one stage with the command that a person would type, `openwright run CONFIG_DIR/<stage>.yaml`. Before its
time limit Slurm signals the job's shell; the stage writes a checkpoint and ends with exit code 75, and the job goes
back into the queue. Any other failure fails the job, so that Slurm never starts the ones after it.
"""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from openwright.cluster import ClusterConfig, JobConfig
from openwright.configs import TRAINING_STAGES, StageConfigs
from openwright.seeds import Sweep
from provenance.errors import ConfigError, StoppedForRequeue
from provenance.fingerprint import CODE_RECORD, CodeIdentity, project_root
from train.launcher import LAUNCHER_FORMAT

MACHINE_TASK = (
    'exec "${@:1:3}" --machine_rank "$SLURM_NODEID" '
    '--main_process_ip "$MAIN_HOST" --main_process_port "$MAIN_PORT" "${@:4}"'
)
"""What srun runs on every machine; the arguments are the command line of `accelerate launch`."""

RESTARTS_FROM_THE_BEGINNING = 2
"""How often a stage that does not train is queued again: it keeps little of what it did, so that this seldom helps."""

EXIT_USR1 = 128 + 10
"""Exit code of a process that SIGUSR1 ended before it could handle it."""


@dataclass(frozen=True)
class StageJob:
    """One job of the chain.

    Attributes:
        script_path: where the script is kept.
        log_path: where its output goes, with Slurm's `%j` for the job's number, or `%A` and `%a` for those of an array
            and its task.
        seeds: the tasks of a job array; empty for a single job.
        dependency: how it waits for the job before it: `afterok`, or `aftercorr` from task to task.
        job_id: the number that Slurm gave it; empty before it is submitted.
        after: the number of the job that it waits for; empty for the first.
    """

    stage: str
    job: JobConfig
    script: str
    script_path: Path
    log_path: Path
    seeds: tuple[int, ...] = ()
    dependency: str = "afterok"
    job_id: str = ""
    after: str = ""


@dataclass(frozen=True)
class LaunchPlace:
    """What the scripts name of the machine on which they are written.

    Attributes:
        working_dir: directory from which the command was given; relative paths of configs mean this one.
        config_dir: the config directory.
        overrides: `stage.key=value` texts.
        sweep: the seeds of a sweep; None for one release.
        python: interpreter that runs openwright.
    """

    working_dir: Path
    config_dir: Path
    overrides: tuple[str, ...] = ()
    sweep: Sweep | None = None
    python: str = sys.executable


def make_chain(
    cluster: ClusterConfig, configs: StageConfigs, stages: Sequence[str], place: LaunchPlace, code: CodeIdentity
) -> list[StageJob]:
    """Write the jobs of some stages of a release, in order; nothing is submitted and no file is written."""
    directory = cluster.artifacts / configs.name / "slurm"
    chain: list[StageJob] = []
    for stage in stages:
        seeds = seeds_of(stage, stages, place.sweep)
        log = directory / (log_name(stage, "%A", "%a") if seeds else log_name(stage, "%j"))
        script = stage_script(stage, cluster, configs.name, log, place, code, is_array=bool(seeds))
        dependency = "aftercorr" if seeds and chain[-1].seeds else "afterok"
        path = directory / f"{stage}.sh"
        chain.append(StageJob(stage, cluster.job_of(stage), script, path, log, seeds, dependency))
    return chain


def seeds_of(stage: str, stages: Sequence[str], sweep: Sweep | None) -> tuple[int, ...]:
    """The seeds for which a stage runs; empty for one that runs once."""
    return sweep.seeds if sweep is not None and stage in sweep.split(stages)[1] else ()


def log_name(stage: str, job: str, seed: str | int | None = None) -> str:
    """Name of the log of a job, or of one seed's task of an array."""
    return f"{stage}-{job}.log" if seed is None else f"{stage}-{job}-seed-{seed}.log"


def stage_script(
    stage: str,
    cluster: ClusterConfig,
    release: str,
    log: Path,
    place: LaunchPlace,
    code: CodeIdentity,
    *,
    is_array: bool = False,
) -> str:
    """The script of one stage's job, or of each task of its array."""
    sweep = place.sweep if is_array else None
    job = cluster.job_of(stage)
    several = stage in TRAINING_STAGES and job.nodes > 1
    parts = [
        "#!/bin/bash",
        f"# Stage {stage} of release {release}, written by `openwright launch`.",
        *_directives(stage, cluster, release, log),
        *_array_lines(cluster, sweep),
        "",
        "set -euo pipefail",
        f"cd {shlex.quote(str(place.working_dir))}",
        *_commit_lines(code),
        *_environment_lines(cluster),
        *(_launcher_lines(cluster, job) if several else ()),
        *_run_lines(stage, cluster, place, several, sweep),
        *_ending_lines(stage, cluster, sweep),
    ]
    return "\n".join(parts) + "\n"


def require_sbatch() -> None:
    """Refuse to submit from a machine that cannot.

    Raises:
        ConfigError: when sbatch is missing.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "there is no sbatch on this machine",
            expected="a machine from which jobs of the cluster are submitted",
            next_command="add --dry-run to see the scripts",
        )


def submit(chain: Sequence[StageJob]) -> list[StageJob]:
    """Hand the chain to Slurm; a chain that Slurm does not take whole is taken back.

    Raises:
        ConfigError: when sbatch refuses a job.
    """
    submitted: list[StageJob] = []
    for job in chain:
        job.script_path.parent.mkdir(parents=True, exist_ok=True)
        job.script_path.write_text(job.script, encoding="utf-8")
        after = submitted[-1].job_id if submitted else ""
        done = subprocess.run(submit_command(job, after), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            if submitted:
                subprocess.run(["scancel", *(earlier.job_id for earlier in submitted)], check=False)
            raise ConfigError(
                f"sbatch refused the job of stage {job.stage}: {done.stderr.strip()}",
                expected="a cluster file that Slurm accepts; jobs that it had accepted were cancelled",
                where=str(job.script_path),
            )
        submitted.append(replace(job, job_id=done.stdout.strip().split(";")[0], after=after))
    return submitted


def submit_command(job: StageJob, after: str) -> list[str]:
    """The command that submits a job, waiting for the job with number `after` if there is one."""
    waiting = [f"--dependency={job.dependency}:{after}"] if after else []
    return ["sbatch", "--parsable", *waiting, str(job.script_path)]


def job_name(release: str, stage: str) -> str:
    """The name of a stage's jobs in Slurm's queue."""
    return f"{release}-{stage}"


def _directives(stage: str, cluster: ClusterConfig, release: str, log: Path) -> list[str]:
    job = cluster.job_of(stage)
    named = {
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "gres": job.gres,
        "mem": job.memory,
    }
    log_pattern = str(log.parent).replace("%", "%%") + "/" + log.name
    lines = [
        f"--job-name={shlex.quote(job_name(release, stage))}",
        f"--output={shlex.quote(log_pattern)}",
        "--open-mode=append",
        "--requeue",
        "--kill-on-invalid-dep=yes",
        f"--signal=B:USR1@{cluster.stop_before_end_seconds}",
        f"--time={job.time}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={job.cpus_per_task}",
        *(f"--{name}={value}" for name, value in named.items() if value is not None),
        *job.sbatch_lines,
    ]
    return [f"#SBATCH {line}" for line in lines]


def _array_lines(cluster: ClusterConfig, sweep: Sweep | None) -> list[str]:
    if sweep is None:
        return []
    at_a_time = "" if cluster.max_running is None else f"%{cluster.max_running}"
    return [f"#SBATCH --array={sweep.array()}{at_a_time}"]


def _commit_lines(code: CodeIdentity) -> list[str]:
    root = project_root()
    if (root / CODE_RECORD).is_file():  # a released tree, which has no commits
        return []
    return [
        "",
        "# A job may wait for days: the clone must still be what was launched.",
        f'if [[ "$(git -C {shlex.quote(str(root))} rev-parse HEAD)" != {code.commit} ]]; then',
        f'    echo "the clone is no longer at commit {code.commit}; launch again" >&2',
        "    exit 1",
        "fi",
    ]


def _environment_lines(cluster: ClusterConfig) -> list[str]:
    lines = []
    if cluster.modules or cluster.setup:
        lines += ["", "# From the cluster file; modules and sites' own scripts use variables that may be unset."]
        lines += ["set +u", *(f"module load {name}" for name in cluster.modules), *cluster.setup, "set -u"]
    if cluster.offline:
        lines += ["export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1"]
    if cluster.scratch is not None:
        scratch = shlex.quote(str(cluster.scratch))
        lines += [
            "",
            f'export TMPDIR={scratch}/openwright-"$SLURM_JOB_ID"',
            'mkdir -p "$TMPDIR"',
            "trap 'rm -rf \"$TMPDIR\"' EXIT",
        ]
    return lines


def launcher_file(job: JobConfig) -> str:
    """The launcher file (`openwright-launcher/1`) of a job on several machines."""
    prefix = [
        "srun",
        f"--nodes={job.nodes}",
        f"--ntasks={job.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={job.cpus_per_task}",
        "--kill-on-bad-exit=1",
        *("bash", "-c", MACHINE_TASK, "machine"),
    ]
    return json.dumps({"format": LAUNCHER_FORMAT, "num_machines": job.nodes, "prefix": prefix}, indent=1)


def _launcher_lines(cluster: ClusterConfig, job: JobConfig) -> list[str]:
    return [
        "",
        f"# {job.nodes} machines: srun starts one accelerate launch on each; they meet at the first one.",
        'mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        f'export MAIN_HOST="${{hosts[0]}}" MAIN_PORT=$(( {cluster.main_port} + SLURM_JOB_ID % 10000 ))',
        'launcher="$(mktemp)"',
        "cat > \"$launcher\" <<'END_OF_LAUNCHER'",
        launcher_file(job),
        "END_OF_LAUNCHER",
    ]


def _run_lines(stage: str, cluster: ClusterConfig, place: LaunchPlace, several: bool, sweep: Sweep | None) -> list[str]:
    command = [*cluster.container, place.python, "-m", "openwright", "run", str(place.config_dir / f"{stage}.yaml")]
    command += ["--artifacts", str(cluster.artifacts)]
    overrides = list(place.overrides)
    if stage in TRAINING_STAGES:
        overrides.append(f"{stage}.execution.num_processes={cluster.job_of(stage).num_processes}")
    for override in overrides:
        command += ["--set", override]
    for seeded in sweep.stages if sweep else ():
        command += ["--seed-of", seeded]
    text = shlex.join(command)
    text += ' --seeds "$SLURM_ARRAY_TASK_ID"' if sweep else ""
    text += ' --launcher "$launcher"' if several else ""
    return [
        "",
        "# Slurm signals this shell before the time limit; the stage then stops with a checkpoint and exit code",
        f"# {StoppedForRequeue.exit_code}. SIGTERM reaches the stage from Slurm itself; the shell only waits for it.",
        "stage= signalled=0",
        'stop_stage() { signalled=1; [[ -z "$stage" ]] || kill -USR1 "$stage" || true; }',
        "trap stop_stage USR1",
        "trap : TERM",
        "",
        f"{text} &",
        "stage=$!",
    ]


def _ending_lines(stage: str, cluster: ClusterConfig, sweep: Sweep | None) -> list[str]:
    limit = cluster.max_requeues
    if stage not in TRAINING_STAGES:
        limit = min(limit, RESTARTS_FROM_THE_BEGINNING)
    # The last task of an array has the array's own number as its job's, which would queue all tasks again.
    job = "$SLURM_JOB_ID" if sweep is None else "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    return [
        "# A signal cuts `wait` short. Once the stage is gone, the shell still knows its exit code.",
        'while kill -0 "$stage" 2>/dev/null; do wait "$stage" || true; done',
        "code=0",
        'wait "$stage" || code=$?',
        "",
        f"if (( code == {StoppedForRequeue.exit_code} || (signalled && code == {EXIT_USR1}) )); then",
        f"    if (( ${{SLURM_RESTART_COUNT:-0}} >= {limit} )); then",
        f'        echo "stage {stage} was queued again {limit} times already; give it more time" >&2',
        "        exit 1",
        "    fi",
        f'    scontrol requeue "{job}"',
        "fi",
        'exit "$code"',
    ]

"""The cluster file: where and how the jobs of `openwright launch` run. It never changes results."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from openwright.configs import CONFIG_MODELS, TRAINING_STAGES
from provenance.config import Config, load_config
from provenance.errors import ConfigError

OUR_OPTIONS = frozenset(
    (
        *("signal", "requeue", "no-requeue", "open-mode", "output", "error", "dependency", "kill-on-invalid-dep"),
        *("job-name", "array", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "time"),
        *("partition", "account", "qos", "gres", "mem"),
    )
)
"""Options of sbatch that the script sets itself; `sbatch_lines` may not name them again."""

_SHORT_OPTIONS = "oedJaNncpAqt"
_TIME = re.compile(r"(?:(?P<days>[0-9]+)-)?(?P<hours>[0-9]{1,2}):(?P<minutes>[0-5][0-9]):(?P<seconds>[0-5][0-9])")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:=@+-]*")
_SCHEDULER_NOTICE_SECONDS = 60  # Slurm looks at time limits about once a minute


class JobConfig(Config):
    """What one Slurm job asks for.

    Attributes:
        partition, account, qos: where the job is queued and who pays; left out where None.
        gres: generic resources per node, such as `gpu:4`.
        time: time limit, `HH:MM:SS` or `D-HH:MM:SS`.
        nodes: machines.
        processes_per_node: training processes on each machine: one per GPU, or one per core on CPUs.
        cpus_per_task: cores of each machine's share; the processes of a machine share them.
        memory: memory per machine, such as `64G`; `0` for all of it.
        sbatch_lines: further options, each as it stands behind `#SBATCH`, such as `--constraint=avx512`.
    """

    time: str
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None
    nodes: int = Field(default=1, gt=0)
    processes_per_node: int = Field(default=1, gt=0)
    cpus_per_task: int = Field(default=1, gt=0)
    memory: str | None = None
    sbatch_lines: tuple[str, ...] = Field(default=(), strict=False)

    @property
    def num_processes(self) -> int:
        """Processes on all machines."""
        return self.nodes * self.processes_per_node

    @property
    def time_seconds(self) -> int:
        """The time limit in seconds."""
        found = _TIME.fullmatch(self.time)
        assert found is not None
        days, hours, minutes, seconds = (int(found[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @field_validator("time")
    @classmethod
    def _is_time(cls, value: str) -> str:
        if not _TIME.fullmatch(value):
            raise ValueError("a time limit, quoted, as HH:MM:SS or D-HH:MM:SS")
        return value

    @field_validator("partition", "account", "qos", "gres", "memory")
    @classmethod
    def _is_one_word(cls, value: str | None) -> str | None:
        if value is not None and not _WORD.fullmatch(value):
            raise ValueError("one word as sbatch takes it")
        return value

    @field_validator("sbatch_lines")
    @classmethod
    def _are_further_options(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            name = re.match(r"--?([A-Za-z][A-Za-z-]*)", line)
            if name is None or not line.isprintable():
                raise ValueError(f"{line!r}: one option of sbatch per line, beginning with - or --")
            short = not line.startswith("--") and name[1][0] in _SHORT_OPTIONS
            if short or name[1] in OUR_OPTIONS:
                raise ValueError(f"{line!r}: the script sets this option itself; use the key of the cluster file")
        return lines


class ClusterConfig(Config):
    """A Slurm cluster as one user sees it.

    Attributes:
        artifacts: directory of all artifacts, on a file system that every machine of the cluster shares.
        scratch: directory on each machine's own disk for temporary files; the system's default where None.
        training: the jobs of training stages.
        other: the jobs of all other stages: corpus, evaluation, release. One machine each.
        stages: jobs of single stages, in place of `training` or `other`; nothing is inherited from those.
        stop_before_end_seconds: how long before the time limit a job is asked to write a checkpoint and stop.
        max_requeues: how often the job of a training stage may be queued again before it fails and the chain stops.
        max_running: tasks of one array of a sweep that run at a time; as many as Slurm lets where None.
        offline: tell the Hugging Face libraries that the machines have no network.
        modules: environment modules to load.
        setup: lines of bash that run before the stage, as they stand.
        container: command that runs what follows it inside a container, such as `[apptainer, exec, --nv, image.sif]`.
        main_port: first of the 10,000 ports of which the job's number picks one for several machines to meet at.
    """

    artifacts: Path = Field(strict=False)
    scratch: Path | None = Field(default=None, strict=False)
    training: JobConfig
    other: JobConfig
    stages: dict[str, JobConfig] = Field(default_factory=dict)
    stop_before_end_seconds: int = Field(default=300, ge=1)
    max_requeues: int = Field(default=200, ge=0)
    max_running: int | None = Field(default=None, gt=0)
    offline: bool = False
    modules: tuple[str, ...] = Field(default=(), strict=False)
    setup: tuple[str, ...] = Field(default=(), strict=False)
    container: tuple[str, ...] = Field(default=(), strict=False)
    main_port: int = Field(default=20000, ge=1024, le=45000)

    def job_of(self, stage: str) -> JobConfig:
        """The job in which a stage runs."""
        default = self.training if stage in TRAINING_STAGES else self.other
        return self.stages.get(stage, default)

    @field_validator("artifacts", "scratch")
    @classmethod
    def _is_absolute(cls, value: Path | None) -> Path | None:
        if value is not None and not (value.is_absolute() and value.as_posix().isprintable()):
            raise ValueError("an absolute path: the same name must mean the same place in every job")
        return value

    @field_validator("stages")
    @classmethod
    def _are_stages(cls, value: dict[str, JobConfig]) -> dict[str, JobConfig]:
        unknown = sorted(set(value) - set(CONFIG_MODELS))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no stage; one of {', '.join(CONFIG_MODELS)}")
        return value

    @field_validator("setup", "container")
    @classmethod
    def _are_single_lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        bad = [line for line in value if not line or not line.isprintable()]
        if bad:
            raise ValueError(f"{bad[0]!r}: one line of printable characters each")
        return value

    @field_validator("modules")
    @classmethod
    def _are_modules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        bad = [name for name in value if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+/-]*", name)]
        if bad:
            raise ValueError(f"{bad[0]!r} is no module's name")
        return value

    @model_validator(mode="after")
    def _check_jobs(self) -> Self:
        for stage in CONFIG_MODELS:
            job = self.job_of(stage)
            if stage not in TRAINING_STAGES and job.num_processes > 1:
                raise ValueError(
                    f"stage {stage} runs as one process on one machine, not {job.nodes} x {job.processes_per_node}"
                )
            if job.nodes > 1 and self.container:
                raise ValueError(
                    f"stage {stage}: a container is not supported on several machines, since srun would be called "
                    "from inside it; name the container in sbatch_lines if your Slurm has a plugin for it"
                )
            if job.time_seconds < 2 * self.stop_before_end_seconds + _SCHEDULER_NOTICE_SECONDS:
                raise ValueError(
                    f"time {job.time} of stage {stage} leaves no room to work before the signal "
                    f"{self.stop_before_end_seconds} s before its end"
                )
        return self


def load_cluster(path: Path) -> ClusterConfig:
    """Read a cluster file.

    Raises:
        ConfigError: for a missing file, unknown keys and wrong values, naming the line.
    """
    return load_config(path, ClusterConfig)


def check_processes(cluster: ClusterConfig, where: Path, models: Mapping[str, Any]) -> None:
    """Refuse a cluster file whose processes do not fit the training stages of a release.

    Args:
        cluster: the cluster file.
        where: its path, for messages.
        models: config by stage, as `load_directory` reads them.

    Raises:
        ConfigError: when `reduction: exact` cannot run with so many processes, when they do not fill the rows of
            `execution.shard_size`, or when a machine's share has fewer cores than its threads need.
    """
    for stage in TRAINING_STAGES:
        if stage not in models:
            continue
        config, job = models[stage], cluster.job_of(stage)
        processes, replicas = job.num_processes, config.num_logical_replicas
        found = f"{stage} would get {job.nodes} x {job.processes_per_node} = {processes} processes"
        if config.reduction == "exact" and (processes & (processes - 1) or processes > replicas):
            raise ConfigError(
                found,
                expected=f"a power of two up to num_logical_replicas {replicas}, as reduction: exact needs",
                where=str(where),
                next_command="change nodes or processes_per_node",
            )
        row = config.execution.shard_size * config.execution.tensor_size
        if processes % row:
            cut = f" times tensor_size {config.execution.tensor_size}" if config.execution.tensor_size > 1 else ""
            raise ConfigError(
                found,
                expected=f"a multiple of execution.shard_size {config.execution.shard_size}{cut} of {stage}.yaml",
                where=str(where),
            )
        threads = job.processes_per_node * config.threads_per_process
        if job.cpus_per_task < threads:
            raise ConfigError(
                f"{stage}: cpus_per_task is {job.cpus_per_task}",
                expected=f"at least {threads}, one for each thread of {job.processes_per_node} processes",
                where=str(where),
            )

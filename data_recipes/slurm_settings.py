"""What the jobs of a corpus build ask of Slurm."""

from pydantic import Field

from provenance.config import Config


class SlurmExecution(Config):
    """Run the tasks of a corpus build as job arrays; nothing here changes a byte of the result.

    Attributes:
        minutes_per_task: time limit of a job; a task that it ends is begun anew.
        memory_gb: memory of a job; None for the cluster's default. A task needs about 1 GB.
        max_running: tasks of one array that run at a time.
        max_array_size: tasks of one array; larger steps are several arrays, one after the other.
        setup: lines of shell that each job runs first.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    minutes_per_task: int = Field(default=240, ge=1)
    cpus_per_task: int = Field(default=1, ge=1)
    memory_gb: int | None = Field(default=None, ge=1)
    max_running: int = Field(default=256, ge=1)
    max_array_size: int = Field(default=1000, ge=1)
    setup: list[str] = Field(default=[])

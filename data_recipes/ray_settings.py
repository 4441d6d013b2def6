"""What the tasks of a corpus build ask of a Ray cluster."""

from pydantic import Field

from provenance.config import Config


class RayExecution(Config):
    """Run the tasks of a corpus build on a running Ray cluster; nothing here changes a byte of the result.

    Attributes:
        address: `HOST:PORT` of the cluster, or `auto` for the one that runs on this machine.
        cpus_per_task: CPUs that Ray sets aside for a task.
        memory_gb: memory that Ray sets aside for a task; None for none. A task needs about 1 GB.
        max_running: tasks that Ray is given at a time.
        max_retries: how often a task is begun anew whose process was killed or whose machine was lost.
    """

    address: str = Field(default="auto", pattern=r"^(auto|[^/\s]+:\d+)$")
    cpus_per_task: int = Field(default=1, ge=1)
    memory_gb: int | None = Field(default=None, ge=1)
    max_running: int = Field(default=256, ge=1)
    max_retries: int = Field(default=3, ge=0)

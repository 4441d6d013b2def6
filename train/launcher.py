"""How the processes of a job are started: by one `accelerate launch` here, or by one on each of several machines.

On a cluster the job's script writes a launcher file (`openwright-launcher/1`) and names it on our command line. Its
prefix runs the command that follows it on every machine, and puts what only the job knows (this machine's number, the
address of the first one) behind the three words `PYTHON -m train.accelerate_launch`.
"""

import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from provenance.canonical import read_json
from provenance.errors import ConfigError

LAUNCHER_FORMAT = "openwright-launcher/1"
LAUNCHER_MODULE = "train.accelerate_launch"


@dataclass(frozen=True)
class Launcher:
    """Where the processes of a job run.

    Attributes:
        prefix: words before the command of `accelerate launch`; empty on one machine.
        num_machines: machines on which the prefix runs it.
    """

    prefix: tuple[str, ...] = ()
    num_machines: int = 1

    def command(self, config_file: Path, program: list[str]) -> list[str]:
        """The command line that starts `program` (`--module NAME ARGUMENTS`) in every process."""
        command = [*self.prefix, sys.executable, "-m", LAUNCHER_MODULE, "--config_file", str(config_file)]
        if not self.prefix:
            command += ["--main_process_port", str(_free_port())]
        return [*command, *program]

    def job_directory(self, run_dir: Path) -> Path | None:
        """Where the job's description is written: a place that all machines see; None for any temporary directory."""
        return run_dir.parent if self.num_machines > 1 else None


HERE = Launcher()
"""All processes on this machine."""


def load_launcher(path: Path) -> Launcher:
    """Read a launcher file: `{format, num_machines, prefix}`.

    Raises:
        ConfigError: when it is not of this format.
        BundleError: when it is not JSON.
    """
    match read_json(path):
        case {"format": str(name), "num_machines": int(machines), "prefix": [*words], **rest}:
            if name == LAUNCHER_FORMAT and not rest and machines > 0 and words and all(type(w) is str for w in words):
                return Launcher(tuple(words), machines)
    raise ConfigError("not a launcher file", expected=f"JSON of the format {LAUNCHER_FORMAT}", where=str(path))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

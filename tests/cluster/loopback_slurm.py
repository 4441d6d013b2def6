"""A Slurm of its own on the loopback interface: one controller and two node daemons on this host.

Everything lives in one directory: configuration, state, keys, logs. The daemons end with the process that started
them. No cgroups are used, so that it runs in a container too.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from provenance.lifetime import die_with_parent

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "sinfo", "srun")
HOST = socket.gethostname().split(".")[0]
NODES = (HOST, "zz-second")
"""In the order in which Slurm numbers them: processes meet at the first, whose name resolves."""

SEARCH_PATH = os.pathsep.join((os.defpath, "/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"))


def missing_programs() -> list[str]:
    """Programs of Slurm and munge that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class LoopbackSlurm:
    """Starts and stops the daemons and asks them about jobs.

    Args:
        directory: a short path (sockets have a length limit), readable by nobody else.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "PATH": SEARCH_PATH, "SLURM_CONF": str(directory / "slurm.conf")}

    def start(self) -> None:
        """Start all daemons and wait until the nodes take jobs."""
        directory = self.directory
        for name in ("state", "log", *(f"spool-{node}" for node in NODES)):
            (directory / name).mkdir()
        key = directory / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        (directory / "slurm.conf").write_text(self._configuration())
        files = {"key": key, "socket": directory / "munge.socket", "pid": directory / "munged.pid"}
        files |= {"log": directory / "log" / "munged.log", "seed": directory / "munge.seed"}
        named = [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in files.items()]
        self._daemon("munged", "--foreground", "--force", "--num-threads=2", *named)
        self._wait_for("munge", lambda: files["socket"].exists())
        self._daemon("slurmctld", "-D", "-f", str(directory / "slurm.conf"))
        for node in NODES:
            self._daemon("slurmd", "-D", "-f", str(directory / "slurm.conf"), "-N", node)
        self._wait_for("idle nodes", lambda: self._idle_nodes() == len(NODES))

    def stop(self) -> None:
        """Cancel all jobs, wait until they are gone, and end the daemons."""
        self.call("scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + 30
        while self.call("squeue", "--noheader").strip() and time.monotonic() < deadline:
            time.sleep(0.5)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def call(self, *command: str) -> str:
        """Run a program of Slurm; returns its standard output, empty where it failed."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout

    def job(self, job_id: str) -> dict[str, str]:
        """What the controller says of a job: JobState, Restarts, Reason and the rest."""
        text = self.call("scontrol", "--oneliner", "show", "job", job_id)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def logs(self) -> str:
        """The ends of all daemons' logs, for a test that fails."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in self.directory.glob("log/*"))

    def _daemon(self, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=SEARCH_PATH)
        assert path is not None
        with (self.directory / "log" / f"{program}-{len(self.daemons)}.out").open("wb") as output:
            self.daemons.append(
                subprocess.Popen(
                    [path, *arguments],
                    env=self.environment,
                    stdout=output,
                    stderr=output,
                    stdin=subprocess.DEVNULL,
                    preexec_fn=die_with_parent,
                )
            )

    def _idle_nodes(self) -> int:
        return self.call("sinfo", "--noheader", "--Node", "--format=%N %t").count(" idle")

    def _wait_for(self, what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not done():
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in self.daemons):
                raise RuntimeError(f"no {what}\n{self.logs()}")
            time.sleep(0.1)

    def _configuration(self) -> str:
        directory, user = self.directory, getpass.getuser()
        controller, *ports = free_ports(1 + len(NODES))
        nodes = [
            f"NodeName={node} NodeHostname={HOST} NodeAddr=127.0.0.1 Port={port} CPUs=2 State=UNKNOWN"
            for node, port in zip(NODES, ports, strict=True)
        ]
        return "\n".join(
            [
                "ClusterName=loopback",
                f"SlurmctldHost={HOST}(127.0.0.1)",
                f"SlurmctldPort={controller}",
                "AuthType=auth/munge",
                # A requeued job waits as long as a credential lives; 5 s is the least that Slurm takes.
                f"AuthInfo=socket={directory}/munge.socket,cred_expire=5",
                f"SlurmUser={user}",
                f"SlurmdUser={user}",
                f"StateSaveLocation={directory}/state",
                f"SlurmdSpoolDir={directory}/spool-%n",
                f"SlurmctldPidFile={directory}/slurmctld.pid",
                f"SlurmdPidFile={directory}/slurmd-%n.pid",
                "ProctrackType=proctrack/linuxproc",
                "TaskPlugin=task/none",
                "MpiDefault=none",
                "SwitchType=switch/none",
                "JobAcctGatherType=jobacct_gather/none",
                "AccountingStorageType=accounting_storage/none",
                "SelectType=select/cons_tres",
                "SelectTypeParameters=CR_Core",
                "SlurmdParameters=config_overrides",
                "SchedulerParameters=sched_interval=2,batch_sched_delay=0",
                "KillWait=5",
                "ReturnToService=2",
                *nodes,
                "PartitionName=loop Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
                "",
            ]
        )

"""A Ray of its own on the loopback interface: one machine of two CPUs, which ends with the process that started it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loopback_slurm import free_ports

from provenance.lifetime import die_with_parent

NUM_CPUS = 2
TASK = b"ray::do_task"
"""Name that Ray gives to a process while it does a task."""


class LoopbackRay:
    """Starts and stops the processes of Ray and kills those that do tasks.

    Args:
        directory: a short path (sockets have a length limit) for logs and sockets.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.started: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start all processes and wait until they take tasks."""
        host, port = self.address.split(":")
        options = ["--head", "--block", f"--node-ip-address={host}", f"--port={port}", f"--num-cpus={NUM_CPUS}"]
        options += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={self.directory / 'ray'}"]
        log = self.directory / "start.log"
        with log.open("wb") as output:
            self.started = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
                env={**os.environ, "HOME": str(self.directory)},  # where Ray keeps what it makes for itself
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + 60
        while b"Ray runtime started" not in log.read_bytes():
            if time.monotonic() > deadline or self.started.poll() is not None:
                raise RuntimeError(f"no Ray\n{log.read_text()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End all processes."""
        self.started.terminate()
        try:
            self.started.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.started.kill()
            self.started.wait()

    @contextmanager
    def one_task_killed(self) -> Iterator[list[int]]:
        """Kill the first process that does a task, if one does while the block runs; yields those that were killed."""
        killed: list[int] = []
        over = threading.Event()

        def watch() -> None:
            while not killed and not over.wait(0.005):
                for process in _descendants(self.started.pid):
                    if _command(process).startswith(TASK):
                        os.kill(process, signal.SIGKILL)
                        killed.append(process)
                        break

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            yield killed
        finally:
            over.set()
            watching.join()


def _descendants(process: int) -> Iterator[int]:
    """Processes that it started, and that those started."""
    parents = {int(path.name): _parent(path) for path in Path("/proc").glob("[0-9]*")}
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        yield from more
        found |= more


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it has ended


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""

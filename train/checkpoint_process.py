"""The process beside a training process that hashes and writes its checkpoints while steps go on.

It shares memory with the training process and nothing else: no lock of Python, no torch. It runs at a lower priority,
so that where all cores are busy it works in the moments in which they wait. Requests and answers are lines of JSON on
its standard input and output. The memory has no name, and the process ends when the other one does.
"""

import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from mmap import mmap
from pathlib import Path
from typing import IO

from provenance.canonical import Json
from provenance.lifetime import die_with_parent
from train.checkpoint_files import (
    UNKNOWN_ERROR,
    Companions,
    TensorPlace,
    error_number,
    place_checkpoint,
    write_companions,
    write_tensors,
)
from train.retention import Retention

PROGRAM: Sequence[str] = ("-m", "train.checkpoint_process")
NICENESS = 19
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Answer:
    """How a request went.

    Attributes:
        digests: by name, of the tensors that were written.
        error_number: the operating system's number of what went wrong; 0 for nothing, else `UNKNOWN_ERROR`.
        error: what went wrong, for people.
    """

    digests: dict[str, bytes]
    error_number: int = 0
    error: str = ""


class CheckpointProcess:
    """The training process's end: one request at a time, each with one answer.

    The process starts with the first request.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._memory: mmap | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def memory(self, size_bytes: int) -> mmap:
        """The shared memory, made larger where it is smaller than this; it is kept from one checkpoint to the next.

        Raises:
            OSError: when there is no such memory.
        """
        if self._memory is None or len(self._memory) < size_bytes:
            descriptor = self._shared_file()
            os.ftruncate(descriptor, size_bytes)
            self._memory = mmap(descriptor, size_bytes)
        return self._memory

    def _shared_file(self) -> int:
        """Descriptor of a file in memory without a name: it is gone with the last process that has it."""
        if self._descriptor is None:
            self._descriptor = os.memfd_create("openwright-checkpoint")
        return self._descriptor

    def write(self, directory: Path, files: dict[str, list[TensorPlace]], companions: Companions | None) -> None:
        """Ask for the files of a checkpoint in a directory that need not exist."""
        others = None if companions is None else asdict(companions)
        self._send({"directory": str(directory), "target": None, "files": files, "companions": others})

    def place(self, directory: Path, target: Path, record: Json, retention: Retention | None) -> None:
        """Ask for `checkpoint.json`, for the directory's own name, and for the end of older checkpoints by a rule."""
        rule = None if retention is None else asdict(retention)
        self._send({"directory": str(directory), "target": str(target), "record": record, "retention": rule})

    def _send(self, request: dict[str, Json]) -> None:
        if self._process is None:
            self._process = self._start()
        request["memory_bytes"] = 0 if self._memory is None else len(self._memory)
        # Where it has ended, the answer will say so.
        with suppress(BrokenPipeError):
            self._pipe(self._process.stdin).write(json.dumps(request).encode() + b"\n")
            self._pipe(self._process.stdin).flush()

    def _start(self) -> "subprocess.Popen[bytes]":
        descriptor = self._shared_file()
        return subprocess.Popen(
            [sys.executable, *PROGRAM, str(descriptor)],
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(descriptor,),
            # Signals to the job's process group are for the training process. In a session of its own, Linux's
            # autogroups would give this one as much of the cores as all of the job, whatever its priority.
            process_group=0,
        )

    @property
    def pid(self) -> int:
        """Number of the process, which has started."""
        assert self._process is not None
        return self._process.pid

    @property
    def has_answered(self) -> bool:
        """Whether `receive` would return at once."""
        assert self._process is not None
        poll = select.poll()
        poll.register(self._pipe(self._process.stdout), select.POLLIN)
        return bool(poll.poll(0))

    def receive(self) -> Answer:
        """Wait for the answer; a process that has ended answers with an error."""
        assert self._process is not None
        line = self._pipe(self._process.stdout).readline()
        if not line.endswith(b"\n"):
            code = self._process.wait()
            return Answer({}, UNKNOWN_ERROR, f"the process that writes checkpoints ended with code {code}")
        values = json.loads(line)
        digests = {name: bytes.fromhex(digest) for name, digest in values["digests"].items()}
        return Answer(digests, values["error_number"], values["error"])

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe

    def close(self) -> None:
        """End the process, whatever it is at, and let its memory go."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._pipe(process.stdout).close()
            with suppress(BrokenPipeError):
                self._pipe(process.stdin).close()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = self._memory = None


def serve(descriptor: int, requests: IO[bytes], answers: IO[bytes]) -> None:
    """The other end: answer requests until there are none.

    Args:
        descriptor: the file in memory that both processes share.
    """
    memory: mmap | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if request["memory_bytes"] > (0 if memory is None else len(memory)):
                memory = mmap(descriptor, request["memory_bytes"])
            answer = Answer(_do(request, memory))
        except Exception as error:  # whatever it is, the training process says it
            answer = Answer({}, error_number(error), f"{type(error).__name__}: {error}")
            if answer.error_number == UNKNOWN_ERROR:
                traceback.print_exc()
        digests = {name: digest.hex() for name, digest in answer.digests.items()}
        answers.write(json.dumps({**asdict(answer), "digests": digests}).encode() + b"\n")
        answers.flush()


def _do(request: Json, memory: mmap | None) -> dict[str, bytes]:
    """Do what is asked for; returns the digests of the tensors that were written."""
    directory = Path(request["directory"])
    if request["target"] is not None:
        rule = request["retention"]
        retention = None if rule is None else Retention(**rule)
        place_checkpoint(directory, Path(request["target"]), request["record"], retention)
        return {}
    files = {
        file: [TensorPlace(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in places]
        for file, places in request["files"].items()
    }
    digests = write_tensors(directory, files, memory)
    if request["companions"] is not None:
        write_companions(directory, Companions(**request["companions"]))
    return digests


def main() -> None:
    """Serve the process that started this one; a wish to stop is for that one."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    os.nice(NICENESS)
    serve(int(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()

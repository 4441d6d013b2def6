"""How processes of a job end: with the process that started them, and by whose doing."""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1

_SENT_BY_OTHERS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGKILL,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTERM,
    signal.SIGXCPU,
)
"""What schedulers, limits, people and a kernel without memory send; a fault in a process's own code gives others."""


def die_with_parent(parent_module: str = "") -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; elsewhere nothing happens).

    A worker whose launcher was killed would else wait in a collective for ever, or train on alone.

    Args:
        parent_module: module that the parent runs; if it was killed before this call, another process stands in its
            place, and this one ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        command = Path(f"/proc/{os.getppid()}/cmdline")
        if parent_module and (not command.exists() or parent_module.encode() not in command.read_bytes()):
            os._exit(1)


def killed_by(code: int) -> signal.Signals | None:
    """The signal by which a process was ended from outside, as its exit code says; None where it ended by itself.

    A process that sends itself such a signal looks the same, and so does one that returns such a code.

    Args:
        code: -N for signal N, as `subprocess` has it, or 128 + N, as shells have it.
    """
    number = -code if code < 0 else code - 128
    return next((sent for sent in _SENT_BY_OTHERS if sent == number), None)

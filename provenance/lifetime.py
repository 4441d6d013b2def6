"""Processes of a job end with the process that started them."""

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


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

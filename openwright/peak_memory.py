"""Peak memory of this process and all its children together, sampled while work goes on (an observation)."""

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_MIN_PAUSE_SECONDS = 1.0
_PAUSE_PER_SAMPLE = 50
"""A sample walks all pages of every process and holds it up meanwhile: at most one fiftieth of the time goes there."""
_PROC = Path("/proc")


class PeakMemory:
    """Context manager that samples the proportional set size of the process tree about once a second.

    Shared pages are divided among the processes that share them, so the sum over a tree is honest. On a system
    without /proc nothing is measured and `peak_bytes` stays 0, which readers show as "not measured".
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            started = time.monotonic()
            self.peak_bytes = max(self.peak_bytes, tree_bytes(os.getpid()))
            pause = max(_MIN_PAUSE_SECONDS, _PAUSE_PER_SAMPLE * (time.monotonic() - started))
            if self._done.wait(pause):
                return


def tree_bytes(root: int) -> int:
    """Memory in bytes that a process and its descendants hold now; processes that just ended count as 0."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdigit():
            children.setdefault(_parent_of(entry), []).append(int(entry.name))
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        total += _proportional_bytes(_PROC / str(process))
        waiting.extend(children.get(process, ()))
    return total


def _parent_of(process: Path) -> int:
    try:
        text = (process / "stat").read_text()
    except OSError:
        return -1
    return int(text.rpartition(")")[2].split()[1])


def _proportional_bytes(process: Path) -> int:
    try:
        text = (process / "smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0

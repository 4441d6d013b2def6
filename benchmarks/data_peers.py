"""Peers in an interpreter of their own, batch by batch in turn with ours."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from data_text import MEGABYTE

WORKER = Path(__file__).resolve().parent / "peer_worker.py"


class Peers:
    """Runs tasks of `peer_worker.py` with the Python of a virtual environment that has the peers."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [python, WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def seconds(self, task: str, texts: Sequence[str]) -> float:
        """Processor seconds that a task takes on some texts.

        Raises:
            SystemExit: when the peer fails.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"task": task, "texts": list(texts)}), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the peer ended in task {task}")
        return float(json.loads(answer)["seconds"])


@dataclass(frozen=True)
class Rates:
    """MB per processor second of two contenders, over all batches, and of each pair of batches."""

    ours: float
    peer: float
    pairs: tuple[tuple[float, float], ...]


def in_turn(
    ours: Callable[[Sequence[str]], None], peer: Callable[[Sequence[str]], float], batches: Sequence[Sequence[str]]
) -> Rates:
    """Let ours and a peer do each batch, one after the other, who begins in turn; the first batch warms both up.

    Args:
        ours: does a batch in this process.
        peer: does a batch and returns its processor seconds.
    """
    pairs, megabytes, seconds = [], 0.0, [0.0, 0.0]
    for number, batch in enumerate((batches[0], *batches)):
        taken = [0.0, 0.0]
        for place in ((0, 1), (1, 0))[number % 2]:
            taken[place] = _seconds(ours, batch) if place == 0 else peer(batch)
        if number:
            size = sum(len(text.encode("utf-8")) for text in batch) / MEGABYTE
            megabytes += size
            seconds = [total + part for total, part in zip(seconds, taken, strict=True)]
            pairs.append((size / taken[0], size / taken[1]))
    return Rates(megabytes / seconds[0], megabytes / seconds[1], tuple(pairs))


def _seconds(work: Callable[[Sequence[str]], None], batch: Sequence[str]) -> float:
    began = time.process_time()
    work(batch)
    return time.process_time() - began


def batches_of(texts: Sequence[str], size_bytes: int) -> list[list[str]]:
    """Cut texts into batches of at least so many bytes."""
    batches: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size >= size_bytes:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += len(text.encode("utf-8"))
    return batches

"""Ends a process whose training step never ends, so that the job can go on from its last checkpoint.

A collective that waits for a process that died, a file system that stopped answering, a deadlock: without this a job
burns its whole time limit. The stacks of all threads are kept, since they say what the process was waiting for.

The watching thread is Python: code that holds the interpreter's lock for ever stops it too. In a job of several
processes the others then wait for this one, and notice.
"""

import faulthandler
import json
import os
import socket
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from provenance.errors import StoppedForRequeue
from train.job import OUTCOME

HANG_FORMAT = "openwright-hang/1"
OUTCOME_HUNG = "hung"
"""What the outcome file of the run directory says when a watchdog ended the job."""

DEFAULT_FLOOR_SECONDS = 1800.0
"""No step is called hung before this: compilation, a held-out evaluation and a checkpoint all fit in."""

_STEPS_REMEMBERED = 64
_CALLBACK_SECONDS = 10.0


@dataclass(frozen=True)
class Hang:
    """What a watchdog saw: the first line of its file, as JSON.

    Attributes:
        last_step: the last step that ended; the one after it never did.
        waited_seconds: since then, without time in which the whole process was suspended.
        limit_seconds: what was allowed.
        median_seconds: of the last steps, None before the first.
    """

    format: str
    time_utc: str
    host: str
    process_id: int
    rank: int
    last_step: int
    waited_seconds: float
    limit_seconds: float
    median_seconds: float | None


class Watchdog:
    """Watches one process of a job; `beat` is called when a step has ended.

    Args:
        run_dir: the run directory, for the outcome that the launching process reads.
        record_dir: where `hang-rank<N>-<time>.txt` goes. Not the run directory: all files there become part of the
            artifact, and stacks name paths of the machine.
        rank: number of the process.
        last_step: the last step that is done already.
        floor_seconds: no step is called hung before this.
        factor: nor before this many times the running median of the steps' lengths.
        grace_seconds: time between the record and the end, in which the other processes write theirs.
        on_hang: called with the record, for the journal; given up on after a few seconds.
    """

    def __init__(
        self,
        run_dir: Path,
        record_dir: Path,
        rank: int,
        *,
        last_step: int = 0,
        floor_seconds: float = DEFAULT_FLOOR_SECONDS,
        factor: float = 10.0,
        grace_seconds: float = 10.0,
        on_hang: Callable[[Hang], None] | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.record_dir = record_dir
        self.rank = rank
        self.floor_seconds = floor_seconds
        self.factor = factor
        self.grace_seconds = grace_seconds
        self.on_hang = on_hang
        self._last_step = last_step
        self._seconds: deque[float] = deque(maxlen=_STEPS_REMEMBERED)
        self._waited = 0.0
        self._beaten = time.monotonic()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> "Watchdog":
        """Begin to watch."""
        self._beaten = time.monotonic()
        self._thread.start()
        return self

    def beat(self, step: int) -> None:
        """Say that a step has ended, with everything that belongs to it."""
        now = time.monotonic()
        with self._lock:
            self._seconds.append(now - self._beaten)
            self._beaten = now
            self._waited = 0.0
            self._last_step = step

    def stop(self) -> None:
        """End the watch; called when the last step is done."""
        self._stopped.set()
        self._thread.join()

    def limit_seconds(self) -> float:
        """How long the step under way may take."""
        median = statistics.median(self._seconds) if self._seconds else 0.0
        return max(self.floor_seconds, self.factor * median)

    def _watch(self) -> None:
        pause = min(5.0, self.floor_seconds / 10)
        looked = time.monotonic()
        while not self._stopped.wait(pause):
            now = time.monotonic()
            with self._lock:
                # A process that was suspended was not hanging: this thread did not run either.
                self._waited += min(now - looked, 2 * pause)
                waited, limit = self._waited, self.limit_seconds()
            looked = now
            if waited > limit:
                self._end_process(waited, limit)

    def _end_process(self, waited: float, limit: float) -> None:
        hang = Hang(
            format=HANG_FORMAT,
            time_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            process_id=os.getpid(),
            rank=self.rank,
            last_step=self._last_step,
            waited_seconds=round(waited, 3),
            limit_seconds=round(limit, 3),
            median_seconds=round(statistics.median(self._seconds), 6) if self._seconds else None,
        )
        try:
            path = self._write_record(hang)
            self._write_outcome(hang, path)
            print(f"no step ended for {waited:.0f} s after step {hang.last_step}: {path}", file=sys.stderr, flush=True)
            if self.on_hang is not None:
                caller = threading.Thread(target=self.on_hang, args=(hang,), daemon=True)
                caller.start()
                caller.join(_CALLBACK_SECONDS)
            time.sleep(self.grace_seconds)
        finally:
            os._exit(StoppedForRequeue.exit_code)

    def _write_record(self, hang: Hang) -> Path:
        stamp = hang.time_utc.replace("-", "").replace(":", "").split("+")[0]
        path = self.record_dir / f"hang-rank{self.rank}-{stamp}Z.txt"
        self.record_dir.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(hang), sort_keys=True) + "\n\n")
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
            file.flush()
            os.fsync(file.fileno())
        return path

    def _write_outcome(self, hang: Hang, record: Path) -> None:
        """The first process that ends decides; what another one reported already is kept."""
        outcome = self.run_dir / OUTCOME
        if outcome.exists():
            return
        error = {
            "found": f"no step ended for {hang.waited_seconds:.0f} s after step {hang.last_step} (rank {hang.rank})",
            "expected": f"a step within {hang.limit_seconds:.0f} s",
            "where": str(record),
            "next_command": "run the same command again; it goes on from the last full checkpoint",
        }
        written = self.run_dir / f"{OUTCOME}.rank{self.rank}"
        written.write_text(json.dumps({"outcome": OUTCOME_HUNG, "error": error}), encoding="utf-8")
        os.replace(written, outcome)

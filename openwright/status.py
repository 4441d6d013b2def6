"""Where runs stand, read from their ledgers and journals on disk; true while the run is still going on.

Only the ends of the files are parsed, so that a long run costs no more than a short one, and the chains are taken on
trust: `openwright verify` checks them.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openwright.outcome import command
from provenance.artifacts import MANIFEST_NAME
from provenance.console import fact
from provenance.errors import ArtifactError

LEDGER_NAME = "ledger.jsonl"
JOURNAL_NAME = "journal.jsonl"
WORK_PREFIX = ".work-"
PACE_STEPS = 50
"""Steps over which the pace, and with it the time left, is taken."""

_BLOCK_BYTES = 1 << 16
_RESTART = b'"kind":"resume"'
_PHASES = ("start", "resume", "step", "stop")
"""Kinds of journal records that tell whether a run goes on; others may follow them."""


@dataclass(frozen=True)
class RunStatus:
    """One training run.

    Attributes:
        path: its directory.
        state: `finished`, `stopped` (it was asked to) or `unfinished` (it goes on, or it crashed; the age tells).
        step: last step in the ledger, 0 before the first.
        num_steps: steps of the whole recipe.
        loss: training loss of that step, None before the first.
        heldout_bits_per_byte: of the last held-out evaluation, None before the first.
        last_checkpoint: step of the last checkpoint in the ledger, None before the first.
        tokens_per_second: of the last step that the journal tells of, None where it tells of none.
        flops_per_second: of the same step, forward and backward, None where it tells of none.
        mfu: share of the devices' published peak that this is, None where no peak is known, as on CPUs.
        seconds_left: at the pace of the last steps since the last restart, None where they are too few.
        num_restarts: how often the run was resumed.
        last_sign_of_life: time of the last journal record (ISO, UTC), None without a journal.
        age_seconds: since then, None without a journal.
    """

    path: str
    stage: str
    state: str
    step: int
    num_steps: int
    loss: float | None
    heldout_bits_per_byte: float | None
    last_checkpoint: int | None
    tokens_per_second: float | None
    flops_per_second: float | None
    mfu: float | None
    seconds_left: float | None
    num_restarts: int
    last_sign_of_life: str | None
    age_seconds: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the form that `--json` prints."""
        return asdict(self)

    def line(self) -> str:
        """One line for people."""
        parts = [f"step {self.step:,} of {self.num_steps:,}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.heldout_bits_per_byte is not None:
            parts.append(f"held-out {self.heldout_bits_per_byte:.4f} bits per byte")
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
        if self.flops_per_second is not None:
            share = "unknown: no published peak of this device" if self.mfu is None else f"{self.mfu:.1%}"
            size, unit = (1e12, "TFLOP/s") if self.flops_per_second >= 1e12 else (1e9, "GFLOP/s")
            parts.append(f"{self.flops_per_second / size:,.1f} {unit} (MFU {share})")
        if self.last_checkpoint is not None:
            parts.append(f"checkpoint at step {self.last_checkpoint:,}")
        if self.num_restarts:
            parts.append(f"restarts {self.num_restarts}")
        if self.state == "unfinished":
            if self.seconds_left is not None:
                parts.append(f"{duration(self.seconds_left)} left")
            if self.age_seconds is not None:
                parts.append(f"last sign of life {duration(self.age_seconds)} ago")
        return f"{self.stage} {self.state}: {', '.join(parts)}  ({self.path})"


def duration(seconds: float) -> str:
    """A length of time for people: `45 s`, `12 min`, `3 h 20 min`, `2 d 3 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 36:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def find_runs(root: Path) -> list[Path]:
    """Directories at or below `root` that hold a ledger of this project's runs, oldest first.

    Raises:
        ArtifactError: when there is none.
    """
    candidates = [root, *root.glob("*"), *root.glob("*/*"), *root.glob("*/*/*")] if root.is_dir() else []
    changed = {path: _modified(path / LEDGER_NAME) for path in candidates}
    found = {path: seen for path, seen in changed.items() if seen is not None}
    if not found:
        if (work := stage_at_work(root)) is not None:
            raise ArtifactError(
                f"no training run yet: {work.parent.name} is being made, or was left, in {work}",
                expected=f"a run with {LEDGER_NAME}",
                where=str(root),
                next_command=command("status", root, "--follow") + ", which waits for the first run",
            )
        raise ArtifactError(
            "no run here",
            expected=f"a directory of artifacts or a run with {LEDGER_NAME}",
            where=str(root),
            next_command="openwright run CONFIG_DIR",
        )
    return sorted(found, key=lambda path: (found[path], path))


def stage_at_work(root: Path) -> Path | None:
    """Where a stage that trains nothing, such as the corpus, is being made at or below `root`: the newest."""
    candidates = [path for depth in ("", "*/", "*/*/") for path in root.glob(f"{depth}{WORK_PREFIX}*")]
    works = [path for path in candidates if path.is_dir() and not (path / LEDGER_NAME).is_file()]
    return max(works, key=lambda path: (_modified(path) or 0.0, path), default=None)


@dataclass
class RunReader:
    """Reads one run again and again; after the first time only what was appended to its files.

    Args:
        run: the run's directory.
    """

    run: Path
    _ledger_end: int = 0
    _journal_end: int = 0
    _newest: dict[str, dict[str, Any]] = field(default_factory=dict)
    _journal_last: dict[str, Any] | None = None
    _phase: str = ""
    _paced: list[dict[str, Any]] = field(default_factory=list)
    _num_restarts: int = 0

    def read(self) -> RunStatus:
        """Return where the run stands now.

        Raises:
            ArtifactError: when its files hold no records of a run: a directory may hold a `ledger.jsonl` of others.
        """
        try:
            return self._read()
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ArtifactError(
                f"{LEDGER_NAME} or {JOURNAL_NAME} is not that of a training run",
                expected="the records of a run, as docs/formats.md has them",
                where=str(self.run),
                next_command="openwright status RUN, with the directory of a run or of artifacts",
            ) from None

    def _read(self) -> RunStatus:
        if _size(self.run / LEDGER_NAME) < self._ledger_end or _size(self.run / JOURNAL_NAME) < self._journal_end:
            self._forget()  # a resumed run cut its ledger back
        self._read_ledger(self.run / LEDGER_NAME)
        self._read_journal(self.run / JOURNAL_NAME)
        start, step = self._newest.get("start", {}), self._newest.get("step", {})
        evaluation, checkpoint = self._newest.get("evaluation"), self._newest.get("checkpoint")
        num_steps = sum(int(phase["num_steps"]) for phase in start.get("order", {}).get("phases", ()))
        done = int(step.get("step", 0))
        seen = str(self._journal_last["time_utc"]) if self._journal_last else None
        return RunStatus(
            path=self.run.as_posix(),
            stage=str(start.get("stage", "unknown")),
            state=self._state(),
            step=done,
            num_steps=num_steps,
            loss=float.fromhex(step["loss"]) if step else None,
            heldout_bits_per_byte=float.fromhex(evaluation["bits_per_byte"]) if evaluation else None,
            last_checkpoint=int(checkpoint["step"]) if checkpoint else None,
            tokens_per_second=float.fromhex(self._paced[-1]["tokens_per_second"]) if self._paced else None,
            flops_per_second=_flops_per_second(self._paced[-1]) if self._paced else None,
            mfu=float.fromhex(self._paced[-1]["mfu"]) if self._paced and "mfu" in self._paced[-1] else None,
            seconds_left=self._seconds_left(num_steps - done),
            num_restarts=self._num_restarts,
            last_sign_of_life=seen,
            age_seconds=_age(seen),
        )

    def _forget(self) -> None:
        self._ledger_end = self._journal_end = self._num_restarts = 0
        self._newest, self._journal_last, self._phase, self._paced = {}, None, "", []

    def _read_ledger(self, path: Path) -> None:
        """The newest record of each kind: backwards from the end, as far as the last place known."""
        with path.open("rb") as file:
            if "start" not in self._newest:
                first = file.readline()
                if first.endswith(b"\n"):
                    self._newest["start"] = json.loads(first)
            begin = self._ledger_end
            self._ledger_end = _end_of_lines(file, begin)
            found: dict[str, dict[str, Any]] = {}
            for line in _lines_backwards(file, begin, self._ledger_end):
                record = json.loads(line)
                found.setdefault(str(record["kind"]), record)
                if {"step", "evaluation", "checkpoint"} <= found.keys():
                    break
        self._newest.update(found)

    def _read_journal(self, path: Path) -> None:
        """Restarts are counted over all that is new, by their bytes; records are parsed at the end only."""
        if not path.is_file():
            return
        with path.open("rb") as file:
            begin = self._journal_end
            self._journal_end = _end_of_lines(file, begin)
            self._num_restarts += _count(file, _RESTART, begin, self._journal_end)
            newest: list[dict[str, Any]] = []
            restarted, phase = False, ""
            for number, line in enumerate(_lines_backwards(file, begin, self._journal_end)):
                record = json.loads(line)
                if number == 0:
                    self._journal_last = record
                if not phase and record["kind"] in _PHASES:
                    phase = record["kind"]
                restarted = record["kind"] in ("start", "resume")
                if restarted or len(newest) == PACE_STEPS:
                    break
                if record["kind"] == "step":
                    newest.insert(0, record)
        self._phase = phase or self._phase
        earlier = [] if restarted and newest else self._paced
        self._paced = [*earlier, *newest][-PACE_STEPS:]

    def _state(self) -> str:
        if (self.run / MANIFEST_NAME).is_file():
            return "finished"
        return "stopped" if self._phase == "stop" else "unfinished"

    def _seconds_left(self, num_steps_left: int) -> float | None:
        if len(self._paced) < 2:
            return None
        first, last = (datetime.fromisoformat(str(self._paced[place]["time_utc"])) for place in (0, -1))
        num_steps = int(self._paced[-1]["step"]) - int(self._paced[0]["step"])
        if num_steps < 1:
            return None
        return max(0, num_steps_left) * (last - first).total_seconds() / num_steps


def _flops_per_second(step: dict[str, Any]) -> float | None:
    return float(step["flops"]) / float.fromhex(step["seconds"]) if "flops" in step else None


def status_of(run: Path) -> RunStatus:
    """Read one run's status."""
    return RunReader(run).read()


def statuses(root: Path) -> Iterator[RunStatus]:
    """Status of every run at or below a directory."""
    for run in find_runs(root):
        yield status_of(run)


def follow(
    root: Path,
    show: Callable[[list[RunStatus]], None],
    every_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show where the runs at or below a directory stand, again and again until all have finished.

    Args:
        root: a run or a directory of artifacts; runs that begin later are found too, and waited for while another
            stage is being made.
        show: called with the status of every run each time.
        every_seconds: pause between two looks.
    """
    readers: dict[Path, RunReader] = {}
    told: Path | None = None
    while True:
        if not root.is_dir() and root.name.startswith(WORK_PREFIX):
            root = root.parent / root.name.removeprefix(WORK_PREFIX)  # it has finished and was given its name
        try:
            runs = find_runs(root)
        except ArtifactError:
            if (work := stage_at_work(root)) is None:
                raise
            if work != told:
                fact(f"no training run yet: {work.parent.name} is being made in {work}")
            runs, told = [], work
        found = []
        for run in runs:
            try:
                found.append(readers.setdefault(run, RunReader(run)).read())
            except FileNotFoundError:
                continue  # it was given its name between two looks
        if found:
            show(found)
            if all(status.state == "finished" for status in found):
                return
        sleep(every_seconds)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _age(seen: str | None) -> float | None:
    if seen is None:
        return None
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(seen)).total_seconds())


def _end_of_lines(file: Any, begin: int) -> int:
    """Where the last whole line ends; a line that is being written just now is left for the next time."""
    end = int(file.seek(0, 2))
    while end > begin:
        start = max(begin, end - _BLOCK_BYTES)
        file.seek(start)
        newline: int = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return begin


def _lines_backwards(file: Any, begin: int, end: int) -> Iterator[bytes]:
    """Whole lines between two places, the last one first, read block by block."""
    rest = b""
    while end > begin:
        start = max(begin, end - _BLOCK_BYTES)
        file.seek(start)
        first, *lines = (file.read(end - start) + rest).split(b"\n")
        yield from (line for line in reversed(lines) if line)
        rest, end = first, start
    if rest:
        yield rest


def _count(file: Any, needle: bytes, begin: int, end: int) -> int:
    """How often `needle` occurs between two places, which are ends of lines."""
    total = 0
    place = begin
    while place < end:
        file.seek(place)
        block = file.read(min(_BLOCK_BYTES * 16, end - place))
        cut = block.rfind(b"\n") + 1
        total += int(block[:cut].count(needle))
        place += cut or len(block)
    return total

"""Where runs stand, read from their ledgers and journals on disk; true while the run is still going on."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from provenance.artifacts import MANIFEST_NAME
from provenance.errors import ArtifactError
from provenance.ledger import read_chain

LEDGER_NAME = "ledger.jsonl"
JOURNAL_NAME = "journal.jsonl"


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
        age_seconds: since the last journal record, None without a journal.
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
        if self.last_checkpoint is not None:
            parts.append(f"checkpoint at step {self.last_checkpoint:,}")
        if self.age_seconds is not None and self.state == "unfinished":
            parts.append(f"last sign of life {self.age_seconds:.0f} s ago")
        return f"{self.stage} {self.state}: {', '.join(parts)}  ({self.path})"


def find_runs(root: Path) -> list[Path]:
    """Directories at or below `root` that hold a ledger of this project's runs, oldest first.

    Raises:
        ArtifactError: when there is none.
    """
    candidates = [root, *root.glob("*"), *root.glob("*/*"), *root.glob("*/*/*")] if root.is_dir() else []
    found = {path for path in candidates if (path / LEDGER_NAME).is_file()}
    if not found:
        raise ArtifactError(
            "no run here",
            expected=f"a directory of artifacts or a run with {LEDGER_NAME}",
            where=str(root),
            next_command="openwright run CONFIG_DIR",
        )
    return sorted(found, key=lambda path: ((path / LEDGER_NAME).stat().st_mtime, path))


def status_of(run: Path) -> RunStatus:
    """Read one run's status."""
    stage, num_steps, step = "unknown", 0, 0
    loss = heldout = checkpoint = None
    for record in read_chain(run / LEDGER_NAME):
        match record["kind"]:
            case "start":
                stage = str(record["stage"])
                num_steps = sum(int(phase["num_steps"]) for phase in record["order"]["phases"])
            case "step":
                step, loss = int(record["step"]), float.fromhex(record["loss"])
            case "evaluation":
                heldout = float.fromhex(record["bits_per_byte"])
            case "checkpoint":
                checkpoint = int(record["step"])
    last, speed = _last_of_journal(run / JOURNAL_NAME)
    return RunStatus(
        path=run.as_posix(),
        stage=stage,
        state=_state(run, last),
        step=step,
        num_steps=num_steps,
        loss=loss,
        heldout_bits_per_byte=heldout,
        last_checkpoint=checkpoint,
        tokens_per_second=speed,
        age_seconds=_age(last),
    )


def statuses(root: Path) -> Iterator[RunStatus]:
    """Status of every run at or below a directory."""
    for run in find_runs(root):
        yield status_of(run)


def _state(run: Path, last: dict[str, Any] | None) -> str:
    if (run / MANIFEST_NAME).is_file():
        return "finished"
    return "stopped" if last is not None and last["kind"] == "stop" else "unfinished"


def _last_of_journal(path: Path) -> tuple[dict[str, Any] | None, float | None]:
    last, speed = None, None
    for last in read_chain(path) if path.is_file() else ():
        if "tokens_per_second" in last:
            speed = float.fromhex(last["tokens_per_second"])
    return last, speed


def _age(last: dict[str, Any] | None) -> float | None:
    if last is None:
        return None
    seen = datetime.fromisoformat(str(last["time_utc"]))
    return max(0.0, (datetime.now(UTC) - seen).total_seconds())

"""What checkpoints say of themselves and how their directories are named: all but their tensors.

Nothing here needs torch, so that the process that starts a job, and the one that writes checkpoints, do without it.
"""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from provenance.canonical import Json, read_json, write_json
from provenance.durability import sync_path
from provenance.errors import ArtifactError
from provenance.ledger import ChainPlace

CHECKPOINT_FORMAT = "openwright-checkpoint/1"
CHECKPOINTS = "checkpoints"
OPTIMIZER_STEM = "optimizer"
RECORD = "checkpoint.json"


@dataclass(frozen=True)
class CheckpointRecord:
    """What `checkpoint.json` says.

    Attributes:
        kind: `weights`, or `full` with the optimizer: only these can start a resume or a replay (and step 0).
        ledger: how far the ledger had come when the checkpoint was made: right before the checkpoint's own record.
    """

    kind: str
    step: int
    weights_digest: str
    state_digest: str | None
    ledger: ChainPlace

    def ledger_record(self) -> dict[str, Json]:
        """The ledger's record of this checkpoint."""
        return {
            "kind": "checkpoint",
            "step": self.step,
            "checkpoint_kind": self.kind,
            "weights_digest": self.weights_digest,
            "state_digest": self.state_digest,
        }

    def as_json(self) -> dict[str, Json]:
        """What `checkpoint.json` holds."""
        return {"format": CHECKPOINT_FORMAT, **asdict(self)}

    def save(self, directory: Path) -> None:
        """Write `checkpoint.json`."""
        write_json(directory / RECORD, self.as_json())
        sync_path(directory / RECORD)


def read_record(directory: Path) -> CheckpointRecord:
    """Read `checkpoint.json` of a checkpoint directory."""
    values = read_json(directory / RECORD)
    if values.get("format") != CHECKPOINT_FORMAT:
        raise ArtifactError(f"format {values.get('format')!r}", expected=CHECKPOINT_FORMAT, where=str(directory))
    return CheckpointRecord(
        kind=values["kind"],
        step=values["step"],
        weights_digest=values["weights_digest"],
        state_digest=values["state_digest"],
        ledger=ChainPlace(**values["ledger"]),
    )


def checkpoint_name(step: int) -> str:
    """Directory name of the checkpoint of a step."""
    return f"step-{step:08d}"


def requeue_name(step: int | str) -> str:
    """Directory name of a checkpoint made because a job was asked to stop; `*` matches all of them."""
    return f"requeue-{step:08d}" if isinstance(step, int) else f"requeue-{step}"


# ---- directories of checkpoints -------------------------------------------------------------------------------------


def remove_checkpoint(directory: Path) -> None:
    """Remove a checkpoint at once: after a kill it is whole, or a leftover that the next start removes."""
    leftover = directory.with_name(f".{directory.name}.old.tmp")
    os.replace(directory, leftover)
    shutil.rmtree(leftover)


def newest_resumable(run_dir: Path) -> Path | None:
    """Directory of the newest full checkpoint of a run, or None."""
    paths = (run_dir / CHECKPOINTS).glob("[rs]*-*")
    full = {read_record(path).step: path for path in sorted(paths) if read_record(path).kind == "full"}
    return full[max(full)] if full else None

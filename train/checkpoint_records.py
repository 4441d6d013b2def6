"""What checkpoints say of themselves, which of them are due, and which are kept: all but their tensors.

Nothing here needs torch, so that the process that starts a job can look at its run without loading it.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from provenance.canonical import Json, read_json, write_json
from provenance.durability import sync_path
from provenance.errors import ArtifactError
from provenance.ledger import ChainPlace
from train.checkpoint_files import RECORD, remove_checkpoint
from train.settings import CheckpointConfig, RunConfig

CHECKPOINT_FORMAT = "openwright-checkpoint/1"
CHECKPOINTS = "checkpoints"
OPTIMIZER_STEM = "optimizer"


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


# ---- which checkpoints there are ----------------------------------------------------------------------------------


def checkpoint_kind(config: RunConfig, step: int) -> str | None:
    """Kind of the checkpoint made at a step: `weights`, `full`, or None."""
    if step and (step == config.num_steps or step % config.checkpoints.full_every_steps == 0):
        return "full"
    return "weights" if _weights_due(config.checkpoints, step) else None


def _weights_due(settings: CheckpointConfig, step: int) -> bool:
    if step == 0 or (step <= settings.weights_until_step and step & (step - 1) == 0):
        return True
    return settings.weights_every_steps > 0 and step % settings.weights_every_steps == 0


def remove_old_checkpoints(run_dir: Path, config: RunConfig) -> None:
    """Apply retention: older full checkpoints go, or keep their weights only; safe to repeat after a crash.

    Checkpoints made for a requeue go as soon as a full one of the schedule is as new. The record is changed before the
    optimizer's files go, so that a kill in between leaves a whole weights checkpoint with files that the next call
    removes.
    """
    settings = config.checkpoints
    kept = {read_record(path).step: path for path in (run_dir / CHECKPOINTS).glob(checkpoint_name(0)[:5] + "*")}
    full = [step for step, path in sorted(kept.items()) if read_record(path).kind == "full"]
    for path in (run_dir / CHECKPOINTS).glob(requeue_name("*")):
        if full and read_record(path).step <= full[-1]:
            remove_checkpoint(path)
    if settings.keep_last_full is None:
        return
    for step in [step for step in full if step < config.num_steps][: -settings.keep_last_full]:
        if step in settings.published_full_steps or (config.branch and step == config.branch.step):
            continue
        if _weights_due(settings, step):
            _keep_weights_only(kept[step])
        else:
            remove_checkpoint(kept[step])
    for step, path in kept.items():
        if step not in full or _weights_due(settings, step):
            _remove_optimizer_of_weights(path)


def _keep_weights_only(directory: Path) -> None:
    """Make a full checkpoint one of kind `weights`; its new record takes the place of the old one at once."""
    record = read_record(directory)
    work = directory.with_name(f".{directory.name}.tmp")
    work.mkdir()
    CheckpointRecord("weights", record.step, record.weights_digest, None, record.ledger).save(work)
    os.replace(work / RECORD, directory / RECORD)
    sync_path(directory)
    work.rmdir()


def _remove_optimizer_of_weights(directory: Path) -> None:
    if directory.is_dir() and read_record(directory).kind == "weights":
        for path in directory.glob(f"{OPTIMIZER_STEM}*.safetensors*"):
            path.unlink()


def newest_resumable(run_dir: Path) -> Path | None:
    """Directory of the newest full checkpoint of a run, or None."""
    paths = (run_dir / CHECKPOINTS).glob("[rs]*-*")
    full = {read_record(path).step: path for path in sorted(paths) if read_record(path).kind == "full"}
    return full[max(full)] if full else None

"""Checkpoints (`openwright-checkpoint/1`): safetensors and JSON, whole tensors, atomic, verified at load.

The bytes of a checkpoint do not depend on the number of processes: tensors in name order are cut into files by a
fixed size, and every file is written whole.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from provenance.artifacts import sync_path
from provenance.canonical import Json, read_json, write_json
from provenance.errors import ArtifactError
from train.adamw import optimizer_tensors, restore_optimizer
from train.model import named_tensors, trainable_parameters
from train.state import state_digest

CHECKPOINT_FORMAT = "openwright-checkpoint/1"
CHECKPOINTS = "checkpoints"
_RECORD = "checkpoint.json"


@dataclass(frozen=True)
class LedgerPlace:
    """How far the ledger had come when the checkpoint was made (before the checkpoint's own record)."""

    num_records: int
    head: str


@dataclass(frozen=True)
class CheckpointRecord:
    """What `checkpoint.json` says.

    Attributes:
        kind: `weights`, or `full` with the optimizer: only these can start a resume or a replay (and step 0).
    """

    kind: str
    step: int
    weights_digest: str
    state_digest: str | None
    ledger: LedgerPlace

    def ledger_record(self) -> dict[str, Json]:
        """The ledger's record of this checkpoint."""
        return {
            "kind": "checkpoint",
            "step": self.step,
            "checkpoint_kind": self.kind,
            "weights_digest": self.weights_digest,
            "state_digest": self.state_digest,
        }


def checkpoint_name(step: int) -> str:
    """Directory name of the checkpoint of a step."""
    return f"step-{step:08d}"


def requeue_name(step: int | str) -> str:
    """Directory name of a checkpoint made because a job was asked to stop; `*` matches all of them."""
    return f"requeue-{step:08d}" if isinstance(step, int) else f"requeue-{step}"


def describe_state(
    model: Any, optimizer: torch.optim.AdamW | None, step: int, place: LedgerPlace
) -> tuple[CheckpointRecord, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Digest a training state; returns its record, the model's tensors and the optimizer's (empty without one)."""
    weights = named_tensors(model)
    state = optimizer_tensors(optimizer, trainable_parameters(model)) if optimizer is not None else {}
    record = CheckpointRecord(
        kind="full" if optimizer is not None else "weights",
        step=step,
        weights_digest=state_digest(weights),
        state_digest=state_digest({**weights, **state}) if optimizer is not None else None,
        ledger=place,
    )
    return record, weights, state


def write_checkpoint(
    target: Path,
    model: Any,
    optimizer: torch.optim.AdamW | None,
    step: int,
    place: LedgerPlace,
    *,
    tokenizer_dir: Path,
    max_file_bytes: int,
) -> CheckpointRecord:
    """Write a checkpoint: into a temporary directory first, synced, then renamed into place.

    Args:
        target: the checkpoint's directory.
        optimizer: None for kind `weights`.
        tokenizer_dir: its files are copied, so that the checkpoint loads with plain `from_pretrained`.
    """
    record, weights, state = describe_state(model, optimizer, step, place)
    work = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _save_sharded(weights, work, "model", max_file_bytes)
    if state:
        _save_sharded(state, work, "optimizer", max_file_bytes)
    model.config.save_pretrained(work)
    for path in sorted(tokenizer_dir.iterdir()):
        shutil.copyfile(path, work / path.name)
    write_json(work / _RECORD, {"format": CHECKPOINT_FORMAT, **asdict(record)})
    for path in work.iterdir():
        sync_path(path)
    if target.exists():
        shutil.rmtree(target)
    os.replace(work, target)
    sync_path(target.parent)
    return record


def _save_sharded(tensors: Mapping[str, torch.Tensor], directory: Path, stem: str, max_file_bytes: int) -> None:
    """Write tensors in name order, in Hugging Face's shard layout where one file does not hold them."""
    files: list[dict[str, torch.Tensor]] = [{}]
    size_bytes = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        if files[-1] and size_bytes + tensor.nbytes > max_file_bytes:
            files.append({})
            size_bytes = 0
        files[-1][name] = tensor
        size_bytes += tensor.nbytes
    metadata = {"format": "pt"}
    if len(files) == 1:
        save_file(files[0], directory / f"{stem}.safetensors", metadata=metadata)
        return
    weight_map = {}
    for number, content in enumerate(files, start=1):
        name = f"{stem}-{number:05d}-of-{len(files):05d}.safetensors"
        save_file(content, directory / name, metadata=metadata)
        weight_map.update(dict.fromkeys(content, name))
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(
        directory / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def _load_sharded(directory: Path, stem: str) -> dict[str, torch.Tensor]:
    single = directory / f"{stem}.safetensors"
    if single.is_file():
        return dict(load_file(single))
    index = read_json(directory / f"{stem}.safetensors.index.json")
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(set(index["weight_map"].values())):
        tensors.update(load_file(directory / Path(name).name))
    return tensors


def read_record(directory: Path) -> CheckpointRecord:
    """Read `checkpoint.json` of a checkpoint directory."""
    values = read_json(directory / _RECORD)
    if values.get("format") != CHECKPOINT_FORMAT:
        raise ArtifactError(f"format {values.get('format')!r}", expected=CHECKPOINT_FORMAT, where=str(directory))
    return CheckpointRecord(
        kind=values["kind"],
        step=values["step"],
        weights_digest=values["weights_digest"],
        state_digest=values["state_digest"],
        ledger=LedgerPlace(**values["ledger"]),
    )


def newest_resumable(run_dir: Path) -> Path | None:
    """Directory of the newest full checkpoint of a run, or None."""
    paths = (run_dir / CHECKPOINTS).glob("[rs]*-*")
    full = {read_record(path).step: path for path in sorted(paths) if read_record(path).kind == "full"}
    return full[max(full)] if full else None


def restore_checkpoint(directory: Path, model: Any, optimizer: torch.optim.AdamW) -> CheckpointRecord:
    """Load a checkpoint into a model and a fresh optimizer and check the state digest.

    A weights-only checkpoint is accepted at step 0, where the optimizer has no state yet.

    Raises:
        ArtifactError: when the tensors are not those that the record names.
    """
    record = read_record(directory)
    weights = _load_sharded(directory, "model")
    # Tied tensors stand once in the file, so the missing names are checked here and not by torch.
    missing = sorted(set(named_tensors(model)) ^ set(weights))
    if missing:
        raise ArtifactError(f"tensors differ from the model's: {missing[:3]}", where=str(directory))
    model.load_state_dict(weights, strict=False)
    parameters = trainable_parameters(model)
    state: dict[str, torch.Tensor] = {}
    if record.kind == "full":
        state = _load_sharded(directory, "optimizer")
        restore_optimizer(optimizer, parameters, state)
    elif record.step != 0:
        raise ArtifactError("a checkpoint without optimizer state", expected="a full checkpoint", where=str(directory))
    found, expected = state_digest(weights), record.weights_digest
    if record.state_digest is not None:
        found, expected = state_digest({**weights, **state}), record.state_digest
    if found != expected:
        raise ArtifactError(f"state digest {found}", expected=expected, where=str(directory))
    return record

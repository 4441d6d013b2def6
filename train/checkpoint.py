"""Checkpoints (`openwright-checkpoint/1`): safetensors and JSON, whole tensors, atomic, verified at load.

The bytes of a checkpoint do not depend on the layout of processes: tensors in name order are cut into files by a fixed
size, and every file is written whole by one process. This module reads and describes them; `train.checkpoint_writer`
writes them.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from provenance.artifacts import sync_path
from provenance.canonical import Json, read_json, write_json
from provenance.errors import ArtifactError
from provenance.ledger import ChainPlace
from train.layout import Layout, Part
from train.optimizers import STEP_NAME, Optimizer
from train.settings import CheckpointConfig, RunConfig
from train.state import combine_digests, digest_parts

CHECKPOINT_FORMAT = "openwright-checkpoint/1"
CHECKPOINTS = "checkpoints"
MODEL_STEM, OPTIMIZER_STEM = "model", "optimizer"
_RECORD = "checkpoint.json"


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

    def save(self, directory: Path) -> None:
        """Write `checkpoint.json`."""
        write_json(directory / _RECORD, {"format": CHECKPOINT_FORMAT, **asdict(self)})
        sync_path(directory / _RECORD)


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


def remove_checkpoint(directory: Path) -> None:
    """Remove a checkpoint at once: after a kill it is whole, or a leftover that the next start removes."""
    leftover = directory.with_name(f".{directory.name}.old.tmp")
    os.replace(directory, leftover)
    shutil.rmtree(leftover)


def _keep_weights_only(directory: Path) -> None:
    """Make a full checkpoint one of kind `weights`; its new record takes the place of the old one at once."""
    record = read_record(directory)
    work = directory.with_name(f".{directory.name}.tmp")
    work.mkdir()
    CheckpointRecord("weights", record.step, record.weights_digest, None, record.ledger).save(work)
    os.replace(work / _RECORD, directory / _RECORD)
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


# ---- tensors and files --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorFile:
    """One file of a checkpoint: its name and the tensors it holds, in order."""

    name: str
    parts: tuple[Part, ...]


def plan_files(parts: Iterable[Part], stem: str, max_file_bytes: int) -> list[TensorFile]:
    """Cut tensors in name order into files, in Hugging Face's shard layout where one file does not hold them."""
    groups: list[list[Part]] = [[]]
    size_bytes = 0
    for part in sorted(parts, key=lambda part: part.name):
        if groups[-1] and size_bytes + whole_bytes(part) > max_file_bytes:
            groups.append([])
            size_bytes = 0
        groups[-1].append(part)
        size_bytes += whole_bytes(part)
    if len(groups) == 1:
        return [TensorFile(f"{stem}.safetensors", tuple(groups[0]))]
    return [
        TensorFile(f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, start=1)
    ]


def whole_bytes(part: Part) -> int:
    """Bytes of the whole tensor."""
    return part.num_elements * part.tensor.element_size()


def index_of(files: Sequence[TensorFile]) -> Json:
    """Hugging Face's index of several files."""
    total = sum(whole_bytes(part) for file in files for part in file.parts)
    weight_map = {part.name: file.name for file in files for part in file.parts}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def step_part(num_steps_done: int) -> Part:
    """The optimizer's step count as checkpoints hold it."""
    return Part(STEP_NAME, torch.tensor(num_steps_done, dtype=torch.int64), ())


def optimizer_parts(optimizer: Optimizer, num_updates: int) -> list[Part]:
    """The optimizer's state as checkpoints hold it."""
    return [*optimizer.state(), step_part(num_updates)]


def make_record(
    digests: Mapping[str, bytes], weights: Iterable[Part], *, full: bool, step: int, place: ChainPlace
) -> CheckpointRecord:
    """Describe a state by the digests of its tensors."""
    return CheckpointRecord(
        kind="full" if full else "weights",
        step=step,
        weights_digest=combine_digests({part.name: digests[part.name] for part in weights}),
        state_digest=combine_digests(digests) if full else None,
        ledger=place,
    )


# ---- loading ------------------------------------------------------------------------------------------------------


def restore_checkpoint(
    directory: Path, weights: Sequence[Part], optimizer: Optimizer, layout: Layout
) -> tuple[CheckpointRecord, int]:
    """Load what this process holds of a checkpoint, made at any layout, and check the state digest.

    A weights-only checkpoint is accepted at step 0, where the optimizer has no state yet.

    Args:
        weights: parts of the model's parameters and buffers; overwritten.
        optimizer: a fresh optimizer over the same layout.

    Returns:
        The record, and how many updates the optimizer has made.

    Raises:
        ArtifactError: when the tensors are not those that the record names.
    """
    record = read_record(directory)
    _load_into(directory, MODEL_STEM, weights)
    digests = digest_parts(weights, layout)
    num_updates = 0
    if record.kind == "full":
        state = _empty_state(directory, weights)
        _load_into(directory, OPTIMIZER_STEM, state)
        num_updates = int(state[-1].tensor)
        optimizer.load({part.name: part.tensor for part in state[:-1]}, num_updates)
        digests |= digest_parts(state, layout)
    elif record.step != 0:
        raise ArtifactError("a checkpoint without optimizer state", expected="a full checkpoint", where=str(directory))
    found = make_record(digests, weights, full=record.kind == "full", step=record.step, place=record.ledger)
    if (found.weights_digest, found.state_digest) != (record.weights_digest, record.state_digest):
        raise ArtifactError(
            f"state digest {found.state_digest or found.weights_digest}",
            expected=record.state_digest or record.weights_digest,
            where=str(directory),
        )
    return record, num_updates


def _empty_state(directory: Path, weights: Sequence[Part]) -> list[Part]:
    """Memory for this process's part of every optimizer tensor in a checkpoint; the step count comes last."""
    by_name = {part.name: part for part in weights}
    state = []
    for name in sorted(_files_by_tensor(directory, OPTIMIZER_STEM)):
        if name != STEP_NAME:
            parameter = by_name.get(name.rpartition(".")[0])
            if parameter is None:
                raise ArtifactError(f"optimizer state {name!r} of no parameter", where=str(directory))
            state.append(parameter.like(name, torch.empty_like(parameter.tensor)))
    return [*state, step_part(0)]


def _load_into(directory: Path, stem: str, parts: Sequence[Part]) -> None:
    files = _files_by_tensor(directory, stem)
    # Tied tensors stand once in the file and once among the parts, so the names must be the same.
    differing = sorted(set(files) ^ {part.name for part in parts})
    if differing:
        raise ArtifactError(f"tensors differ from the model's: {differing[:3]}", where=str(directory))
    for name in sorted(set(files.values())):
        with safe_open(directory / name, framework="pt") as file:
            for part in parts:
                if files[part.name] == name:
                    _read_rows(file, part, directory / name)


def _read_rows(file: Any, part: Part, path: Path) -> None:
    rows = file.get_slice(part.name)
    if tuple(rows.get_shape()) != part.shape:
        raise ArtifactError(f"{part.name} of shape {rows.get_shape()}", expected=str(part.shape), where=str(path))
    if not part.shape:
        read = file.get_tensor(part.name)
    elif part.tensor.shape[0] == 0:
        return
    else:
        read = rows[part.first_row : part.first_row + part.tensor.shape[0]]
    if read.dtype != part.tensor.dtype:
        raise ArtifactError(f"{part.name} of {read.dtype}", expected=str(part.tensor.dtype), where=str(path))
    part.tensor.copy_(read)


def _files_by_tensor(directory: Path, stem: str) -> dict[str, str]:
    single = directory / f"{stem}.safetensors"
    if single.is_file():
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single.name)
    index = read_json(directory / f"{stem}.safetensors.index.json")
    return {name: Path(file).name for name, file in index["weight_map"].items()}

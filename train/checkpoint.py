"""Checkpoints (`openwright-checkpoint/1`): safetensors and JSON, whole tensors, atomic, verified at load.

The bytes of a checkpoint do not depend on the layout of processes: tensors in name order are cut into files by a fixed
size, and every file is written whole by one process. This module describes their files and reads them;
`train.checkpoint_records` is all but the tensors, `train.checkpoint_writer` writes them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from provenance.canonical import Json, read_json
from provenance.errors import ArtifactError
from provenance.ledger import ChainPlace
from train.checkpoint_records import OPTIMIZER_STEM, CheckpointRecord, read_record
from train.layout import Layout, Part
from train.optimizers import STEP_NAME, Optimizer
from train.state import digest_parts
from train.tensor_digests import combine_digests

MODEL_STEM = "model"


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
        read = rows[part.held]
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

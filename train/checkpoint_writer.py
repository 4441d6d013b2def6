"""Writing checkpoints while training goes on.

At a step boundary every tensor is copied to the process that writes its file (file `i` belongs to process `i` modulo
their number); a thread there hashes and writes it while the next steps run. At a later boundary, when all are done,
process 0 writes `checkpoint.json` and renames the directory into place: it is whole, or it does not exist.
"""

import os
import re
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file

from provenance.artifacts import sync_path
from provenance.canonical import write_json
from provenance.errors import TrainingError
from provenance.ledger import ChainPlace
from train.checkpoint import MODEL_STEM, TensorFile, index_of, make_record, plan_files
from train.checkpoint_records import OPTIMIZER_STEM, CheckpointRecord, remove_checkpoint
from train.layout import Layout, Part
from train.state import tensor_digest

_UNKNOWN_ERROR = 2**31
_RUST_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")


class CheckpointWriter:
    """Writes one checkpoint at a time; every process calls every method at the same point.

    Args:
        layout: the processes, which see one file system.
        model_config: the transformers config, saved beside the weights.
        tokenizer_dir: its files are copied, so that a checkpoint loads with plain `from_pretrained`.
        max_file_bytes: a file is cut before it grows beyond this.
    """

    def __init__(self, layout: Layout, model_config: Any, tokenizer_dir: Path, max_file_bytes: int) -> None:
        self._layout = layout
        self._model_config = model_config
        self._tokenizer_dir = tokenizer_dir
        self._max_file_bytes = max_file_bytes
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint was started and not finished."""
        return self._thread is not None

    @property
    def is_done_here(self) -> bool:
        """Whether this process's part of the writing is over."""
        return self._thread is None or not self._thread.is_alive()

    def start(
        self, target: Path, weights: Sequence[Part], state: Sequence[Part], step: int, place: ChainPlace | None
    ) -> None:
        """Copy the tensors and begin to write.

        Args:
            target: the checkpoint's directory.
            weights: parts of parameters and buffers.
            state: parts of the optimizer's state; empty for kind `weights`.
            place: where the ledger stands (process 0).
        """
        assert not self.is_busy
        world = self._layout.world
        self._target, self._work = target, target.with_name(f".{target.name}.tmp")
        self._weights, self._state, self._step, self._place = list(weights), list(state), step, place
        if world.rank == 0:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work.mkdir(parents=True)
        world.barrier()
        self._files = plan_files(weights, MODEL_STEM, self._max_file_bytes)
        self._num_model_files = len(self._files)
        if state:
            self._files += plan_files(state, OPTIMIZER_STEM, self._max_file_bytes)
        contents = self._collect()
        self._digests: dict[str, bytes] = {}
        self._thread = threading.Thread(target=self._write, args=(contents,), name="checkpoint")
        self._thread.start()

    def _collect(self) -> list[tuple[TensorFile, dict[str, torch.Tensor]]]:
        """Copies of the whole tensors of the files that this process writes."""
        contents = []
        for number, file in enumerate(self._files):
            writer = number % self._layout.world.size
            if writer // self._layout.shard_size != self._layout.replica:
                continue
            tensors = {part.name: self._whole(part, writer) for part in file.parts}
            if writer == self._layout.world.rank:
                contents.append((file, {name: tensor for name, tensor in tensors.items() if tensor is not None}))
        return contents

    def _whole(self, part: Part, writer: int) -> torch.Tensor | None:
        """The whole tensor, on the CPU of the process that writes it; None elsewhere."""
        is_writer = writer == self._layout.world.rank
        if not part.is_sharded:
            return part.tensor.detach().to("cpu", copy=True) if is_writer else None
        rows = -(-part.shape[0] // self._layout.shard_size)
        sent = part.tensor.new_zeros((rows, *part.shape[1:]))
        sent[: part.tensor.shape[0]] = part.tensor
        received = [torch.empty_like(sent) for _ in range(self._layout.shard_size)] if is_writer else None
        dist.gather(sent, received, dst=writer, group=self._layout.shard_group)
        return torch.cat(received)[: part.shape[0]].cpu() if received is not None else None

    def _write(self, contents: list[tuple[TensorFile, dict[str, torch.Tensor]]]) -> None:
        try:
            for file, tensors in contents:
                for name, tensor in tensors.items():
                    self._digests[name] = tensor_digest(name, tensor)
                save_file(tensors, self._work / file.name, metadata={"format": "pt"})
                sync_path(self._work / file.name)
            if self._layout.world.rank == 0:
                self._write_companions()
        except Exception as error:  # it is raised again by `finish`, in the main thread
            self._error = error

    def _write_companions(self) -> None:
        split = self._num_model_files
        for stem, files in ((MODEL_STEM, self._files[:split]), (OPTIMIZER_STEM, self._files[split:])):
            if len(files) > 1:
                write_json(self._work / f"{stem}.safetensors.index.json", index_of(files))
                sync_path(self._work / f"{stem}.safetensors.index.json")
        self._model_config.save_pretrained(self._work)
        for path in sorted(self._tokenizer_dir.iterdir()):
            shutil.copyfile(path, self._work / path.name)
        # Other processes are still writing tensor files here, under names that come and go.
        for path in self._work.iterdir():
            if path.name[0] != "." and ".safetensors" not in path.name:
                sync_path(path)

    def finish(self) -> CheckpointRecord | None:
        """Wait for all processes and put the checkpoint in its place; returns its record on process 0.

        Raises:
            OSError: when writing failed on any process, such as on a full disk; nothing is left behind.
            TrainingError: when it failed on another process for another reason.
        """
        assert self._thread is not None
        self._thread.join()
        self._thread = None
        world = self._layout.world
        number = torch.tensor([_error_number(self._error)], dtype=torch.int64, device=world.device)
        worst = int(world.all_reduce(number, largest=True))
        if worst:
            if world.rank == 0:
                shutil.rmtree(self._work, ignore_errors=True)
            if worst != _UNKNOWN_ERROR:
                raise OSError(worst, os.strerror(worst), str(self._target)) from self._error
            if self._error is not None:
                raise self._error
            raise TrainingError("a checkpoint could not be written on another process", where=str(self._target))
        digests = self._exchange_digests()
        self._weights, weights = [], self._weights
        self._state, full = [], bool(self._state)
        if world.rank:
            return None
        assert self._place is not None
        record = make_record(digests, weights, full=full, step=self._step, place=self._place)
        record.save(self._work)
        sync_path(self._work)
        if self._target.exists():
            remove_checkpoint(self._target)
        os.replace(self._work, self._target)
        sync_path(self._target.parent)
        return record

    def _exchange_digests(self) -> dict[str, bytes]:
        """Digests of all tensors; each was computed by one process, the others add zeros."""
        names = [part.name for file in self._files for part in file.parts]
        own = torch.zeros(len(names), 32, dtype=torch.uint8)
        for row, name in enumerate(names):
            if name in self._digests:
                own[row] = torch.frombuffer(bytearray(self._digests[name]), dtype=torch.uint8)
        every = self._layout.world.all_reduce(own.to(self._layout.world.device)).cpu().numpy()
        return {name: every[row].tobytes() for row, name in enumerate(names)}


def _error_number(error: Exception | None) -> int:
    """The operating system's number of an error (safetensors has it in its message only); 0 for none."""
    if error is None:
        return 0
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _RUST_ERROR_NUMBER.search(str(error)) if isinstance(error, SafetensorError) else None
    return int(found[1]) if found else _UNKNOWN_ERROR

"""Writing checkpoints while training goes on.

Before the next update of the weights every tensor is copied (`train.checkpoint_copies`) into memory that is shared with
a process beside this one, which hashes and writes while steps go on (`train.checkpoint_process`). A thread copies while
the next passes only read; where copies of the model are sharded, the loop waits for it, since two threads that talk to
other processes would disturb each other. At a later boundary, when all files of tensors are written, process 0 has
`checkpoint.json` written and the directory renamed into place: a checkpoint is whole, or it does not exist. At a
boundary after that the ledger learns of it.
"""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from provenance.errors import TrainingError
from provenance.ledger import ChainPlace
from train.checkpoint import MODEL_STEM, TensorFile, index_of, make_record, plan_files
from train.checkpoint_copies import copy_tensors
from train.checkpoint_files import UNKNOWN_ERROR, Companions, TensorPlace
from train.checkpoint_process import Answer, CheckpointProcess
from train.checkpoint_records import OPTIMIZER_STEM, CheckpointRecord
from train.layout import Layout, Part
from train.retention import Retention

_DIGEST_BYTES = 32


@dataclass
class _Checkpoint:
    """A checkpoint that is being written.

    Attributes:
        companions: what process 0 has written beside the tensors.
        copying: where the tensors lie in shared memory, by file, once they are copied; None when that is settled.
        awaits_answer: whether this process's helper was asked for something that it has not been heard to have done.
        record: what `checkpoint.json` will say; known to process 0 once all files of tensors are written.
        is_written: whether the files of tensors are, on all processes.
    """

    target: Path
    weights: list[Part]
    files: list[TensorFile]
    is_full: bool
    step: int
    place: ChainPlace | None
    retention: Retention | None
    companions: Companions | None
    copying: Future[dict[str, list[TensorPlace]]] | None = None
    awaits_answer: bool = False
    is_written: bool = False
    record: CheckpointRecord | None = None

    @property
    def work(self) -> Path:
        """The directory before it has its name."""
        return self.target.with_name(f".{self.target.name}.tmp")


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
        self._config_text = model_config.to_json_string()
        self._tokenizer_files = [str(path) for path in sorted(tokenizer_dir.iterdir())]
        self._max_file_bytes = max_file_bytes
        self._current: _Checkpoint | None = None
        self.process = CheckpointProcess()
        self._copier = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-copy")

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint was started and is not in its place."""
        return self._current is not None

    @property
    def is_done_here(self) -> bool:
        """Whether this process has nothing to wait for before `advance`."""
        if self._current is None:
            return True
        return self._current.copying is None and (not self._current.awaits_answer or self.process.has_answered)

    def start(
        self,
        target: Path,
        weights: Sequence[Part],
        state: Sequence[Part],
        step: int,
        place: ChainPlace | None,
        ledger: Path,
        retention: Retention | None,
    ) -> None:
        """Begin to copy the tensors; `settle` must follow before any of them changes.

        Args:
            target: the checkpoint's directory.
            weights: parts of parameters and buffers.
            state: parts of the optimizer's state; empty for kind `weights`.
            place: where the ledger stands (process 0).
            ledger: its file, which is forced onto the disk first.
            retention: the rule by which older checkpoints go when this one is in its place; None keeps them.
        """
        assert not self.is_busy
        files = plan_files(weights, MODEL_STEM, self._max_file_bytes)
        num_model_files = len(files)
        if state:
            files += plan_files(state, OPTIMIZER_STEM, self._max_file_bytes)
        is_first = self._layout.world.rank == 0
        others = self._companions(files[:num_model_files], files[num_model_files:], ledger) if is_first else None
        self._current = current = _Checkpoint(target, list(weights), files, bool(state), step, place, retention, others)
        current.copying = self._copier.submit(copy_tensors, files, self._layout, self.process)
        if self._layout.copy_size > 1:
            self.settle()

    def settle(self) -> None:
        """Wait until the tensors are copied, and have them written; from here on they may change.

        Raises:
            OSError: when there is no memory for them.
        """
        current = self._current
        if current is None or current.copying is None:
            return
        copying, current.copying = current.copying, None
        try:
            places = copying.result()
        except OSError as error:
            self._current = None
            raise OSError(error.errno, error.strerror, str(current.target)) from error
        if places or current.companions is not None:
            self.process.write(current.work, places, current.companions)
            current.awaits_answer = True

    def _companions(self, weights: list[TensorFile], state: list[TensorFile], ledger: Path) -> Companions:
        indices = {
            f"{stem}.safetensors.index.json": index_of(files)
            for stem, files in ((MODEL_STEM, weights), (OPTIMIZER_STEM, state))
            if len(files) > 1
        }
        return Companions(
            documents=indices,
            texts={"config.json": self._config_text},
            copied=self._tokenizer_files,
            synced=[str(ledger)],
        )

    # ---- the end ----------------------------------------------------------------------------------------------------

    def advance(self) -> CheckpointRecord | None:
        """Wait until all processes have done what they were asked for, then ask for what follows.

        Returns:
            On process 0, the record of a checkpoint that is in its place now; nothing is being written then.

        Raises:
            OSError: when writing failed on any process, such as on a full disk; nothing is left behind.
            TrainingError: when it failed for another reason.
        """
        self.settle()
        current = self._current
        assert current is not None
        digests = self._receive(current)
        if current.is_written:
            self._current = None
            return current.record
        current.is_written = True
        digests = self._exchange_digests(current.files, digests)
        if self._layout.world.rank == 0:
            assert current.place is not None
            current.record = make_record(
                digests, current.weights, full=current.is_full, step=current.step, place=current.place
            )
            self.process.place(current.work, current.target, current.record.as_json(), current.retention)
            current.awaits_answer = True
        return None

    def finish(self) -> CheckpointRecord | None:
        """Wait for all processes until the checkpoint is in its place; returns and raises as `advance`."""
        record = None
        while self.is_busy:
            record = self.advance()
        return record

    def close(self) -> None:
        """End the process that writes; what is being written is given up."""
        self._current = None
        self._copier.shutdown()
        self.process.close()

    def _receive(self, current: _Checkpoint) -> dict[str, bytes]:
        """Digests of the tensors that were written here, when all processes have an answer."""
        world = self._layout.world
        answer = self.process.receive() if current.awaits_answer else Answer({})
        current.awaits_answer = False
        number = torch.tensor([answer.error_number], dtype=torch.int64, device=world.device)
        worst = int(world.all_reduce(number, largest=True))
        if not worst:
            return answer.digests
        self._current = None
        if world.rank == 0:
            shutil.rmtree(current.work, ignore_errors=True)
        if worst != UNKNOWN_ERROR:
            raise OSError(worst, os.strerror(worst), str(current.target))
        raise TrainingError(
            answer.error or "a checkpoint could not be written on another process",
            expected="files of the checkpoint",
            where=str(current.target),
            next_command="run the same command again; the last full checkpoint is whole",
        )

    def _exchange_digests(self, files: Sequence[TensorFile], digests: dict[str, bytes]) -> dict[str, bytes]:
        """Digests of all tensors; each was computed by one process, the others add zeros."""
        names = [part.name for file in files for part in file.parts]
        own = bytearray(b"".join(digests.get(name, bytes(_DIGEST_BYTES)) for name in names))
        every = self._layout.world.all_reduce(torch.frombuffer(own, dtype=torch.uint8).to(self._layout.world.device))
        joined = every.cpu().numpy().tobytes()
        return {name: joined[row * _DIGEST_BYTES : (row + 1) * _DIGEST_BYTES] for row, name in enumerate(names)}

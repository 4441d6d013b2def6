"""The training loop of every stage: one step reads top to bottom in `TrainingRun.train_step`.

What a step does depends on nothing but the recipe, the corpus and the step number; what it leaves in the ledger is
the same at every layout of processes, after any number of restarts, and in a replay.
"""

import os
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data_recipes.token_texts import read_token_texts
from data_recipes.windows import TokenWindows
from provenance.canonical import Json, hex_float, write_json
from provenance.console import Progress
from provenance.environment import platform_record
from provenance.errors import ArtifactError, ResumeMismatch, TrainingError
from provenance.ledger import ChainPlace, Journal
from train.anomalies import WATCHED_STEPS, LossWatch, anomaly_record, refuse
from train.batch import StepBatch, read_batch
from train.checkpoint import make_record, optimizer_parts, restore_checkpoint
from train.checkpoint_records import (
    CHECKPOINTS,
    CheckpointRecord,
    checkpoint_name,
    newest_resumable,
    read_record,
    requeue_name,
)
from train.checkpoint_writer import CheckpointWriter
from train.energy import EnergyMeter
from train.gradients import StepGradients, build_gradients, clip_
from train.heldout import HeldoutSet
from train.job import STOP_REQUEST, TrainingJob
from train.layout import Layout, Part
from train.ledger_queue import LedgerQueue
from train.lm_loss import LanguageModelLoss
from train.model import build_model, derive_seed, open_model, trainable_parameters
from train.optimizers import build_optimizer
from train.records import RUN_FORMAT, check_same_run, enter_segment, ledger_totals, recent_losses, start_record
from train.retention import Retention, remove_old_checkpoints
from train.routing import RouterLoads
from train.run_order import build_order, open_windows
from train.schedule import learning_rate
from train.settings import PretrainConfig
from train.sharding import prepare_model
from train.state import ParameterChecksum, digest_parts
from train.trackers import StepListener
from train.utilisation import Utilisation


class TrainingRun:
    """One process's part in a job.

    Args:
        job: what to run.
        layout: the processes of the job; process 0 alone writes ledger and journal.
    """

    def __init__(self, job: TrainingJob, layout: Layout) -> None:
        self.job = job
        self.layout = layout
        self.world = layout.world
        self.config = job.config
        self.run_dir = Path(job.run_dir)
        tokenizer_dir = Path(job.corpus) / "tokenizer"
        data = self.config.data
        self.windows = open_windows(self.config, Path(job.corpus))
        self.order = build_order(self.config, self.windows, Path(job.order_file))
        heldout = TokenWindows(Path(job.corpus), data.heldout_split, data.window_tokens)
        num_bytes = read_token_texts(tokenizer_dir / "tokenizer.json").num_bytes()
        self.heldout = HeldoutSet(heldout, data.heldout_windows, num_bytes)

        model = self._initial_model()
        ends_with = self.windows.eos_id if data.document_masking else None
        self.module = LanguageModelLoss(model, self.config.loss, ends_with).to(self.world.device)
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.utilisation = Utilisation(model, self.config.precision, self.world.device, self.world.size)
        self.prepared = prepare_model(self.module, self.config, layout)
        self.weights = self.prepared.weights
        parameters = trainable_parameters(model)
        trained_parts = [part for part in self.weights if part.name in parameters]
        self.optimizer = build_optimizer(self.config.optimizer, trained_parts, layout)
        self.loads = RouterLoads(model, self._router_rate())
        self.gradients = build_gradients(
            self.prepared.trained, parameters, self.config, layout, self.loads.counting, self.prepared.partial
        )
        self.checksum = ParameterChecksum(trained_parts, layout)
        self.num_updates = 0
        self.loss_watch = LossWatch(self.config.execution.loss_spike_factor)
        self.retention = Retention.of(self.config)
        self.writer = CheckpointWriter(layout, model.config, tokenizer_dir, self.config.checkpoints.max_file_bytes)
        self.ledger: LedgerQueue | None = None
        self.journal: Journal | None = None
        self.segment: dict[str, Json] = {}
        self.energy = _energy_meter(layout).start()

    def _initial_model(self) -> Any:
        torch.manual_seed(derive_seed(self.config.seed, "init"))
        if isinstance(self.config, PretrainConfig):
            return build_model(
                self.config.model,
                vocab_size=self.windows.vocab_size,
                eos_id=self.windows.eos_id,
                pad_id=self.windows.pad_id,
                window_tokens=self.config.longest_window,
            )
        return open_model(Path(self.job.base_checkpoint), window_tokens=self.config.longest_window)

    def _router_rate(self) -> float:
        return self.config.model.router_bias_update_rate if isinstance(self.config, PretrainConfig) else 0.0

    # ---- starting -----------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Begin, resume or begin a replay; returns the last step that is done already."""
        if self.job.replay_from:
            return self._start_replay(Path(self.job.replay_from))
        self._remove_leftovers()
        newest = newest_resumable(self.run_dir)
        expected = start_record(self.job, self.order)
        if newest is None:
            return self._start_branch(expected) if self.config.branch else self._start_fresh(expected)
        if self.world.rank == 0:
            check_same_run(self.run_dir, expected)
        record, self.num_updates = restore_checkpoint(newest, self.weights, self.optimizer, self.layout)
        if self.world.rank == 0:
            try:
                self.ledger = LedgerQueue(self.run_dir / "ledger.jsonl", record.ledger)
            except ArtifactError as error:
                raise ResumeMismatch(
                    f"the ledger is not the one that the checkpoint continues: {error.found}",
                    where=str(newest),
                    next_command=f"remove {self.run_dir} and run the stage again",
                ) from None
            self._open_journal("resume", record.step)
            if newest.name == checkpoint_name(record.step):
                self.ledger.append(record.ledger_record())
            remove_old_checkpoints(self.run_dir / CHECKPOINTS, self.retention)
        self._recall_losses()
        return record.step

    def _recall_losses(self) -> None:
        """Let the loss watch see the steps before a resume; process 0 reads them, the others add zeros."""
        losses_N = torch.zeros(WATCHED_STEPS, dtype=torch.float64, device=self.world.device)
        if self.world.rank == 0:
            found = recent_losses(self.run_dir / "ledger.jsonl", WATCHED_STEPS)
            losses_N[: len(found)] = torch.tensor(found, dtype=torch.float64)
        self.loss_watch.recall(loss for loss in self.world.all_reduce(losses_N).tolist() if loss)

    def _start_fresh(self, start: dict[str, Json]) -> int:
        self._write_start(start, 0)
        self._evaluate(0)
        self.begin_checkpoint(0, "weights")
        return 0

    def _start_branch(self, start: dict[str, Json]) -> int:
        """Begin with the full checkpoint of another run, which becomes this run's first."""
        record, self.num_updates = restore_checkpoint(
            Path(self.job.branch_from), self.weights, self.optimizer, self.layout
        )
        if self.config.branch is None or record.state_digest != self.config.branch.state_digest:
            raise ResumeMismatch(
                f"a checkpoint with state {record.state_digest}",
                expected="the one that the recipe's branch names",
                where=self.job.branch_from,
                next_command="openwright branch RUN --at STEP, once more",
            )
        self._write_start(start, record.step)
        self.begin_checkpoint(record.step, "full")
        return record.step

    def _write_start(self, start: dict[str, Json], step: int) -> None:
        if self.world.rank == 0:
            (self.run_dir / "ledger.jsonl").unlink(missing_ok=True)
            self.ledger = LedgerQueue(self.run_dir / "ledger.jsonl")
            self._open_journal("start", step)
            write_json(self.run_dir / "recipe.json", self.job.recipe)
            self.ledger.append(start)

    def _start_replay(self, checkpoint: Path) -> int:
        record, self.num_updates = restore_checkpoint(checkpoint, self.weights, self.optimizer, self.layout)
        if self.world.rank == 0:
            self.ledger = LedgerQueue(self.run_dir / "ledger.jsonl", ChainPlace(head=record.ledger.head))
            self._open_journal("replay", record.step)
            self.ledger.append(record.ledger_record())
        return record.step

    def _remove_leftovers(self) -> None:
        """A crash may leave half-written checkpoints behind."""
        if self.world.rank == 0:
            for path in (self.run_dir / CHECKPOINTS).glob(".*.tmp"):
                shutil.rmtree(path)
        self.world.barrier()

    def _open_journal(self, kind: str, step: int) -> None:
        path, platform = self.run_dir / "journal.jsonl", str(platform_record()["digest"])
        segment, before = enter_segment(path, platform, self.config.execution.on_environment_change)
        self.journal = Journal(path)
        self.segment = {"platform": platform, "bitwise_segment": segment}
        if before is not None:
            self.note("environment_change", step=step, platform_before=before, platform=platform)
        self.note(
            kind,
            step=step,
            host=socket.gethostname(),
            num_processes=self.world.size,
            shard_size=self.layout.shard_size,
            tensor_size=self.layout.tensor_size,
            context_size=self.layout.context_size,
            **self.utilisation.of_devices(),
            **self.segment,
        )

    def note(self, kind: str, **facts: Json) -> None:
        """Write an observation into the journal (process 0)."""
        if self.journal is not None:
            self.journal.note(kind, **facts)

    # ---- one step -----------------------------------------------------------------------------------------------

    def train_step(self, step: int) -> dict[str, float]:
        """Run one step and write its ledger record; returns the numbers that people look at."""
        batch = read_batch(self.windows, self.order, step)
        gradients = self._compute_gradients(batch)
        self.writer.settle()
        rate = learning_rate(
            self.config.schedule, self.config.optimizer.peak_learning_rate, step, self.config.num_steps
        )
        clip_(list(gradients.by_name.values()), gradients.norm, self.config.optimizer.max_gradient_norm)
        self.optimizer.step(gradients.by_name, rate)
        self.num_updates += 1
        router = self.loads.finish_step(self.world)
        checksum = self.checksum.total()
        if self.ledger is not None:
            self.ledger.append(
                {
                    "kind": "step",
                    "step": step,
                    **batch.ledger_fields(self.order),
                    "loss": hex_float(gradients.loss),
                    "gradient_norm": hex_float(gradients.norm),
                    "learning_rate": hex_float(rate),
                    "parameter_checksum": checksum,
                    **({} if router is None else {"router": router}),
                }
            )
        if self.loss_watch.is_spike(gradients.loss):
            self._report_anomaly("a loss spike", batch, gradients.loss)
            if self.config.execution.on_loss_spike == "stop":
                raise refuse("a loss spike", batch, sorted(batch.tokens_by_source(self.order)), self.job.run_dir)
        return {"loss": gradients.loss, "gradient_norm": gradients.norm, "learning_rate": rate}

    def _compute_gradients(self, batch: StepBatch) -> StepGradients:
        self.prepared.refresh()
        try:
            return self.gradients.compute(batch)
        except TrainingError as error:
            self._report_anomaly(error.found, batch, None)
            sources = sorted(batch.tokens_by_source(self.order))
            raise refuse(error.found, batch, sources, self.job.run_dir) from None

    def _report_anomaly(self, kind: str, batch: StepBatch, loss: float | None) -> None:
        self.note("anomaly", **anomaly_record(kind, batch, batch.documents(self.order, self.windows), loss))

    def skip_step(self, step: int) -> None:
        """Leave a step out; the first of a stretch is recorded."""
        for first, last in self.config.skip_steps:
            if step == first and self.ledger is not None:
                self.ledger.append({"kind": "skip", "first": first, "last": last})

    # ---- between steps ------------------------------------------------------------------------------------------

    def after_step(self, step: int) -> None:
        """Held-out loss and checkpoint where they are due."""
        if step % self.config.data.heldout_every_steps == 0 or step == self.config.num_steps:
            self._evaluate(step)
        kind = self.retention.kind_due(step)
        if kind is not None:
            self.begin_checkpoint(step, kind)

    def _evaluate(self, step: int) -> None:
        self.prepared.refresh()
        score = self.heldout.score(self.module, self.layout)
        if self.ledger is not None:
            self.ledger.append(score.ledger_record(step, self.config.data.heldout_split))

    def begin_checkpoint(self, step: int, kind: str) -> None:
        """Begin to write the checkpoint; its ledger record follows when it is whole. A replay may only digest it."""
        state = optimizer_parts(self.optimizer, self.num_updates) if kind == "full" else []
        if self.job.replay_from and not self.job.keep_checkpoints:
            digests = digest_parts([*self.weights, *state], self.layout)
            if self.ledger is not None:
                full, place = kind == "full", self.ledger.place
                record = make_record(digests, self.weights, full=full, step=step, place=place)
                self.ledger.append(record.ledger_record())
            return
        started = time.monotonic()
        self.finish_checkpoint()
        retention = self.retention if kind == "full" and not self.job.replay_from else None
        self._start_writing(checkpoint_name(step), state, step, retention)
        if self.ledger is not None:
            self.ledger.hold()
        stall = hex_float(time.monotonic() - started)
        self.note("checkpoint", step=step, checkpoint_kind=kind, stall_seconds=stall, **self.segment)
        self._note_energy(step)

    def _note_energy(self, step: int) -> None:
        """Energy of this machine's part since the process began; often enough for counters that begin anew."""
        if self.journal is not None:
            reading = self.energy.joules()
            self.note(
                "energy", step=step, joules=hex_float(reading.joules), energy_kind=reading.kind, source=reading.source
            )

    def _start_writing(self, name: str, state: list[Part], step: int, retention: Retention | None = None) -> None:
        place = None if self.ledger is None else self.ledger.place
        target, ledger = self.run_dir / CHECKPOINTS / name, self.run_dir / "ledger.jsonl"
        self.writer.start(target, self.weights, state, step, place, ledger, retention)

    def finish_checkpoint(self) -> None:
        """Wait for the checkpoint that is being written, if any, and record it."""
        if self.writer.is_busy:
            self._record_checkpoint(self.writer.finish())

    def _record_checkpoint(self, record: CheckpointRecord | None) -> None:
        """The checkpoint that was being written is in its place: the ledger goes on with its record."""
        if self.ledger is not None:
            assert record is not None
            self.ledger.release(record.ledger_record())

    def boundary(self, step: int) -> bool:
        """Let processes agree, after a step, on what they see: how far a checkpoint is, a wish to stop.

        Returns:
            Whether a stop was asked for.
        """
        seen = torch.tensor(
            [int((self.run_dir / STOP_REQUEST).exists()), int(not self.writer.is_done_here)],
            dtype=torch.int64,
            device=self.world.device,
        )
        stop, writing = (int(value) for value in self.world.all_reduce(seen, largest=True))
        if self.writer.is_busy and not writing:
            record = self.writer.advance()
            if not self.writer.is_busy:
                self._record_checkpoint(record)
        return bool(stop) and step < self.job.last_step

    def save_for_requeue(self, step: int) -> None:
        """Write a full checkpoint outside the schedule, with no ledger record; a finished run has none of them."""
        self.finish_checkpoint()
        self._start_writing(requeue_name(step), optimizer_parts(self.optimizer, self.num_updates), step)
        self.writer.finish()
        self._note_energy(step)
        self.note("stop", step=step)
        self.world.barrier()

    def finish(self, steps_done: int) -> None:
        """Write the end record and the run's summary."""
        step = self.config.num_steps
        self.finish_checkpoint()
        if self.ledger is not None:
            remove_old_checkpoints(self.run_dir / CHECKPOINTS, self.retention)
            final = read_record(self.run_dir / CHECKPOINTS / checkpoint_name(step))
            digests = {"weights_digest": final.weights_digest, "state_digest": final.state_digest}
            self.ledger.append({"kind": "end", "step": step, **digests})
            write_json(self.run_dir / "run.json", self._summary(self.ledger, digests))
            self.ledger.close()
            self._note_energy(step)
            self.note("finish", step=step, steps_in_this_process=steps_done)
        self.world.barrier()

    def close(self) -> None:
        """End what runs beside this process; also after an error."""
        self.writer.close()

    def _summary(self, ledger: LedgerQueue, digests: dict[str, Json]) -> dict[str, Json]:
        step, place = self.config.num_steps, ledger.place
        num_tokens, heldout = ledger_totals(self.run_dir / "ledger.jsonl")
        return {
            "format": RUN_FORMAT,
            "stage": self.job.stage,
            "model_type": self.module.model.config.model_type,
            "num_parameters": self.num_parameters,
            "num_steps": step,
            "num_tokens": num_tokens,
            "final": {"step": step, "path": f"{CHECKPOINTS}/{checkpoint_name(step)}", **digests},
            "ledger": {"head": place.head, "num_records": place.num_records},
            "heldout": heldout,
        }


def _energy_meter(layout: Layout) -> EnergyMeter:
    """A meter for the processes of this job on this machine."""
    device = layout.world.device
    if device.type != "cuda":
        return EnergyMeter(min(layout.world.size, len(os.sched_getaffinity(0))) * torch.get_num_threads())
    local = range(min(layout.world.size, torch.cuda.device_count()))
    uuids = [str(torch.cuda.get_device_properties(index).uuid) for index in local]
    return EnergyMeter(len(uuids) * torch.get_num_threads(), uuids)


def run_steps(run: TrainingRun, listeners: Sequence[StepListener] = ()) -> bool:
    """Run a job to its last step.

    Args:
        run: this process's part.
        listeners: called after every step.

    Returns:
        False when a stop was asked for and a checkpoint was written instead.
    """
    try:
        return _run_steps(run, listeners)
    finally:
        run.close()


def _run_steps(run: TrainingRun, listeners: Sequence[StepListener]) -> bool:
    job, config = run.job, run.config
    done = run.start()
    bar = Progress(f"{job.stage} steps", job.last_step - done)
    for step in range(done + 1, job.last_step + 1):
        if config.is_skipped(step):
            run.skip_step(step)
            continue
        started = time.monotonic()
        numbers = run.train_step(step)
        seconds = time.monotonic() - started
        run.after_step(step)
        phase = config.phase_of(step)
        sequences, window_tokens = phase.sequences_per_step, config.window_tokens_of(phase)
        tokens = sequences * window_tokens
        numbers["tokens_per_second"] = tokens / seconds
        run.note(
            "step",
            step=step,
            seconds=hex_float(seconds),
            tokens_per_second=hex_float(tokens / seconds),
            **run.utilisation.of_step(sequences, window_tokens, seconds),
        )
        if run.world.rank == 0:
            bar.advance(1, f"loss {numbers['loss']:.3f}, {tokens / seconds:,.0f} tokens/s")
        for listener in listeners:
            listener(step, numbers)
        if run.boundary(step):
            run.save_for_requeue(step)
            return False
    if job.replay_from:
        run.finish_checkpoint()
    else:
        run.finish(bar.done)
    return True


def run_job(job: TrainingJob, layout: Layout) -> bool:
    """Run this process's part of a job without listeners; returns as `run_steps`."""
    return run_steps(TrainingRun(job, layout))

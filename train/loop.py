"""The training loop of every stage: one step reads top to bottom in `TrainingRun.train_step`.

What a step does depends on nothing but the recipe, the corpus and the step number; what it leaves in the ledger is
the same at every number of processes, after any number of restarts, and in a replay.
"""

import shutil
import socket
import time
from pathlib import Path
from typing import Any

import torch

from data_recipes.order import Order, Phase, largest_remainder
from data_recipes.windows import TokenWindows, token_digest, token_num_bytes
from provenance.canonical import Json, hex_float, write_json
from provenance.console import Progress
from provenance.digests import tagged_digest
from provenance.errors import ConfigError, ResumeMismatch, TrainingError
from provenance.ledger import ChainWriter, Journal, read_chain
from train.adamw import build_adamw
from train.checkpoint import (
    CHECKPOINTS,
    CheckpointRecord,
    LedgerPlace,
    checkpoint_name,
    describe_state,
    newest_resumable,
    read_record,
    requeue_name,
    restore_checkpoint,
    write_checkpoint,
)
from train.heldout import HeldoutSet, token_losses
from train.job import STOP_REQUEST, TrainingJob
from train.model import build_model, derive_seed, open_model, trainable_parameters
from train.reduction import GradientReducer, TreeSum, World, own_replicas
from train.schedule import learning_rate
from train.settings import PretrainConfig, RunConfig
from train.state import ParameterChecksum, format_checksum

LEDGER_FORMAT = "openwright-ledger/1"
RUN_FORMAT = "openwright-run/1"


def build_order(config: RunConfig, windows: TokenWindows) -> Order:
    """Turn the phases of a config into an order over the windows of a split.

    Raises:
        ConfigError: when a mixture names a source that the split lacks.
    """
    names = [source.name for source in windows.sources]
    phases = []
    for number, phase in enumerate(config.phases):
        if phase.mixture == "proportional":
            weights = [source.num_windows for source in windows.sources]
        else:
            unknown = sorted(set(phase.mixture) - set(names))
            if unknown:
                raise ConfigError(
                    f"phases.{number}.mixture names {unknown[0]!r}", expected=f"sources of the split: {names}"
                )
            weights = [phase.mixture.get(name, 0) for name in names]
        counts = largest_remainder(phase.num_steps * phase.sequences_per_step, weights)
        phases.append(Phase(phase.num_steps, phase.sequences_per_step, counts))
    return Order(windows.tokens_digest, config.seed, windows.sources, tuple(phases))


def checkpoint_kind(config: RunConfig, step: int) -> str | None:
    """Kind of the checkpoint kept at a step: `weights`, `full`, or None."""
    settings = config.checkpoints
    if step and (step == config.num_steps or step % settings.full_every_steps == 0):
        return "full"
    if step == 0 or (step <= settings.weights_until_step and step & (step - 1) == 0):
        return "weights"
    return None


class TrainingRun:
    """One process's part in a job.

    Args:
        job: what to run.
        world: the processes of the job; process 0 alone writes files.
    """

    def __init__(self, job: TrainingJob, world: World) -> None:
        self.job = job
        self.world = world
        self.config = job.config
        self.run_dir = Path(job.run_dir)
        self.tokenizer_dir = Path(job.corpus) / "tokenizer"
        data = self.config.data
        self.windows = TokenWindows(Path(job.corpus), data.split, data.window_tokens)
        self.order = build_order(self.config, self.windows)
        self.replicas = own_replicas(world, self.config.num_logical_replicas)
        heldout = TokenWindows(Path(job.corpus), data.heldout_split, data.window_tokens)
        num_bytes = token_num_bytes(self.tokenizer_dir / "tokenizer.json")
        self.heldout = HeldoutSet(heldout, data.heldout_windows, num_bytes)
        self.model = self._initial_model()
        self.parameters = trainable_parameters(self.model)
        self.optimizer = build_adamw(self.config.optimizer, self.parameters)
        self.reducer = GradientReducer(list(self.parameters.values()), world)
        self.checksum = ParameterChecksum(self.parameters)
        self.ledger: ChainWriter | None = None
        self.journal: Journal | None = None

    def _initial_model(self) -> Any:
        torch.manual_seed(derive_seed(self.config.seed, "init"))
        if isinstance(self.config, PretrainConfig):
            return build_model(
                self.config.model,
                vocab_size=self.windows.vocab_size,
                eos_id=self.windows.eos_id,
                pad_id=self.windows.pad_id,
                window_tokens=self.config.data.window_tokens,
            )
        return open_model(Path(self.job.base_checkpoint))

    # ---- starting -----------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Begin, resume or begin a replay; returns the last step that is done already."""
        if self.job.replay_from:
            return self._start_replay(Path(self.job.replay_from))
        self._remove_leftovers()
        newest = newest_resumable(self.run_dir)
        if newest is None:
            return self._start_fresh()
        record = restore_checkpoint(newest, self.model, self.optimizer)
        if self.world.rank == 0:
            self.ledger = ChainWriter(self.run_dir / "ledger.jsonl", record.ledger.num_records)
            if self.ledger.head != record.ledger.head:
                raise ResumeMismatch(
                    "the ledger is not the one that the checkpoint continues",
                    where=str(newest),
                    next_command=f"remove {self.run_dir} and run the stage again",
                )
            self._open_journal("resume", record.step)
            if newest.name == checkpoint_name(record.step):
                self.ledger.append(record.ledger_record())
        return record.step

    def _start_fresh(self) -> int:
        if self.world.rank == 0:
            (self.run_dir / "ledger.jsonl").unlink(missing_ok=True)
            self.ledger = ChainWriter(self.run_dir / "ledger.jsonl")
            self._open_journal("start", 0)
            write_json(self.run_dir / "recipe.json", self.job.recipe)
            self.ledger.append(self._start_record())
        self._evaluate(0)
        self._keep_checkpoint(0, "weights")
        return 0

    def _start_replay(self, checkpoint: Path) -> int:
        record = restore_checkpoint(checkpoint, self.model, self.optimizer)
        if self.world.rank == 0:
            self.ledger = ChainWriter(self.run_dir / "ledger.jsonl", head=record.ledger.head)
            self._open_journal("replay", record.step)
            self.ledger.append(record.ledger_record())
        return record.step

    def _start_record(self) -> dict[str, Json]:
        data = self.config.data
        return {
            "kind": "start",
            "format": LEDGER_FORMAT,
            "stage": self.job.stage,
            "recipe_digest": tagged_digest("recipe/1", self.job.recipe),
            "num_logical_replicas": self.config.num_logical_replicas,
            "order": {**self.order.as_json(), "split": data.split, "window_tokens": data.window_tokens},
            "parents": list(self.job.parents),
        }

    def _remove_leftovers(self) -> None:
        """A crash may leave half-written checkpoints behind."""
        if self.world.rank == 0:
            for path in (self.run_dir / CHECKPOINTS).glob(".*.tmp"):
                shutil.rmtree(path)
        self.barrier()

    def barrier(self) -> None:
        """Wait for all processes."""
        self.world.all_reduce(torch.zeros(1, dtype=torch.int64))

    def _open_journal(self, kind: str, step: int) -> None:
        self.journal = Journal(self.run_dir / "journal.jsonl")
        self.note(kind, step=step, host=socket.gethostname(), num_processes=self.world.size)

    def note(self, kind: str, **facts: Json) -> None:
        """Write an observation into the journal (process 0)."""
        if self.journal is not None:
            self.journal.note(kind, **facts)

    # ---- one step -----------------------------------------------------------------------------------------------

    def train_step(self, step: int) -> float:
        """Run one step and write its ledger record; returns the loss."""
        ids, mask = self.windows.read_step(self.order, step)
        ids_BT, mask_BT = torch.from_numpy(ids), torch.from_numpy(mask).bool()
        num_trained = int(mask_BT.sum())
        if num_trained == 0:
            raise TrainingError(f"step {step} has no trained token", expected="at least one")
        share = len(ids_BT) // self.config.num_logical_replicas
        loss_sums_R = torch.zeros(self.config.num_logical_replicas, dtype=torch.float64)
        gradients = TreeSum()
        for replica in self.replicas:
            rows = slice(replica * share, (replica + 1) * share)
            torch.manual_seed(derive_seed(self.config.seed, "step", step, replica))
            losses_T = token_losses(self.model, ids_BT[rows], mask_BT[rows])
            # A replica's loss is its sum over the step's count of trained tokens: never a mean of means.
            (losses_T.sum() / num_trained).backward()  # type: ignore[no-untyped-call]
            loss_sums_R[replica] = losses_T.detach().double().sum()
            gradients.push([self._take_gradient(parameter) for parameter in self.parameters.values()])
        total, norm = self._reduce(gradients, step)
        rate = learning_rate(
            self.config.schedule, self.config.optimizer.peak_learning_rate, step, self.config.num_steps
        )
        self._update(total, norm, rate)
        # One process fills each place and the others add zeros: exact.
        self.world.all_reduce(loss_sums_R)
        loss = _tree_sum(loss_sums_R.tolist()) / num_trained
        checksum = self.world.all_reduce(self.checksum.partial_sums(self.world.rank, self.world.size))
        if self.ledger is not None:
            self.ledger.append(
                {
                    "kind": "step",
                    "step": step,
                    "order_digest": self.order.order_digest(step),
                    "token_digest": token_digest(ids, mask),
                    "tokens_by_source": self._tokens_by_source(step),
                    "num_trained_tokens": num_trained,
                    "loss": hex_float(loss),
                    "gradient_norm": hex_float(norm),
                    "learning_rate": hex_float(rate),
                    "parameter_checksum": format_checksum(checksum),
                }
            )
        return loss

    def _take_gradient(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        parameter.grad = None
        return gradient

    def _reduce(self, gradients: TreeSum, step: int) -> tuple[list[torch.Tensor], float]:
        try:
            return self.reducer.reduce(gradients.total())
        except TrainingError as error:
            sources = sorted(self._tokens_by_source(step))
            raise TrainingError(
                error.found,
                expected=error.expected,
                where=f"step {step}, windows of {', '.join(sources)}",
                next_command=f"look at the step's loss in {self.run_dir / 'ledger.jsonl'}; lower the learning rate",
            ) from None

    def _update(self, gradients: list[torch.Tensor], norm: float, rate: float) -> None:
        clip = min(1.0, self.config.optimizer.max_gradient_norm / norm) if norm else 1.0
        if clip < 1.0:
            torch._foreach_mul_(gradients, clip)
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for parameter in self.parameters.values():
            parameter.grad = None

    def _tokens_by_source(self, step: int) -> dict[str, int]:
        tokens: dict[str, int] = {}
        for draw in self.order.step_draws(step):
            name = self.order.sources[draw.source].name
            tokens[name] = tokens.get(name, 0) + self.config.data.window_tokens
        return tokens

    # ---- between steps ------------------------------------------------------------------------------------------

    def after_step(self, step: int) -> None:
        """Held-out loss and checkpoint where they are due."""
        if step % self.config.data.heldout_every_steps == 0 or step == self.config.num_steps:
            self._evaluate(step)
        kind = checkpoint_kind(self.config, step)
        if kind is not None:
            self._keep_checkpoint(step, kind)

    def _evaluate(self, step: int) -> None:
        score = self.heldout.score(self.model, self.world)
        if self.ledger is not None:
            self.ledger.append(score.ledger_record(step, self.config.data.heldout_split))

    def _keep_checkpoint(self, step: int, kind: str) -> None:
        """Write the checkpoint (a replay only digests it) and its ledger record."""
        if self.ledger is not None:
            optimizer = self.optimizer if kind == "full" else None
            place = LedgerPlace(self.ledger.num_records, self.ledger.head)
            started = time.monotonic()
            if self.job.replay_from:
                record = describe_state(self.model, optimizer, step, place)[0]
            else:
                record = self._write_checkpoint(optimizer, step, place, checkpoint_name(step))
            self.ledger.append(record.ledger_record())
            self.note("checkpoint", step=step, checkpoint_kind=kind, seconds=hex_float(time.monotonic() - started))
        self.barrier()

    def _write_checkpoint(self, optimizer: Any, step: int, place: LedgerPlace, name: str) -> CheckpointRecord:
        assert self.ledger is not None
        self.ledger.sync()
        return write_checkpoint(
            self.run_dir / CHECKPOINTS / name,
            self.model,
            optimizer,
            step,
            place,
            tokenizer_dir=self.tokenizer_dir,
            max_file_bytes=self.config.checkpoints.max_file_bytes,
        )

    def save_for_requeue(self, step: int) -> None:
        """Write a full checkpoint outside the schedule, with no ledger record; a finished run has none of them."""
        if self.ledger is not None:
            place = LedgerPlace(self.ledger.num_records, self.ledger.head)
            self._write_checkpoint(self.optimizer, step, place, requeue_name(step))
            self.note("stop", step=step)
        self.barrier()

    def finish(self, progress: Progress) -> None:
        """Write the end record and the run's summary; remove checkpoints made for a requeue."""
        step = self.config.num_steps
        if self.ledger is not None:
            for path in (self.run_dir / CHECKPOINTS).glob(requeue_name("*")):
                shutil.rmtree(path)
            final = read_record(self.run_dir / CHECKPOINTS / checkpoint_name(step))
            digests = {"weights_digest": final.weights_digest, "state_digest": final.state_digest}
            self.ledger.append({"kind": "end", "step": step, **digests})
            self.ledger.close()
            write_json(self.run_dir / "run.json", self._summary(digests))
            self.note("finish", step=step, steps_in_this_process=progress.done)
        self.barrier()

    def _summary(self, digests: dict[str, Json]) -> dict[str, Json]:
        assert self.ledger is not None
        step = self.config.num_steps
        return {
            "format": RUN_FORMAT,
            "stage": self.job.stage,
            "model_type": self.model.config.model_type,
            "num_parameters": sum(parameter.numel() for parameter in self.parameters.values()),
            "num_steps": step,
            "num_tokens": self.order.num_sequences * self.config.data.window_tokens,
            "final": {"step": step, "path": f"{CHECKPOINTS}/{checkpoint_name(step)}", **digests},
            "ledger": {"head": self.ledger.head, "num_records": self.ledger.num_records},
            "heldout": self._heldout_summary(),
        }

    def _heldout_summary(self) -> dict[str, Json]:
        """First and last held-out record, read from the ledger so that a resumed run has both."""
        records = [r for r in read_chain(self.run_dir / "ledger.jsonl") if r["kind"] == "evaluation"]
        keys = ("step", "loss", "bits_per_byte", "num_tokens", "num_bytes")
        return {
            place: {key: record[key] for key in keys}
            for place, record in (("first", records[0]), ("last", records[-1]))
        }


def run_job(job: TrainingJob, world: World) -> bool:
    """Run a job to its last step; returns False when a stop was asked for and a checkpoint was written instead."""
    run = TrainingRun(job, world)
    done = run.start()
    stop_request = Path(job.run_dir) / STOP_REQUEST
    bar = Progress(f"{job.stage} steps", job.last_step - done)
    for step in range(done + 1, job.last_step + 1):
        started = time.monotonic()
        loss = run.train_step(step)
        seconds = time.monotonic() - started
        run.after_step(step)
        tokens = run.order.phases[run.order.locate_step(step)[0]].sequences_per_step * run.config.data.window_tokens
        run.note("step", step=step, seconds=hex_float(seconds), tokens_per_second=hex_float(tokens / seconds))
        if world.rank == 0:
            bar.advance(1, f"loss {loss:.3f}, {tokens / seconds:,.0f} tokens/s")
        asked = torch.tensor([int(stop_request.exists())], dtype=torch.int64)
        if int(world.all_reduce(asked, largest=True)) and step < job.last_step:
            run.save_for_requeue(step)
            return False
    if not job.replay_from:
        run.finish(bar)
    return True


def _tree_sum(values: list[float]) -> float:
    """Sum in the tree of the logical replicas."""
    while len(values) > 1:
        values = [values[i] + values[i + 1] for i in range(0, len(values), 2)]
    return values[0]

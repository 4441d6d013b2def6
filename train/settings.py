"""Configs of the training stages: `pretrain.yaml` and `sft.yaml`."""

from bisect import bisect_left
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from data_recipes.local_files import DatasetFile
from provenance.config import Config
from provenance.errors import ConfigError


class ModelConfig(Config):
    """A transformers model by its type and the fields of its config.

    Attributes:
        model_type: transformers' model type, such as `olmo3` or `llama`.
        fields: keyword arguments of that type's config class; vocabulary and special tokens come from the corpus.
        attention: attention implementation of transformers.
        router_bias_update_rate: for mixture-of-experts models that choose experts with a bias (DeepSeek-V3): after
            each step an expert's bias moves by this much towards an even load; 0 leaves it alone.
    """

    model_type: str
    fields: dict[str, Any]
    attention: Literal["sdpa", "eager"] = "sdpa"
    router_bias_update_rate: float = Field(default=0.0, ge=0)


Epochs = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def exact_epochs(epochs: float) -> Fraction:
    """The number that a recipe wrote: 0.7 is seven tenths, and not the float a little below it."""
    return Fraction(str(epochs))


class PhaseConfig(Config):
    """A stretch of steps with one batch size, one window length and one data mix.

    Attributes:
        num_steps: optimizer steps; left out where `epochs` give it.
        mixture: `proportional` (by windows), or integer weights per source.
        epochs: in the place of a mixture: how often the phase reads each source that it names, such as
            `{books: 2, web: 0.5}`. The number of steps follows from the corpus (or is refused where it does not); what
            does not fill a last batch is not read.
        window_tokens: number of trained positions of a window; None for that of `data`. A source is read at each
            length by itself, in epochs of its own: what was read at one length counts as unread at another.
    """

    num_steps: int = Field(default=0, ge=0)
    sequences_per_step: int = Field(gt=0)
    mixture: Literal["proportional"] | dict[str, int] = "proportional"
    epochs: dict[str, Epochs] | None = Field(default=None, min_length=1)
    window_tokens: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _states_its_steps(self) -> Self:
        if self.epochs is None and not self.num_steps:
            raise ValueError("a phase needs num_steps of 1 or more, or epochs, from which they follow")
        if self.epochs is not None and self.mixture != "proportional":
            raise ValueError("a phase has a mixture or epochs, not both")
        return self


class OrderFile(DatasetFile):
    """A file that gives the order of the run: the number of a window for each place, raw and little-endian.

    Attributes:
        dtype: type of the numbers.
        tokens_digest: digest of the split whose windows are numbered, as `tokens/tokens.json` has it: over other shards
            the same numbers are other windows.
    """

    dtype: Literal["u32", "u64"]
    tokens_digest: str = Field(pattern="^[0-9a-f]{64}$")


class DataConfig(Config):
    """Which splits of the corpus are read, and how.

    Attributes:
        split: split of the token shards to train on.
        window_tokens: number of trained positions of a window; of held-out windows, and of phases that name none.
        heldout_split: split for the held-out loss.
        heldout_windows: how many of its windows, spread evenly.
        heldout_every_steps: steps between held-out losses; also taken at step 0 and at the end.
        document_masking: attention and positions begin anew behind each end-of-text token of a window.
        max_epochs: how often the run may read a source over, all phases together; one number for every source, or a
            number for each of some. None sets no limit. A run that would read more does not start.
        order: a file that names the window of each place, in the place of mixtures and seed; None computes the order.
    """

    split: str
    window_tokens: int = Field(gt=0)
    heldout_split: str
    heldout_windows: int = Field(gt=0)
    heldout_every_steps: int = Field(gt=0)
    document_masking: bool = False
    max_epochs: Epochs | dict[str, Epochs] | None = None
    order: OrderFile | None = None


class LossConfig(Config):
    """Cross-entropy of the trained tokens.

    Attributes:
        chunk_tokens: logits are computed and differentiated for this many tokens at a time, so that they never stand
            whole; None computes them all at once, as a plain loop does.
        z_loss: weight of the squared logarithm of the softmax's normaliser, added to the loss that is differentiated;
            the ledger's loss is without it.
    """

    chunk_tokens: int | None = Field(default=None, gt=0)
    z_loss: float = Field(default=0.0, ge=0)


class OptimizerConfig(Config):
    """AdamW, or Muon on whole matrices with AdamW for everything else.

    Weight decay acts on tensors of two or more dimensions. Under `muon`, every matrix of the hidden layers (each expert
    of a three-dimensional tensor is one) takes a step of Muon scaled so that one learning rate serves both.

    Attributes:
        muon_momentum: Muon's momentum (Nesterov).
        muon_iterations: Newton-Schulz iterations.
    """

    name: Literal["adamw", "muon"] = "adamw"
    peak_learning_rate: float = Field(gt=0)
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = Field(default=0.1, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    muon_iterations: int = Field(default=5, gt=0)


class ScheduleConfig(Config):
    """Learning rate: linear warm-up, then one of three ways down to a fraction of the peak.

    Attributes:
        name: `wsd` is constant, then linear over the last `decay_steps`; `cosine` and `linear` go down from the end of
            the warm-up to the last step.
        decay_steps: of `wsd` only.
    """

    name: Literal["wsd", "cosine", "linear"] = "wsd"
    warmup_steps: int = Field(ge=0)
    decay_steps: int = Field(default=0, ge=0)
    final_fraction: float = Field(default=0.0, ge=0, le=1)


class CheckpointConfig(Config):
    """When checkpoints are kept, besides step 0 and the last step (always full).

    Attributes:
        weights_until_step: weights at steps 1, 2, 4, 8, ... up to this step.
        weights_every_steps: weights at multiples of this; 0 for none.
        full_every_steps: full checkpoints (with optimizer) at multiples of this; each can start a replay.
        keep_last_full: how many of the newest full checkpoints before the last step keep their optimizer state and
            weights; older ones are removed, unless their step is listed in `published_full_steps`, or keep their
            weights only, where weights are due at their step. None keeps all.
        published_full_steps: steps whose full checkpoints are never removed.
        max_file_bytes: a file of tensors is cut before it grows beyond this.
    """

    weights_until_step: int = Field(default=64, ge=0)
    weights_every_steps: int = Field(default=0, ge=0)
    full_every_steps: int = Field(default=50, gt=0)
    keep_last_full: int | None = Field(default=None, gt=0)
    published_full_steps: tuple[int, ...] = Field(default=(), strict=False)
    max_file_bytes: int = Field(default=2**30, gt=0)


class ExecutionConfig(Config):
    """What never changes results: how the work is laid out, watched and shown.

    Attributes:
        num_processes: processes in all; None means the largest power of two that fits the cores of this machine.
        shard_size: processes over which parameters, gradients and optimizer state are sharded (torch `fully_shard`); 1
            keeps a whole copy on every process, `num_processes` shards over all, a number between does both.
        tensor_size: processes over which the matrices of every layer are cut (tensor parallelism, by transformers' plan
            of the model), beside `shard_size`: a copy of the model has `shard_size` times `tensor_size` processes. Only
            with `reduction: native`.
        context_size: processes of those that `shard_size` counts which share their windows: each computes a stretch of
            the positions (context parallelism). Only with `reduction: native`.
        activation_checkpointing: compute activations again in the backward pass instead of keeping them.
        on_environment_change: what a resume on another platform does: go on in a new bitwise segment, or stop.
        on_loss_spike: what a loss of `loss_spike_factor` times the recent median does, besides its journal record.
        trackers: mirrors of the ledger's numbers through accelerate; the ledger stays the truth.
        device: `auto` takes GPUs where torch finds them.
        data_dir: directory that the path of `data.order` is relative to.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_processes: int | None = Field(default=None, gt=0)
    shard_size: int = Field(default=1, gt=0)
    tensor_size: int = Field(default=1, gt=0)
    context_size: int = Field(default=1, gt=0)
    activation_checkpointing: bool = False
    on_environment_change: Literal["continue", "stop"] = "continue"
    on_loss_spike: Literal["record", "stop"] = "record"
    loss_spike_factor: float = Field(default=2.0, gt=1)
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = Field(default=(), strict=False)
    data_dir: Path = Field(default=Path(), strict=False, validate_default=False)


class PoolDraws(Config):
    """How many windows of one source were drawn at one window length."""

    source: str
    window_tokens: int = Field(gt=0)
    num_draws: int = Field(gt=0)


class DrawsBefore(Config):
    """What was drawn before the order of a run begins, where its phases cannot say it.

    Attributes:
        step: last step of these draws; a phase ends with it. The order begins with the step after it.
        pools: draws up to that step, windows of steps that were left out among them; a pool without draws is not named.
    """

    step: int = Field(gt=0)
    pools: tuple[PoolDraws, ...] = Field(strict=False)


class BranchConfig(Config):
    """The full checkpoint of another run that this one goes on from; written by `openwright branch`.

    Attributes:
        ledger_head: head of that run's ledger right before the checkpoint's record.
        step: step of the checkpoint.
        state_digest: its state digest.
        draws_before: where a source was left out (`branch --without`): the draws up to that step, from which the
            sources that stay go on; None where the phases from the first step on say all of it.
    """

    ledger_head: str = Field(pattern="^[0-9a-f]{64}$")
    step: int = Field(gt=0)
    state_digest: str = Field(pattern="^[0-9a-f]{64}$")
    draws_before: DrawsBefore | None = None


class RunConfig(Config):
    """What both training stages share.

    Attributes:
        seed: seed of the order and of all random draws.
        branch: the checkpoint of another run with which this one begins; None for a run of its own.
        skip_steps: first and last step of stretches that are left out (their windows are not read, no update is made).
        precision: `fp32`, or `bf16`: fp32 master weights and optimizer, bf16 compute parameters, fp32 reduction.
        reduction: `exact`: the same bits at every number of processes up to `num_logical_replicas`; `native`: torch's
            own DDP and FSDP2 at any number of processes, with bits promised for the same layout only.
        num_logical_replicas: parts into which every step's batch is cut under `exact`; a power of two. Each part is one
            forward and backward pass: more parts need less memory.
        compile: torch.compile on every layer; other bits than without, the same at every layout.
        threads_per_process: part of the recipe, since it changes bits.
    """

    seed: int = Field(ge=0, lt=2**53)
    data: DataConfig
    phases: tuple[PhaseConfig, ...] = Field(min_length=1, strict=False)
    branch: BranchConfig | None = None
    skip_steps: tuple[Annotated[tuple[int, int], Field(strict=False)], ...] = Field(default=(), strict=False)
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    checkpoints: CheckpointConfig = CheckpointConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    reduction: Literal["exact", "native"] = "exact"
    num_logical_replicas: int = Field(default=8, gt=0)
    compile: bool = False
    threads_per_process: int = Field(default=1, gt=0)
    execution: ExecutionConfig = ExecutionConfig()

    @property
    def num_steps(self) -> int:
        """Steps of all phases.

        Raises:
            ConfigError: when the steps of a phase are still to follow from its epochs.
        """
        for number, phase in enumerate(self.phases):
            if not phase.num_steps:
                raise ConfigError(
                    f"phases.{number} is given by epochs: its steps are known once the corpus is built",
                    expected="a corpus, or num_steps beside the epochs",
                    next_command="openwright run CONFIG_DIR/corpus.yaml, then the same command again",
                )
        return sum(phase.num_steps for phase in self.phases)

    @property
    def draws_before(self) -> DrawsBefore | None:
        """Draws before the order begins; None where it begins with step 1."""
        return None if self.branch is None else self.branch.draws_before

    @property
    def order_source(self) -> Path:
        """Where the file that `data.order` pins lies on this machine; of no meaning where it pins none."""
        return self.execution.data_dir.expanduser() / (self.data.order.path if self.data.order else "")

    def window_tokens_of(self, phase: PhaseConfig) -> int:
        """Window length of a phase."""
        return phase.window_tokens or self.data.window_tokens

    @property
    def window_lengths(self) -> tuple[int, ...]:
        """Window lengths of the phases, each once, in the order of their first use."""
        return tuple(dict.fromkeys(self.window_tokens_of(phase) for phase in self.phases))

    @property
    def longest_window(self) -> int:
        """Tokens of the longest window that the model reads, held-out windows included."""
        return max(self.data.window_tokens, *self.window_lengths)

    def phase_of(self, step: int) -> PhaseConfig:
        """The phase that holds a step."""
        return self.phases[bisect_left(list(accumulate(phase.num_steps for phase in self.phases)), step)]

    def is_skipped(self, step: int) -> bool:
        """Whether a step is left out."""
        return any(first <= step <= last for first, last in self.skip_steps)

    @model_validator(mode="after")
    def _check_batches(self) -> Self:
        replicas = self.num_logical_replicas
        if replicas & (replicas - 1):
            raise ValueError(f"num_logical_replicas must be a power of two, not {replicas}")
        for phase in self.phases:
            if self.reduction == "exact" and phase.sequences_per_step % replicas:
                raise ValueError(
                    f"sequences_per_step {phase.sequences_per_step} must divide by num_logical_replicas {replicas}"
                )
        return self

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.data.order is None:
            return self
        if any(phase.mixture != "proportional" or phase.epochs is not None for phase in self.phases):
            raise ValueError("data.order says what is read: phases beside it have neither a mixture nor epochs")
        if self.window_lengths != (self.data.window_tokens,):
            raise ValueError("data.order numbers windows of data.window_tokens: phases beside it have no other length")
        if self.draws_before is not None:
            raise ValueError("data.order names the windows of all steps: branch.draws_before has no place beside it")
        return self

    @model_validator(mode="after")
    def _check_epochs(self) -> Self:
        asked: dict[str, Fraction] = {}
        for name, epochs in (pair for phase in self.phases for pair in (phase.epochs or {}).items()):
            asked[name] = asked.get(name, Fraction(0)) + exact_epochs(epochs)
        limits = self.data.max_epochs
        for name, epochs_in_all in asked.items():
            limit = limits.get(name) if isinstance(limits, dict) else limits
            if limit is not None and epochs_in_all > exact_epochs(limit):
                raise ValueError(
                    f"the phases ask for {float(epochs_in_all):g} epochs of {name!r}, data.max_epochs allows {limit:g}"
                )
        return self

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        schedule = self.schedule
        if schedule.name != "wsd" and schedule.decay_steps:
            raise ValueError(f"schedule.decay_steps belongs to wsd; {schedule.name} decays to the last step")
        if not all(phase.num_steps for phase in self.phases):
            return self  # until the steps of all phases follow from the corpus: settle_phases looks again
        if schedule.warmup_steps + schedule.decay_steps > self.num_steps:
            raise ValueError(f"warm-up and decay are longer than the {self.num_steps} steps of all phases")
        branch_step = 0 if self.branch is None else self.branch.step
        if branch_step >= self.num_steps:
            raise ValueError(f"branch.step {branch_step}: the run ends at step {self.num_steps}")
        if self.draws_before is not None:
            begun = self.draws_before.step
            if begun > branch_step or begun not in accumulate(phase.num_steps for phase in self.phases):
                raise ValueError(f"branch.draws_before.step {begun}: a phase ends there, at or before branch.step")
        before = 0
        for first, last in self.skip_steps:
            if first <= branch_step <= last:
                raise ValueError(f"skip_steps {first} to {last} hold the step {branch_step} of the branch")
            if not before < first <= last < self.num_steps:
                raise ValueError(
                    f"skip_steps {first} to {last}: stretches rise, lie apart, and end before the last step"
                )
            before = last
        every = self.checkpoints.full_every_steps
        for step in self.checkpoints.published_full_steps:
            if not 0 < step <= self.num_steps or (step % every and step != self.num_steps) or self.is_skipped(step):
                raise ValueError(
                    f"checkpoints.published_full_steps {step} has no full checkpoint: they are made every {every} steps"
                )
        return self

    @model_validator(mode="after")
    def _check_layout(self) -> Self:
        processes, shards = self.execution.num_processes, self.execution.shard_size
        tensor_size, context_size = self.execution.tensor_size, self.execution.context_size
        if shards % context_size:
            raise ValueError(f"execution.shard_size {shards} must divide by execution.context_size {context_size}")
        if processes is None:
            if max(shards, tensor_size) > 1:
                raise ValueError("a layout of shard_size or tensor_size needs execution.num_processes beside it")
            return self
        if processes % (shards * tensor_size):
            raise ValueError(
                f"execution.num_processes {processes} must divide by execution.shard_size {shards}"
                + (f" times execution.tensor_size {tensor_size}" if tensor_size > 1 else "")
            )
        if max(tensor_size, context_size) > 1:
            self._check_shared_windows(num_copies=processes // (shards * tensor_size))
        if self.reduction == "exact" and (
            processes & (processes - 1) or shards & (shards - 1) or processes > self.num_logical_replicas
        ):
            raise ValueError(
                f"execution.num_processes must be a power of two up to {self.num_logical_replicas} and "
                f"execution.shard_size one that divides it, not {processes} and {shards}; reduction: native takes any"
            )
        return self

    def _check_shared_windows(self, num_copies: int) -> None:
        """Refuse what several processes cannot compute together on the same windows."""
        tensor_size, context_size = self.execution.tensor_size, self.execution.context_size
        told = f"execution.tensor_size {tensor_size} and context_size {context_size}"
        if self.reduction == "exact":
            raise ValueError(f"{told} need reduction: native; sums within a window have no fixed order there")
        if self.compile:
            raise ValueError(f"{told} need compile: false; layers that wait for other processes are not compiled")
        if tensor_size > 1 and self.optimizer.name != "adamw":
            raise ValueError(f"{told} need optimizer.name: adamw; {self.optimizer.name} works on whole matrices")
        if num_copies > 1 and self.execution.shard_size == context_size:
            raise ValueError(
                f"{told} with {num_copies} copies of the model need an execution.shard_size of {2 * context_size} or "
                "more: accelerate does not combine them with copies that are not sharded"
            )
        uneven = [length for length in {self.data.window_tokens, *self.window_lengths} if length % context_size]
        if uneven:
            raise ValueError(f"windows of {uneven[0]} tokens must divide by execution.context_size {context_size}")


class PretrainConfig(RunConfig):
    """Training from random weights."""

    model: ModelConfig


class SftConfig(RunConfig):
    """Supervised fine-tuning of the final checkpoint of the pretraining stage."""

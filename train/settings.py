"""Configs of the training stages: `pretrain.yaml` and `sft.yaml`."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from provenance.config import Config


class ModelConfig(Config):
    """A transformers model by its type and the fields of its config.

    Attributes:
        model_type: transformers' model type, such as `olmo3` or `llama`.
        fields: keyword arguments of that type's config class; vocabulary and special tokens come from the corpus.
        attention: attention implementation of transformers.
    """

    model_type: str
    fields: dict[str, Any]
    attention: Literal["sdpa", "eager"] = "sdpa"


class PhaseConfig(Config):
    """A stretch of steps with one batch size and one data mix.

    Attributes:
        mixture: `proportional` (by windows), or integer weights per source.
    """

    num_steps: int = Field(gt=0)
    sequences_per_step: int = Field(gt=0)
    mixture: Literal["proportional"] | dict[str, int] = "proportional"


class DataConfig(Config):
    """Which splits of the corpus are read, and how.

    Attributes:
        split: split of the token shards to train on.
        window_tokens: number of trained positions of a window.
        heldout_split: split for the held-out loss.
        heldout_windows: how many of its windows, spread evenly.
        heldout_every_steps: steps between held-out losses; also taken at step 0 and at the end.
    """

    split: str
    window_tokens: int = Field(gt=0)
    heldout_split: str
    heldout_windows: int = Field(gt=0)
    heldout_every_steps: int = Field(gt=0)


class OptimizerConfig(Config):
    """AdamW; weight decay acts on tensors of two or more dimensions."""

    name: Literal["adamw"] = "adamw"
    peak_learning_rate: float = Field(gt=0)
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = Field(default=0.1, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)


class ScheduleConfig(Config):
    """Warm-up, stable, decay: linear up, constant, linear down to a fraction of the peak."""

    name: Literal["wsd"] = "wsd"
    warmup_steps: int = Field(ge=0)
    decay_steps: int = Field(ge=0)
    final_fraction: float = Field(default=0.0, ge=0, le=1)


class CheckpointConfig(Config):
    """When checkpoints are kept, besides step 0 and the last step (always full).

    Attributes:
        weights_until_step: weights at steps 1, 2, 4, 8, ... up to this step.
        full_every_steps: full checkpoints (with optimizer) at multiples of this; each can start a replay.
        max_file_bytes: a weights file is cut before it grows beyond this.
    """

    weights_until_step: int = Field(default=64, ge=0)
    full_every_steps: int = Field(default=50, gt=0)
    max_file_bytes: int = Field(default=2**30, gt=0)


class ExecutionConfig(Config):
    """What never changes results. None for `num_processes` means the largest power of two that fits the cores."""

    num_processes: int | None = Field(default=None, gt=0)


class RunConfig(Config):
    """What both training stages share.

    Attributes:
        seed: seed of the order and of all random draws.
        reduction: `exact`: the same bits at every number of processes up to `num_logical_replicas`.
        num_logical_replicas: parts into which every step's batch is cut; a power of two.
        threads_per_process: part of the recipe, since it changes bits.
    """

    seed: int = Field(ge=0, lt=2**53)
    data: DataConfig
    phases: tuple[PhaseConfig, ...] = Field(min_length=1, strict=False)
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    checkpoints: CheckpointConfig = CheckpointConfig()
    precision: Literal["fp32"] = "fp32"
    reduction: Literal["exact"] = "exact"
    num_logical_replicas: int = Field(default=8, gt=0)
    threads_per_process: int = Field(default=1, gt=0)
    execution: ExecutionConfig = ExecutionConfig()

    @property
    def num_steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.num_steps for phase in self.phases)

    @model_validator(mode="after")
    def _check(self) -> Self:
        replicas = self.num_logical_replicas
        if replicas & (replicas - 1):
            raise ValueError(f"num_logical_replicas must be a power of two, not {replicas}")
        for phase in self.phases:
            if phase.sequences_per_step % replicas:
                raise ValueError(
                    f"sequences_per_step {phase.sequences_per_step} must divide by num_logical_replicas {replicas}"
                )
        if self.schedule.warmup_steps + self.schedule.decay_steps > self.num_steps:
            raise ValueError(f"warm-up and decay are longer than the {self.num_steps} steps of all phases")
        processes = self.execution.num_processes
        if processes is not None and (processes & (processes - 1) or processes > replicas):
            raise ValueError(f"execution.num_processes must be a power of two up to {replicas}, not {processes}")
        return self


class PretrainConfig(RunConfig):
    """Training from random weights."""

    model: ModelConfig


class SftConfig(RunConfig):
    """Supervised fine-tuning of the final checkpoint of the pretraining stage."""

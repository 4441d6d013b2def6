"""Config of the stage `average`: `average.yaml`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from provenance.config import Config

MAX_INGREDIENTS = 1000
DENOMINATOR = 2**29
"""Largest sum of the weights of an average, and the parts into which weights that are no whole numbers are cut: their
products with the 24 bits of an F32 element fit into the 53 of binary64."""


class IngredientsConfig(Config):
    """Checkpoints of one training stage, by their steps in ascending order."""

    stage: Literal["pretrain", "sft"]
    steps: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1, strict=False)


class AverageConfig(Config):
    """`average.yaml`: a model whose weights are an average of checkpoints that the training stages keep.

    Attributes:
        kind: `uniform`: all count alike; `weights`: as `weights` says; `ema`: an exponential moving average over the
            checkpoints in their order, which begins with the first.
        ingredients: the checkpoints, in the order in which they are added.
        weights: of kind `weights`: a whole number for each checkpoint; their sum stands for 1.
        decay: of kind `ema`: what a new checkpoint leaves of the average so far.
    """

    kind: Literal["uniform", "weights", "ema"]
    ingredients: tuple[IngredientsConfig, ...] = Field(min_length=1, strict=False)
    weights: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(), strict=False)
    decay: float | None = Field(default=None, ge=0.001, lt=1)

    @property
    def checkpoints(self) -> list[tuple[str, int]]:
        """Stage and step of every ingredient, in order."""
        return [(group.stage, step) for group in self.ingredients for step in group.steps]

    @property
    def stages(self) -> list[str]:
        """Stages whose checkpoints are averaged, each once, in order."""
        return list(dict.fromkeys(group.stage for group in self.ingredients))

    @model_validator(mode="after")
    def _check_ingredients(self) -> Self:
        if not 2 <= len(self.checkpoints) <= MAX_INGREDIENTS:
            raise ValueError(f"ingredients: an average is made of 2 to {MAX_INGREDIENTS} checkpoints")
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise ValueError("ingredients: a checkpoint is named twice; give it more weight instead")
        for group in self.ingredients:
            if list(group.steps) != sorted(group.steps):
                raise ValueError(f"ingredients: steps {list(group.steps)} of {group.stage} do not ascend")
        return self

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.kind == "ema") != (self.decay is not None):
            raise ValueError("decay belongs to kind ema, which needs it")
        if len(self.weights) != (len(self.checkpoints) if self.kind == "weights" else 0):
            raise ValueError("weights belong to kind weights, which needs one for each checkpoint")
        if sum(self.weights) > DENOMINATOR:
            raise ValueError(f"weights: their sum is above {DENOMINATOR}, up to which products are exact")
        return self

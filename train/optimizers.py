"""Optimizers on the parts of tensors that a process holds, with state that has names.

torch's AdamW does the arithmetic in its `foreach` form: the fused kernel's vector tails depend on where a tensor ends,
so that its bits would change with the layout.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from train.layout import Part
from train.settings import OptimizerConfig

STEP_NAME = "optimizer.step"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer(Protocol):
    """What the loop asks of an optimizer. Gradients and state cover the same rows as the parts."""

    def step(self, gradients: Mapping[str, torch.Tensor], learning_rate: float) -> None:
        """Update every part in place; gradients by the part's name."""

    def state(self) -> list[Part]:
        """Return the state as named parts, `<parameter>.<state>`, without the step count."""

    def load(self, tensors: Mapping[str, torch.Tensor], num_steps_done: int) -> None:
        """Put back what `state` gave (the rows held, by name) after that many steps."""


class AdamW:
    """AdamW; weight decay acts on tensors of two or more dimensions.

    Args:
        config: settings of the optimizer.
        parts: what this process holds of the parameters it updates.
    """

    def __init__(self, config: OptimizerConfig, parts: Sequence[Part]) -> None:
        self._parts = list(parts)
        # Parameters that share the memory of the parts: torch's optimizer sees plain tensors, never DTensors.
        self._parameters = [torch.nn.Parameter(part.tensor) for part in parts]
        decays = [len(part.shape) >= 2 for part in parts]
        groups = [
            {
                "params": [p for p, decay in zip(self._parameters, decays, strict=True) if decay is wanted],
                "weight_decay": config.weight_decay if wanted else 0.0,
            }
            for wanted in (True, False)
        ]
        self._optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.peak_learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            foreach=True,
            fused=False,
        )

    def step(self, gradients: Mapping[str, torch.Tensor], learning_rate: float) -> None:
        """Update every part in place."""
        for part, parameter in zip(self._parts, self._parameters, strict=True):
            parameter.grad = gradients[part.name]
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None

    def state(self) -> list[Part]:
        """Return both moments of every part."""
        return [
            part.like(f"{part.name}.{moment}", self._optimizer.state[parameter][moment])
            for part, parameter in zip(self._parts, self._parameters, strict=True)
            for moment in _MOMENTS
        ]

    def load(self, tensors: Mapping[str, torch.Tensor], num_steps_done: int) -> None:
        """Put both moments of every part back."""
        for part, parameter in zip(self._parts, self._parameters, strict=True):
            moments = {moment: tensors[f"{part.name}.{moment}"].clone() for moment in _MOMENTS}
            self._optimizer.state[parameter] = {"step": torch.tensor(float(num_steps_done)), **moments}

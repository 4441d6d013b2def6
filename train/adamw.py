"""AdamW with state that has names.

torch's own optimizer does the arithmetic, in its `foreach` form: the fused kernel's vector tails depend on where a
tensor ends, so that its bits would change with the layout.
"""

from collections.abc import Mapping

import torch

from train.settings import OptimizerConfig

STEP_NAME = "optimizer.step"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def build_adamw(config: OptimizerConfig, parameters: Mapping[str, torch.nn.Parameter]) -> torch.optim.AdamW:
    """Return AdamW over two groups: with weight decay (two or more dimensions) and without."""
    matrices = [p for p in parameters.values() if p.dim() >= 2]
    vectors = [p for p in parameters.values() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.peak_learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        foreach=True,
        fused=False,
    )


def optimizer_tensors(
    optimizer: torch.optim.AdamW, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as named tensors, the step count among them."""
    tensors: dict[str, torch.Tensor] = {}
    steps = set()
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        steps.add(int(state["step"]))
        for moment in _MOMENTS:
            tensors[f"{name}.{moment}"] = state[moment]
    assert len(steps) == 1, "every parameter takes part in every step"
    tensors[STEP_NAME] = torch.tensor(steps.pop(), dtype=torch.int64)
    return tensors


def restore_optimizer(
    optimizer: torch.optim.AdamW, parameters: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put named tensors back into a fresh optimizer."""
    step = float(tensors[STEP_NAME])
    for name, parameter in parameters.items():
        state = {moment: tensors[f"{name}.{moment}"].clone() for moment in _MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(step), **state}

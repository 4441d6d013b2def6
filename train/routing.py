"""Routers of mixture-of-experts models: how many tokens each expert got, and the bias that evens the load out.

transformers computes the choice of experts and leaves the rest to whoever trains: `e_score_correction_bias`
(DeepSeek-V3 and its kin) is a persistent buffer in fp32 that nothing updates and that no sharding reduces. Here the
choices of one step are counted as integers, so that their sum over processes is exact in any order, and every process
moves its copy of the bias in the same way.

Legend: T tokens, K experts that each token is sent to, E experts, N entries in a flat order.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from provenance.canonical import Json
from provenance.errors import ConfigError, TrainingError
from train.layout import World

BIAS = "e_score_correction_bias"
# transformers' default, grouped_mm, refuses on the CPU matrices whose rows are no multiple of 16 bytes; batched_mm
# copies the weights of an expert for each token. `eager` takes one expert after another, in order, each token at most
# once, so that no addition depends on chance. The choice is not part of config.json: it has to be made at each load.
EXPERT_SETTINGS: dict[str, str] = {"experts_implementation": "eager"}


@dataclass(frozen=True)
class _Router:
    """A router and the choices counted since the last step, int64 of shape [E]."""

    name: str
    module: Any
    counts: torch.Tensor

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias as the model holds it now."""
        return dict(self.module.named_buffers(recurse=False)).get(BIAS)


class RouterLoads:
    """Counts which experts a model's routers choose, and moves their biases once per step.

    Counted is every position that a router sees inside `counting`, so that held-out passes and the recomputation of
    activations in the backward pass, which lie outside, leave no trace.

    Args:
        model: a transformers model, with or without routers, on its device; sharded before or after, as one likes.
        bias_update_rate: how far a bias moves in one step towards an even load; 0 leaves all biases alone.

    Raises:
        ConfigError: when a rate is set and the model has no bias to move.
    """

    def __init__(self, model: torch.nn.Module, bias_update_rate: float = 0.0) -> None:
        self._rate = bias_update_rate
        self._is_counting = False
        self._routers = [_describe(name, module) for name, module in model.named_modules() if _is_router(module)]
        _check_biases(model, self._routers, bias_update_rate)
        for router in self._routers:
            router.module.register_forward_hook(self._hook_for(router))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the choices of forward passes inside; the backward pass belongs outside."""
        self._is_counting = True
        try:
            yield
        finally:
            self._is_counting = False

    def finish_step(self, world: World) -> dict[str, Json] | None:
        """Move the biases by the choices of all processes since the last call, and begin anew.

        The bias of an expert with less than the mean load rises by the rate, of one with more it falls by it; the
        comparison is one of integers.

        Returns:
            None for a model without routers; else, for the ledger: `layers`, for each router in the order of the
            model its `router` (name), `num_experts`, `num_choices` (tokens times the experts that each is sent to),
            `smallest_load` and `largest_load` (choices of one expert); and `counts_sha256` over all loads, in that
            order, as little-endian u64.
        """
        if not self._routers:
            return None
        counts_N = world.all_reduce(torch.cat([router.counts for router in self._routers]))
        assert counts_N.sum() > 0, "training passes run inside counting()"
        layers: list[Json] = []
        pieces = torch.split(counts_N, [router.counts.numel() for router in self._routers])
        for router, counts_E in zip(self._routers, pieces, strict=True):
            bias_E = router.bias
            if bias_E is not None and self._rate:
                # Compares with the mean without dividing: mean - count has the sign of total - count * E.
                direction_E = torch.sign(counts_E.sum() - counts_E * counts_E.numel())
                bias_E.add_(direction_E.to(bias_E.dtype), alpha=self._rate)
            router.counts.zero_()
            layers.append(
                {
                    "router": router.name,
                    "num_experts": counts_E.numel(),
                    "num_choices": int(counts_E.sum()),
                    "smallest_load": int(counts_E.min()),
                    "largest_load": int(counts_E.max()),
                }
            )
        data = counts_N.cpu().numpy().astype("<u8").tobytes()
        return {"layers": layers, "counts_sha256": hashlib.sha256(data).hexdigest()}

    def _hook_for(self, router: _Router) -> Any:
        def count(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if not self._is_counting:
                return
            choices_TK = output[-1] if isinstance(output, tuple) else output
            if choices_TK.dtype != torch.int64 or choices_TK.shape[-1] != router.module.top_k:
                raise TrainingError(
                    f"router {router.name} returns {choices_TK.dtype} of shape {tuple(choices_TK.shape)} last",
                    expected=f"the int64 numbers of the {router.module.top_k} experts that each token chose",
                    next_command="train a model whose routers count, such as deepseek_v3, qwen3_moe or olmoe",
                )
            choices_N = choices_TK.detach().reshape(-1)
            router.counts.scatter_add_(0, choices_N, torch.ones_like(choices_N))

        return count


def _is_router(module: torch.nn.Module) -> bool:
    """Whether a module is one of transformers' routers: by its class name and the two numbers that all of them have."""
    named = type(module).__name__.endswith("Router")
    return named and isinstance(getattr(module, "top_k", None), int) and hasattr(module, "num_experts")


def _describe(name: str, module: Any) -> _Router:
    biases = dict(module.named_buffers(recurse=False))
    # LongCat's routers choose from more than the experts with weights: their bias has one place for each.
    num_choosable = biases[BIAS].numel() if BIAS in biases else module.num_experts
    counts = torch.zeros(num_choosable, dtype=torch.int64, device=next(module.parameters()).device)
    return _Router(name, module, counts)


def _check_biases(model: torch.nn.Module, routers: list[_Router], rate: float) -> None:
    if not rate:
        return
    tensors = [name for name, _ in [*model.named_buffers(), *model.named_parameters()] if name.endswith(BIAS)]
    known = [f"{router.name}.{BIAS}" for router in routers if router.bias is not None]
    if not known or sorted(tensors) != sorted(known):
        raise ConfigError(
            f"model.router_bias_update_rate {rate}, and {BIAS} of the model lies in: {', '.join(tensors) or 'nothing'}",
            expected=f"routers that have a buffer {BIAS} of their own, as in deepseek_v3",
            next_command="set model.router_bias_update_rate to 0",
        )

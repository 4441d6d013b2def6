"""What one step reads, and what the ledger says of it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from data_recipes.interleave import largest_remainder
from data_recipes.order import Draw, Order, OrderSource, Phase
from data_recipes.pools import WindowPools
from data_recipes.windows import Mask, TokenIds, token_digest
from provenance.canonical import Json, read_json
from provenance.errors import ConfigError, TrainingError
from train.settings import DrawsBefore, PhaseConfig, RunConfig


def open_windows(config: RunConfig, corpus: Path) -> WindowPools:
    """The windows that a config reads, at every length of its phases.

    Raises:
        ConfigError: for preference pairs, and for conversations that share rows without `data.document_masking`.
        DataError: as `TokenWindows`.
    """
    _check_rows(config, corpus)
    return WindowPools(corpus, config.data.split, config.window_lengths)


def _check_rows(config: RunConfig, corpus: Path) -> None:
    """Refuse rows of the corpus recipe's section `chats` that would be trained as something else than they are."""
    split = config.data.split
    if split.startswith("preference"):
        raise ConfigError(
            f"data.split {split}: each row holds a chosen and a rejected answer",
            expected="a split of conversations or documents",
        )
    summary = corpus / "corpus.json"
    if split.startswith(("chat", "sft")) and summary.is_file() and not config.data.document_masking:
        values = read_json(summary)
        section = values["chats"] if split.startswith("chat") else values["conversations"].get("parameters", {})
        if (packing := section.get("packing", "none")) != "none":
            raise ConfigError(
                f"data.split {split}: conversations share rows (packing {packing})",
                expected="data.document_masking: true, so that none attends to another",
            )


def build_order(config: RunConfig, windows: WindowPools) -> Order:
    """Turn the phases of a config into an order over the windows of a split.

    It is an `order/1` unless a phase has a window length of its own or draws were made before it.

    Raises:
        ConfigError: when a mixture names a source that the split lacks, draws before do not fit the phases, or a source
            would be read more often than `data.max_epochs` allows.
    """
    order = _order_of(config, windows)
    _check_epochs(order, config.data.max_epochs, windows.source_names)
    return order


def _order_of(config: RunConfig, windows: WindowPools) -> Order:
    phases = [
        _build_phase(phase, config.window_tokens_of(phase), windows, f"phases.{number}.mixture")
        for number, phase in enumerate(config.phases)
    ]
    pools, start, usual = windows.pools, config.draws_before, config.data.window_tokens
    if start is None and config.window_lengths == (usual,):
        sources = tuple(OrderSource(pool.name, pool.num_windows) for pool in pools)
        plain = tuple(replace(phase, window_tokens=None) for phase in phases)
        return Order(windows.tokens_digest, config.seed, sources, plain)
    first_step = 1
    if start is not None:
        first_step = start.step + 1
        ends = list(accumulate(phase.num_steps for phase in phases))
        past = phases[: ends.index(start.step) + 1]
        pools, phases = _with_draws(pools, start, past), phases[len(past) :]
    return Order(windows.tokens_digest, config.seed, pools, tuple(phases), usual, first_step)


def _check_epochs(order: Order, limits: float | Mapping[str, float] | None, names: list[str]) -> None:
    """Refuse a run that reads a source more often than its limit: all phases together, at every window length."""
    if limits is None:
        return
    unknown = sorted(set(limits) - set(names)) if isinstance(limits, Mapping) else []
    if unknown:
        raise ConfigError(f"data.max_epochs names {unknown[0]!r}", expected=f"sources of the split: {names}")
    epochs: dict[str, Fraction] = {}
    for pool, draws in zip(order.sources, order.draws_until(order.num_steps), strict=True):
        epochs[pool.name] = epochs.get(pool.name, Fraction(0)) + Fraction(draws, max(1, pool.num_windows))
    for name, found in epochs.items():
        limit = limits.get(name) if isinstance(limits, Mapping) else limits
        if limit is not None and found > limit:
            raise ConfigError(
                f"source {name!r} would be read {float(found):.2f} times over",
                expected=f"at most {limit:g} times, as data.max_epochs says",
                next_command="give it less weight in phases[].mixture, train fewer steps, or raise data.max_epochs",
            )


def _build_phase(phase: PhaseConfig, window_tokens: int, windows: WindowPools, where: str) -> Phase:
    own = [pool for pool in windows.pools if pool.window_tokens == window_tokens]
    if phase.mixture == "proportional":
        weights: Mapping[str, int] = {pool.name: pool.num_windows for pool in own}
    else:
        weights = phase.mixture
        unknown = sorted(set(weights) - set(windows.source_names))
        if unknown:
            raise ConfigError(f"{where} names {unknown[0]!r}", expected=f"sources of the split: {windows.source_names}")
    spread = [weights.get(pool.name, 0) if pool.window_tokens == window_tokens else 0 for pool in windows.pools]
    counts = largest_remainder(phase.num_steps * phase.sequences_per_step, spread)
    return Phase(phase.num_steps, phase.sequences_per_step, counts, window_tokens)


def _with_draws(pools: tuple[OrderSource, ...], start: DrawsBefore, past: list[Phase]) -> tuple[OrderSource, ...]:
    """The pools with the draws before an order, which have to be as many as the phases before it read."""
    draws: dict[tuple[str, int | None], int] = {(d.source, d.window_tokens): d.num_draws for d in start.pools}
    known = {(pool.name, pool.window_tokens) for pool in pools}
    read: Counter[int | None] = Counter()
    told: Counter[int | None] = Counter()
    for phase in past:
        read[phase.window_tokens] += phase.num_sequences
    for drawn in start.pools:
        told[drawn.window_tokens] += drawn.num_draws
    if len(draws) != len(start.pools) or not known.issuperset(draws) or told != read:
        raise ConfigError(
            f"branch.draws_before up to step {start.step} of {sorted(draws.items())}",
            expected=f"each source of the split once per window length, and windows in all by length: {dict(read)}",
            next_command="openwright branch RUN --at STEP --without source:NAME, which writes them",
        )
    return tuple(replace(pool, draws_before=draws.get((pool.name, pool.window_tokens), 0)) for pool in pools)


@dataclass(frozen=True)
class StepBatch:
    """The windows of a step, in slot order.

    Attributes:
        ids: [N, L + 1] token ids.
        mask: [N, L + 1], 1 where the token is a trained target.
    """

    step: int
    draws: list[Draw]
    ids: TokenIds
    mask: Mask

    @property
    def num_trained(self) -> int:
        """Trained tokens of the step."""
        return int(self.mask.sum())

    def rows(self, places: slice, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (int64) and mask (bool) of some windows on a device."""
        ids_BT = torch.from_numpy(np.ascontiguousarray(self.ids[places]))
        mask_BT = torch.from_numpy(np.ascontiguousarray(self.mask[places])).bool()
        return ids_BT.to(device), mask_BT.to(device)

    def tokens_by_source(self, order: Order) -> dict[str, int]:
        """Positions read from each source."""
        tokens: dict[str, int] = {}
        for draw in self.draws:
            name = order.sources[draw.source].name
            tokens[name] = tokens.get(name, 0) + self.ids.shape[1] - 1
        return tokens

    def ledger_fields(self, order: Order) -> dict[str, Json]:
        """The fields of the ledger's step record that say what was read."""
        return {
            "order_digest": order.digest_of_draws(self.draws),
            "token_digest": token_digest(self.ids, self.mask),
            "tokens_by_source": self.tokens_by_source(order),
            "num_trained_tokens": self.num_trained,
        }

    def documents(self, order: Order, windows: WindowPools) -> list[dict[str, Json]]:
        """Where each window lies: source, window, and the first and last document it touches, as ordinals there."""
        found = []
        for slot, draw in enumerate(self.draws):
            first, last = windows.documents_of(draw.source, draw.window)
            place = {"source": order.sources[draw.source].name, "window": draw.window, "documents": [first, last]}
            found.append({"slot": slot, **place})
        return found


def read_batch(windows: WindowPools, order: Order, step: int) -> StepBatch:
    """Read the windows of a step.

    Raises:
        TrainingError: when none of its tokens is trained.
    """
    draws = order.step_draws(step)
    batch = StepBatch(step, draws, *windows.read_draws(order, draws))
    if batch.num_trained == 0:
        raise TrainingError(f"step {step} has no trained token", expected="at least one")
    return batch

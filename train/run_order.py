"""The order of a run: its phases over the windows of a corpus, and what is refused before a step is made.

Nothing here loads torch: all phases of all training stages are looked at as soon as the corpus is there.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from data_recipes.interleave import largest_remainder
from data_recipes.order import Order, OrderSource, Phase
from data_recipes.order_file import open_order
from data_recipes.pools import WindowPools
from provenance.canonical import read_json
from provenance.errors import ConfigError, DataError
from train.settings import DrawsBefore, OrderFile, PhaseConfig, RunConfig, exact_epochs

RunType = TypeVar("RunType", bound=RunConfig)


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


def unseparated_documents(config: RunConfig, corpus: Path) -> int:
    """Return how many documents a run takes as one with the next although it masks documents.

    Masking finds documents by the end-of-text token, which some of a source in place may lack (`sources.lock` counts
    them); all others end with it.
    """
    lock = corpus / "sources.lock"
    if not config.data.document_masking or not lock.is_file():
        return 0
    read = [entry for entry in read_json(lock)["sources"] if entry.get("split") == config.data.split]
    return sum(entry["statistics"]["num_without_eos"] for entry in read if entry.get("in_place"))


def settle_phases(config: RunType, corpus: Path) -> RunType:
    """Give phases that are stated by epochs the steps and weights that follow from a corpus.

    A source is due its epochs times its windows, rounded down. The phase has as many steps as whole batches are due;
    what is left, less than a batch over all sources, is not read. The windows due become the weights of its mixture,
    so that the counts are the windows due wherever they fill the last batch.

    Raises:
        ConfigError: when a phase names a source that the split lacks, states another number of steps, or makes none;
            when a source is due no window; when warm-up, decay or stretches do not fit the steps that follow.
    """
    if all(phase.epochs is None for phase in config.phases):
        return config
    windows = open_windows(config, corpus)
    phases = tuple(
        _settle(phase, config.window_tokens_of(phase), windows, f"phases.{number}")
        for number, phase in enumerate(config.phases)
    )
    try:
        return type(config).model_validate({**dict(config), "phases": phases})
    except ValidationError as error:
        raise ConfigError(
            error.errors()[0]["msg"].removeprefix("Value error, "),
            expected=f"settings that go with {sum(p.num_steps for p in phases)} steps, as the phases' epochs give",
            next_command="change them, or the epochs of the phases",
        ) from None


def _settle(phase: PhaseConfig, window_tokens: int, windows: WindowPools, where: str) -> PhaseConfig:
    if phase.epochs is None:
        return phase
    _check_names(phase.epochs, windows, f"{where}.epochs")
    held = {pool.name: pool.num_windows for pool in windows.pools if pool.window_tokens == window_tokens}
    due = {name: int(exact_epochs(epochs) * held[name]) for name, epochs in phase.epochs.items()}
    for name, num_windows in due.items():
        if not num_windows:
            raise ConfigError(
                f"{where}.epochs: {phase.epochs[name]:g} of source {name!r} are no window",
                expected=f"at least one of its {held[name]:,} windows of {window_tokens} tokens, or none named",
            )
    total = sum(due.values())
    num_steps = total // phase.sequences_per_step
    follows = f"{total:,} windows are due, {phase.sequences_per_step:,} in a step"
    if not num_steps:
        raise ConfigError(f"{where} makes no step: {follows}", expected="more epochs, or a smaller batch")
    if phase.num_steps not in (0, num_steps):
        raise ConfigError(
            f"{where}.num_steps {phase.num_steps}",
            expected=f"{num_steps}, as its epochs give: {follows}",
            next_command="leave num_steps out, or change the epochs",
        )
    return phase.model_copy(update={"num_steps": num_steps, "mixture": due, "epochs": None})


def _check_names(named: Mapping[str, object], windows: WindowPools, where: str) -> None:
    unknown = sorted(set(named) - set(windows.source_names))
    if unknown:
        raise ConfigError(f"{where} names {unknown[0]!r}", expected=f"sources of the split: {windows.source_names}")


def build_order(config: RunConfig, windows: WindowPools, order_file: Path = Path()) -> Order:
    """Turn the settled phases of a config into an order over the windows of a split.

    It is an `order/1` unless a phase has a window length of its own or draws were made before it, and an `order/3`
    where a file gives it.

    Args:
        order_file: where the file that `data.order` pins lies; not looked at where it pins none.

    Raises:
        ConfigError: when a mixture names a source that the split lacks, draws before do not fit the phases, or a source
            would be read more often than `data.max_epochs` allows.
        DataError: when `data.order` numbers the windows of other shards, and as `open_order`.
    """
    stated = config.data.order
    order = _order_of(config, windows) if stated is None else _order_of_file(config, windows, stated, order_file)
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


def _order_of_file(config: RunConfig, windows: WindowPools, stated: OrderFile, path: Path) -> Order:
    if windows.tokens_digest != stated.tokens_digest:
        raise DataError(
            f"data.order numbers the windows of shards with the digest {stated.tokens_digest}",
            expected=f"{windows.tokens_digest}, that of split {windows.split!r}",
            where=str(path),
            next_command="train on the corpus that the order was made for, or make an order for this one",
        )
    return open_order(
        path,
        dtype=stated.dtype,
        sha256=stated.sha256,
        tokens_digest=windows.tokens_digest,
        seed=config.seed,
        sources=tuple(OrderSource(pool.name, pool.num_windows) for pool in windows.pools),
        shape=[(phase.num_steps, phase.sequences_per_step) for phase in config.phases],
    )


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
        if limit is not None and found > exact_epochs(limit):
            raise ConfigError(
                f"source {name!r} would be read {float(found):.2f} times over",
                expected=f"at most {limit:g} times, as data.max_epochs says",
                next_command="give it less weight or fewer epochs, train fewer steps, or raise data.max_epochs",
            )


def _build_phase(phase: PhaseConfig, window_tokens: int, windows: WindowPools, where: str) -> Phase:
    assert phase.epochs is None, "settle_phases comes first"
    own = [pool for pool in windows.pools if pool.window_tokens == window_tokens]
    if phase.mixture == "proportional":
        weights: Mapping[str, int] = {pool.name: pool.num_windows for pool in own}
    else:
        weights = phase.mixture
        _check_names(weights, windows, where)
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

"""`order/1` and `order/2` against the formats page, written out again here, and against frozen vectors."""

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.interleave import largest_remainder
from data_recipes.order import Draw, Order, OrderSource, Phase
from data_recipes.order_numpy import order_digests, permute_numpy, window_ids_numpy
from data_recipes.permutation import permute, permute_inverse, round_keys
from provenance.errors import DataError

VECTORS = json.loads((Path(__file__).parent / "order_vectors.json").read_text())
DIGEST = "ab" * 32
M = 2**64 - 1


# ---- the formats page, once more ------------------------------------------------------------------------------------


def page_keys(digest: str, seed: int, source: str, epoch: int, other_length: int | None = None) -> list[int]:
    data = b""
    for half in (0, 1):
        value = {"epoch": epoch, "half": half, "seed": seed, "source": source, "tokens_digest": digest}
        value |= {} if other_length is None else {"window_tokens": other_length}
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        tag = b"order/1" if other_length is None else b"order/2"
        data += hashlib.sha256(b"openwright:" + tag + b"\n" + text.encode()).digest()
    return [int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(8)]


def page_mix(z: int) -> int:
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 & M
    z ^= z >> 27
    z = z * 0x94D049BB133111EB & M
    return z ^ z >> 31


def page_permutation(keys: list[int], n: int, x: int) -> int:
    if n == 1:
        return 0
    h = ((n - 1).bit_length() + 1) // 2
    mask = 2**h - 1
    while True:
        left, right = x >> h, x & mask
        for key in keys:
            left, right = right, left ^ page_mix(right ^ key) & mask
        x = left << h | right
        if x < n:
            return x


def page_draws(order: Order) -> list[Draw]:
    """All draws of a small order by brute force: sort the ideal places of each phase."""
    seen = [source.draws_before for source in order.sources]
    draws = []
    for phase in order.phases:
        places = [(Fraction(2 * k + 1, 2 * count), m) for m, count in enumerate(phase.counts) for k in range(count)]
        for _, m in sorted(places):
            source = order.sources[m]
            epoch, place = divmod(seen[m], source.num_windows)
            other = None if source.window_tokens == order.window_tokens else source.window_tokens
            keys = page_keys(order.tokens_digest, order.seed, source.name, epoch, other)
            draws.append(Draw(m, epoch, page_permutation(keys, source.num_windows, place)))
            seen[m] += 1
    return draws


def steps_of(order: Order) -> range:
    return range(order.first_step, order.num_steps + 1)


@st.composite
def first_orders(draw: st.DrawFn) -> Order:
    """Orders in the form of `order/1`."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    sources = tuple(OrderSource(f"источник-{n}", size) for n, size in enumerate(sizes))
    phases = []
    for _ in range(draw(st.integers(1, 3))):
        steps, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
        weights = draw(st.lists(st.integers(0, 5), min_size=len(sizes), max_size=len(sizes)).filter(any))
        phases.append(Phase(steps, width, largest_remainder(steps * width, weights)))
    return Order(DIGEST, draw(st.integers(0, 2**53 - 1)), sources, tuple(phases))


@st.composite
def second_orders(draw: st.DrawFn) -> Order:
    """Orders in the form of `order/2`: pools of one or two lengths, begun at any step with any draws before it."""
    first_step = draw(st.integers(1, 4))
    before = st.integers(0, 20 if first_step > 1 else 0)
    lengths = draw(st.lists(st.sampled_from([8, 16, 32]), min_size=1, max_size=2, unique=True))
    names = [f"источник-{n}" for n in range(draw(st.integers(1, 3)))]
    pools = tuple(
        OrderSource(name, draw(st.integers(1, 9)), length, draw(before)) for length in lengths for name in names
    )
    phases = []
    for _ in range(draw(st.integers(1, 3))):
        steps, width, length = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.sampled_from(lengths))
        weights = draw(st.lists(st.integers(0, 5), min_size=len(names), max_size=len(names)).filter(any))
        spread = [weights[names.index(pool.name)] if pool.window_tokens == length else 0 for pool in pools]
        phases.append(Phase(steps, width, largest_remainder(steps * width, spread), length))
    usual = draw(st.sampled_from([*lengths, 64]))
    return Order(DIGEST, draw(st.integers(0, 2**53 - 1)), pools, tuple(phases), usual, first_step)


def orders() -> st.SearchStrategy[Order]:
    """Orders of both versions."""
    return first_orders() | second_orders()


# ---- permutations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(1, 80), 255, 256, 257, 1021, 12_345])
def test_permutation_is_a_bijection_with_an_inverse(size: int) -> None:
    keys = round_keys(DIGEST, 7, "a", 0)
    images = permute_numpy(keys, size, np.arange(size, dtype=np.uint64))
    assert sorted(images.tolist()) == list(range(size))
    for x in range(0, size, max(1, size // 50)):
        assert permute(keys, size, x) == int(images[x]) == page_permutation(list(keys), size, x)
        assert permute_inverse(keys, size, int(images[x])) == x


def test_a_million_places_are_permuted() -> None:
    size = 1_000_003
    images = permute_numpy(round_keys(DIGEST, 1, "b", 3), size, np.arange(size, dtype=np.uint64))
    assert np.array_equal(np.sort(images), np.arange(size, dtype=np.uint64))


def test_keys_follow_the_formats_page_and_depend_on_each_input() -> None:
    assert list(round_keys(DIGEST, 5, "поезд", 2)) == page_keys(DIGEST, 5, "поезд", 2)
    varied = {
        round_keys(*arguments)
        for arguments in [(DIGEST, 5, "a", 0), ("cd" * 32, 5, "a", 0), (DIGEST, 6, "a", 0), (DIGEST, 5, "b", 0)]
    } | {round_keys(DIGEST, 5, "a", 1)}
    assert len(varied) == 5


# ---- frozen vectors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["permutations"])
def test_frozen_permutations(vector: dict) -> None:
    keys = round_keys(vector["tokens_digest"], vector["seed"], vector["source"], vector["epoch"])
    assert [permute(keys, vector["size"], x) for x in vector["places"]] == vector["images"]


@pytest.mark.parametrize("vector", VECTORS["orders"])
def test_frozen_orders(vector: dict) -> None:
    order = Order.from_json(vector["order"])
    assert [order.window_ids(step) for step in steps_of(order)] == vector["window_ids"]
    assert [order.order_digest(step) for step in steps_of(order)] == vector["order_digests"]


# ---- orders ---------------------------------------------------------------------------------------------------------


@given(orders())
def test_every_draw_is_the_one_of_the_formats_page(order: Order) -> None:
    expected = page_draws(order)
    assert [order.draw_at(g) for g in range(order.num_sequences)] == expected
    flat = [draw for step in steps_of(order) for draw in order.step_draws(step)]
    assert flat == expected


@given(orders())
def test_mixtures_are_exact_and_even_and_epochs_follow_one_another(order: Order) -> None:
    drawn: dict[int, list[Draw]] = {m: [] for m in range(len(order.sources))}
    g = 0
    for phase in order.phases:
        start = [len(drawn[m]) for m in drawn]
        for slot in range(phase.num_sequences):
            draw = order.draw_at(g)
            drawn[draw.source].append(draw)
            g += 1
            for m, count in enumerate(phase.counts):
                ideal = Fraction((slot + 1) * count, phase.num_sequences)
                assert abs(len(drawn[m]) - start[m] - ideal) <= len(order.sources)
        assert [len(drawn[m]) - start[m] for m in drawn] == list(phase.counts)
    for m, draws in drawn.items():
        epochs: dict[int, list[int]] = {}
        for r, draw in enumerate(draws, start=order.sources[m].draws_before):
            assert draw.epoch == r // order.sources[m].num_windows
            epochs.setdefault(draw.epoch, []).append(draw.window)
        assert all(len(set(windows)) == len(windows) for windows in epochs.values())


@given(orders())
def test_the_inverse_names_a_step_for_every_epoch(order: Order) -> None:
    steps: dict[tuple[int, int], list[int]] = {}
    for step in steps_of(order):
        for draw in order.step_draws(step):
            steps.setdefault((draw.source, draw.window), []).append(step)
    for m, source in enumerate(order.sources):
        for window in range(source.num_windows):
            assert order.steps_that_read(m, window) == steps.get((m, window), [])


@given(orders())
def test_numpy_and_plain_python_agree(order: Order) -> None:
    ends = order.first_step, order.num_steps
    assert [array.tolist() for array in window_ids_numpy(order, *ends)] == [
        order.window_ids(s) for s in steps_of(order)
    ]
    assert order_digests(order, *ends) == [order.order_digest(s) for s in steps_of(order)]


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    sources = (OrderSource("a", 11), OrderSource("b", 5))
    flat = []
    for steps, width in ((24, 1), (6, 4), (2, 12)):
        order = Order(DIGEST, 3, sources, (Phase(steps, width, largest_remainder(24, [2, 1])),))
        flat.append([order.draw_at(g) for g in range(24)])
    assert flat[0] == flat[1] == flat[2]


@given(st.integers(0, 10**6), st.lists(st.integers(0, 10**6), min_size=1, max_size=8).filter(any))
def test_largest_remainder_is_exact(total: int, weights: list[int]) -> None:
    counts = largest_remainder(total, weights)
    assert sum(counts) == total
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - Fraction(total * weight, sum(weights))) < 1


@given(orders())
def test_an_order_goes_through_json(order: Order) -> None:
    assert Order.from_json(json.loads(json.dumps(order.as_json()))) == order


def test_a_malformed_order_is_refused() -> None:
    good = Order(DIGEST, 3, (OrderSource("a", 4),), (Phase(2, 2, (4,)),)).as_json()
    for key, value in (("version", "order/3"), ("version", "order/2"), ("phases", 5), ("sources", []), ("seed", "x")):
        with pytest.raises(DataError):
            Order.from_json({**good, key: value})


# ---- order/2: pools, and runs that begin later ----------------------------------------------------------------------


def test_pools_of_the_usual_length_have_the_keys_of_order_1_and_others_their_own() -> None:
    pools = (OrderSource("a", 9, 8), OrderSource("a", 9, 16))
    order = Order(DIGEST, 5, pools, (Phase(1, 2, (2, 0), 8),), window_tokens=8)
    assert order.epoch_keys(0, 2) == round_keys(DIGEST, 5, "a", 2)
    assert list(order.epoch_keys(1, 2)) == page_keys(DIGEST, 5, "a", 2, 16)
    assert order.epoch_keys(0, 2) != order.epoch_keys(1, 2)


@given(first_orders())
def test_order_1_written_as_order_2_reads_the_same(order: Order) -> None:
    pools = tuple(OrderSource(source.name, source.num_windows, 8) for source in order.sources)
    phases = tuple(Phase(p.num_steps, p.sequences_per_step, p.counts, 8) for p in order.phases)
    same = Order(order.tokens_digest, order.seed, pools, phases, window_tokens=8)
    assert [same.order_digest(step) for step in steps_of(same)] == [order.order_digest(s) for s in steps_of(order)]


@given(orders(), st.data())
def test_an_order_that_begins_later_reads_on_where_the_other_one_was_left(order: Order, data: st.DataObject) -> None:
    """With one source left out: every other one goes on with the draws that come next, whatever their places."""
    step = data.draw(st.integers(order.first_step - 1, order.num_steps))
    usual = order.window_tokens or 8
    pools = tuple(
        OrderSource(source.name, source.num_windows, source.window_tokens or usual, draws if step else 0)
        for source, draws in zip(order.sources, order.draws_until(step), strict=True)
    )
    left_out = data.draw(st.integers(0, len(pools) - 1)) if len(pools) > 1 else -1
    kept = data.draw(st.sampled_from([m for m in range(len(pools)) if m != left_out]))
    length = pools[kept].window_tokens
    counts = largest_remainder(14, [int(m != left_out and p.window_tokens == length) for m, p in enumerate(pools)])
    later = Order(DIGEST, order.seed, pools, (Phase(2, 7, counts, length),), usual, step + 1)
    before = [draw for s in range(order.first_step, step + 1) for draw in order.step_draws(s)]
    after = [draw for s in steps_of(later) for draw in later.step_draws(s)]
    assert left_out not in {draw.source for draw in after}
    for m, source in enumerate(order.sources):
        windows = [(draw.epoch, draw.window) for draw in (*before, *after) if draw.source == m]
        expected = Order(
            DIGEST,
            order.seed,
            (OrderSource(source.name, source.num_windows, pools[m].window_tokens, source.draws_before),),
            (Phase(max(1, len(windows)), 1, (max(1, len(windows)),), pools[m].window_tokens),),
            usual,
            order.first_step,
        )
        assert windows == [(d.epoch, d.window) for d in map(expected.draw_at, range(len(windows)))]


def test_steps_before_the_first_are_refused() -> None:
    order = Order(DIGEST, 5, (OrderSource("a", 4, 8, 3),), (Phase(2, 2, (4,), 8),), window_tokens=8, first_step=7)
    assert order.num_steps == 8
    assert order.draws_until(6) == [3]
    for step in (0, 6, 9):
        with pytest.raises(DataError, match=f"step {step}") as refused:
            order.step_draws(step)
        assert "a step from 7 to 8" in refused.value.expected


GOOD_2: dict[str, Any] = {
    "version": "order/2",
    "tokens_digest": DIGEST,
    "seed": 3,
    "window_tokens": 8,
    "first_step": 5,
    "sources": [
        {"name": "a", "num_windows": 4, "window_tokens": 8, "draws_before": 2},
        {"name": "a", "num_windows": 2, "window_tokens": 16, "draws_before": 0},
    ],
    "phases": [{"num_steps": 2, "sequences_per_step": 2, "window_tokens": 8, "counts": [4, 0]}],
}


@pytest.mark.parametrize(
    "change",
    [
        lambda order: order.update(version="order/1"),
        lambda order: order.update(first_step=0),
        lambda order: order.update(first_step=1),  # with draws before it
        lambda order: order.update(window_tokens=0),
        lambda order: order.pop("first_step"),
        lambda order: order["sources"][0].update(draws_before=-1),
        lambda order: order["sources"][0].pop("draws_before"),
        lambda order: order["sources"][1].update(window_tokens=8),  # the same pool twice
        lambda order: order["sources"][1].update(rounds=9),
        lambda order: order["phases"][0].update(window_tokens=16),  # draws from pools of another length
        lambda order: order["phases"][0].update(window_tokens="8"),
        lambda order: order["phases"][0].update(counts=[3, 1]),
    ],
)
def test_a_malformed_order_2_is_refused(change: Any) -> None:
    assert Order.from_json(GOOD_2).as_json() == GOOD_2
    bad = json.loads(json.dumps(GOOD_2))
    change(bad)
    with pytest.raises(DataError):
        Order.from_json(bad)

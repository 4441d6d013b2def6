"""`order/1` against the formats page, written out again here, and against frozen vectors."""

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.order import Draw, Order, OrderSource, Phase, largest_remainder, permute, permute_inverse, round_keys
from data_recipes.order_numpy import order_digests, permute_numpy, window_ids_numpy
from provenance.errors import DataError

VECTORS = json.loads((Path(__file__).parent / "order_vectors.json").read_text())
DIGEST = "ab" * 32
M = 2**64 - 1


# ---- the formats page, once more ------------------------------------------------------------------------------------


def page_keys(digest: str, seed: int, source: str, epoch: int) -> list[int]:
    data = b""
    for half in (0, 1):
        value = {"epoch": epoch, "half": half, "seed": seed, "source": source, "tokens_digest": digest}
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        data += hashlib.sha256(b"openwright:order/1\n" + text.encode()).digest()
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
    seen = [0] * len(order.sources)
    draws = []
    for phase in order.phases:
        places = [(Fraction(2 * k + 1, 2 * count), m) for m, count in enumerate(phase.counts) for k in range(count)]
        for _, m in sorted(places):
            epoch, place = divmod(seen[m], order.sources[m].num_windows)
            keys = page_keys(order.tokens_digest, order.seed, order.sources[m].name, epoch)
            draws.append(Draw(m, epoch, page_permutation(keys, order.sources[m].num_windows, place)))
            seen[m] += 1
    return draws


@st.composite
def orders(draw: st.DrawFn) -> Order:
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    sources = tuple(OrderSource(f"источник-{n}", size) for n, size in enumerate(sizes))
    phases = []
    for _ in range(draw(st.integers(1, 3))):
        steps, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
        weights = draw(st.lists(st.integers(0, 5), min_size=len(sizes), max_size=len(sizes)).filter(any))
        phases.append(Phase(steps, width, largest_remainder(steps * width, weights)))
    return Order(DIGEST, draw(st.integers(0, 2**53 - 1)), sources, tuple(phases))


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
    assert [order.window_ids(step) for step in range(1, order.num_steps + 1)] == vector["window_ids"]
    assert [order.order_digest(step) for step in range(1, order.num_steps + 1)] == vector["order_digests"]


# ---- orders ---------------------------------------------------------------------------------------------------------


@given(orders())
def test_every_draw_is_the_one_of_the_formats_page(order: Order) -> None:
    expected = page_draws(order)
    assert [order.draw_at(g) for g in range(order.num_sequences)] == expected
    flat = [draw for step in range(1, order.num_steps + 1) for draw in order.step_draws(step)]
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
        size = order.sources[m].num_windows
        for first in range(0, len(draws), size):
            epoch = draws[first : first + size]
            assert {draw.epoch for draw in epoch} == {first // size}
            assert len({draw.window for draw in epoch}) == len(epoch)


@given(orders())
def test_the_inverse_names_a_step_for_every_epoch(order: Order) -> None:
    steps: dict[tuple[int, int], list[int]] = {}
    for step in range(1, order.num_steps + 1):
        for draw in order.step_draws(step):
            steps.setdefault((draw.source, draw.window), []).append(step)
    for m, source in enumerate(order.sources):
        for window in range(source.num_windows):
            assert order.steps_that_read(m, window) == steps.get((m, window), [])


@given(orders())
def test_numpy_and_plain_python_agree(order: Order) -> None:
    arrays = window_ids_numpy(order, 1, order.num_steps)
    assert [array.tolist() for array in arrays] == [order.window_ids(s) for s in range(1, order.num_steps + 1)]
    assert order_digests(order, 1, order.num_steps) == [order.order_digest(s) for s in range(1, order.num_steps + 1)]


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
    for key, value in (("version", "order/2"), ("phases", 5), ("sources", []), ("seed", "x")):
        with pytest.raises(DataError):
            Order.from_json({**good, key: value})

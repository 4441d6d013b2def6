import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.intervals import bootstrap_draws, ratio_interval, splitmix64, wilson_interval


@pytest.mark.parametrize(
    ("num_correct", "num_items", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 200, 0.1951, 0.3143)],
)
def test_wilson_matches_published_values(num_correct: int, num_items: int, low: float, high: float) -> None:
    interval = wilson_interval(num_correct, num_items)
    assert interval.low == pytest.approx(low, abs=1e-4)
    assert interval.high == pytest.approx(high, abs=1e-4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_proportion_and_mirrors(case: tuple[int, int]) -> None:
    num_correct, num_items = case
    interval = wilson_interval(num_correct, num_items)
    mirrored = wilson_interval(num_items - num_correct, num_items)
    assert interval.low - 1e-12 <= num_correct / num_items <= interval.high + 1e-12
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)


def test_splitmix64_gives_its_published_stream() -> None:
    assert [splitmix64(0, n) for n in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(1234567, 0) == 6457827717110365317


def test_bootstrap_is_the_same_every_time_and_differs_by_seed() -> None:
    values, sizes = [3.0, 1.5, 8.25, 2.0, 0.5], [2, 1, 4, 3, 1]
    first = ratio_interval(values, sizes, 500, seed=7)
    assert first == ratio_interval(values, sizes, 500, seed=7)
    assert first != ratio_interval(values, sizes, 500, seed=8)
    assert (first.low.hex(), first.high.hex()) == ("0x1.71c71c71c71c7p-1", "0x1.e924924924925p+0")  # frozen


def test_draws_are_uniform_over_the_items() -> None:
    counts = [0] * 7
    for draw in bootstrap_draws(7, 2000, seed=1):
        for index in draw:
            counts[index] += 1
    assert max(counts) - min(counts) < 300  # 2,000 expected of each, standard deviation 41


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), min_size=1, max_size=20), st.integers(0, 2**40))
def test_interval_lies_among_the_items(items: list[tuple[float, int]], seed: int) -> None:
    values, sizes = [value for value, _ in items], [size for _, size in items]
    interval = ratio_interval(values, sizes, 100, seed)
    ratios = [value / size for value, size in items]
    assert min(ratios) - 1e-9 <= interval.low <= interval.high <= max(ratios) + 1e-9

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from provenance.errors import TrainingError
from train.reduction import TreeSum, World, exact_norm, own_replicas

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**40), max_value=2.0**40)


def tree_of(values: list[torch.Tensor]) -> torch.Tensor:
    """The same tree, written independently: pairs, then pairs of pairs."""
    while len(values) > 1:
        values = [left + right for left, right in zip(values[::2], values[1::2], strict=True)]
    return values[0]


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_counter_is_the_tree_whatever_the_split(count: int) -> None:
    parts = [torch.randn(101, generator=torch.Generator().manual_seed(n)) * 10.0 ** (n % 5) for n in range(count)]
    expected = tree_of(parts)
    for world_size in (1, 2, 4, 8, 16):
        if world_size > count:
            continue
        upper = TreeSum()
        for rank in range(world_size):
            lower = TreeSum()
            for replica in own_replicas(World(rank, world_size), count):
                lower.push([parts[replica].clone()])
            upper.push(lower.total())
        assert torch.equal(upper.total()[0], expected)


def test_a_left_fold_is_seen_to_differ() -> None:
    parts = [torch.randn(10_001, generator=torch.Generator().manual_seed(n)) for n in range(8)]
    assert not torch.equal(sum(parts[1:], parts[0]), tree_of(parts))


@given(st.lists(FINITE, min_size=1, max_size=50))
def test_norm_is_the_exact_sum_rounded(values: list[float]) -> None:
    found = exact_norm([torch.tensor(values, dtype=torch.float32)], World())
    total = sum(Fraction(value) ** 2 for value in values)
    assert found == pytest.approx(math.sqrt(total), rel=1e-8, abs=0)


@given(st.lists(FINITE, min_size=2, max_size=60), st.randoms())
def test_norm_does_not_depend_on_order_or_cuts(values: list[float], draw: "object") -> None:
    whole = exact_norm([torch.tensor(values, dtype=torch.float32)], World())
    draw.shuffle(values)  # type: ignore[attr-defined]
    cut = len(values) // 3
    shards = [torch.tensor(values[:cut]), torch.tensor(values[cut:])]
    assert exact_norm(shards, World()).hex() == whole.hex()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_norm_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(TrainingError, match="not a number"):
        exact_norm([torch.tensor([1.0, bad, 2.0])], World())


def test_world_sizes_that_break_the_tree_are_refused() -> None:
    for size in (3, 6, 16):
        with pytest.raises(TrainingError, match="power of two"):
            own_replicas(World(0, size), 8)

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from provenance.errors import TrainingError
from train.layout import Layout, World
from train.reduction import TreeSum, exact_norm, own_replicas, tree_sum

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
            for replica in own_replicas(Layout(World(rank, world_size)), count):
                lower.push([parts[replica].clone()])
            upper.push(lower.total())
        assert torch.equal(upper.total()[0], expected)


@pytest.mark.parametrize(("world_size", "shard_size"), [(2, 2), (4, 2), (4, 4), (8, 2), (8, 8)])
@pytest.mark.parametrize("count", [8, 16])
def test_sharded_rows_add_up_to_the_same_tree(count: int, world_size: int, shard_size: int) -> None:
    """Pass j of a row meets in the reduce-scatter; the passes meet in the counter; the rows meet last."""
    parts = [torch.randn(101, generator=torch.Generator().manual_seed(n)) * 10.0 ** (n % 5) for n in range(count)]
    rows = []
    for row in range(world_size // shard_size):
        ranks = range(row * shard_size, (row + 1) * shard_size)
        passes = [own_replicas(Layout(World(rank, world_size), shard_size), count) for rank in ranks]
        counter = TreeSum()
        for replicas in zip(*passes, strict=True):
            counter.push([tree_of([parts[replica] for replica in replicas]).clone()])
        rows.append(counter.total()[0])
    assert torch.equal(tree_of(rows), tree_of(parts))


def test_replicas_are_shared_out_whole_and_once() -> None:
    for world_size, shard_size in ((1, 1), (2, 1), (4, 2), (8, 8)):
        shares = [own_replicas(Layout(World(rank, world_size), shard_size), 16) for rank in range(world_size)]
        assert sorted(replica for share in shares for replica in share) == list(range(16))
    with pytest.raises(TrainingError, match="3 processes"):
        own_replicas(Layout(World(0, 3)), 8)
    with pytest.raises(TrainingError, match="16 processes"):
        own_replicas(Layout(World(0, 16)), 8)


def test_losses_are_added_in_the_tree() -> None:
    values = [0.1 * n for n in range(8)]
    assert tree_sum(values) == float(tree_of([torch.tensor(v, dtype=torch.float64) for v in values]))


def test_a_left_fold_is_seen_to_differ() -> None:
    parts = [torch.randn(10_001, generator=torch.Generator().manual_seed(n)) for n in range(8)]
    assert not torch.equal(sum(parts[1:], parts[0]), tree_of(parts))


@given(st.lists(FINITE, min_size=1, max_size=50))
def test_norm_is_the_exact_sum_rounded(values: list[float]) -> None:
    found = exact_norm([torch.tensor(values, dtype=torch.float32)], World())
    total = sum(Fraction(value) ** 2 for value in values)
    assert found == pytest.approx(math.sqrt(total), rel=1e-8, abs=0)


def test_norm_of_many_large_elements_is_exact() -> None:
    """Their squares add up beyond 64 bits."""
    values_N = torch.full((2**16,), 1.0 - 2.0**-24)
    assert exact_norm([values_N, values_N[:0], 2.0**-140 * values_N], World()) == 2.0**8 * (1.0 - 2.0**-24)


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

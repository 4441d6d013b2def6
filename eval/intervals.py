"""95% intervals: Wilson for accuracies, a bootstrap over whole documents for bits per byte.

Everything here gives the same bits on every machine: integers, correctly rounded sums (`math.fsum`), division and
square root. The bootstrap draws come from a counter-based generator of our own, never from a library's stream.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""Two-sided 95% point of the normal distribution."""

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Interval:
    """A 95% interval."""

    low: float
    high: float


def splitmix64(seed: int, counter: int) -> int:
    """Return output number `counter` (from 0) of the splitmix64 stream of `seed`, as an unsigned 64-bit integer."""
    z = (seed + (counter + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def wilson_interval(num_correct: int, num_items: int) -> Interval:
    """Wilson's 95% score interval of a proportion."""
    assert num_items > 0
    assert 0 <= num_correct <= num_items
    proportion = num_correct / num_items
    z2 = Z_95 * Z_95
    centre = proportion + z2 / (2 * num_items)
    spread = Z_95 * math.sqrt((proportion * (1 - proportion) + z2 / (4 * num_items)) / num_items)
    scale = 1 + z2 / num_items
    return Interval(max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def bootstrap_draws(num_items: int, num_resamples: int, seed: int) -> list[list[int]]:
    """Indices of each resample: `num_items` draws with replacement from `range(num_items)`."""
    return [
        [splitmix64(seed, resample * num_items + i) * num_items >> 64 for i in range(num_items)]
        for resample in range(num_resamples)
    ]


def ratio_interval(numerators: Sequence[float], denominators: Sequence[int], num_resamples: int, seed: int) -> Interval:
    """Percentile bootstrap interval of `sum(numerators) / sum(denominators)` over paired items.

    Args:
        numerators: one value per item, such as the bits of a document.
        denominators: one positive integer per item, such as its bytes.
    """
    assert len(numerators) == len(denominators) > 0
    ratios = sorted(
        math.fsum(numerators[i] for i in draw) / sum(denominators[i] for i in draw)
        for draw in bootstrap_draws(len(numerators), num_resamples, seed)
    )
    tail = num_resamples * 25 // 1000
    return Interval(ratios[tail], ratios[num_resamples - 1 - tail])

"""How the draws of a phase are shared out over sources and interleaved: exact counts, evenly spread, integers only."""

from collections.abc import Sequence

from provenance.errors import DataError


def largest_remainder(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Split `total` in proportion to integer weights, exactly; ties go to the earlier weight.

    Raises:
        DataError: when the total or a weight is negative, or no weight is positive.
    """
    weight_sum = sum(weights)
    if total < 0 or min(weights, default=0) < 0 or weight_sum <= 0:
        raise DataError(f"total {total} over weights {list(weights)}", expected="weights >= 0, at least one positive")
    shares = [divmod(total * weight, weight_sum) for weight in weights]
    counts = [whole for whole, _ in shares]
    by_remainder = sorted(range(len(weights)), key=lambda index: (-shares[index][1], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return tuple(counts)


def slot_of_draw(counts: Sequence[int], source: int, draw: int) -> int:
    """Slot within a phase of the `draw`-th draw (from 0) of a source: its rank by (ideal place, source)."""
    odd = 2 * draw + 1
    slot = 0
    for other, count in enumerate(counts):
        if other == source:
            slot += draw
        elif count:
            # How many odd numbers o have o / (2 count) before odd / (2 counts[source]); equal places go to the
            # earlier source.
            limit = odd * count
            quotient = limit // counts[source] if other < source else (limit - 1) // counts[source]
            slot += (quotient + 1) // 2
    return slot


def draws_before_slot(counts: Sequence[int], slot: int) -> list[int]:
    """How many draws of each source lie in the first `slot` slots of a phase."""
    total = sum(counts)
    # Draws with an ideal place before slot/total are a prefix of the phase that misses `slot` by less than the
    # number of sources; the rest is walked.
    drawn = [((2 * count * slot - 1) // total + 1) // 2 if count and slot else 0 for count in counts]
    while sum(drawn) < slot:
        drawn[next_source(counts, drawn)] += 1
    while sum(drawn) > slot:
        last = max(
            (index for index, done in enumerate(drawn) if done),
            key=lambda index: slot_of_draw(counts, index, drawn[index] - 1),
        )
        drawn[last] -= 1
    return drawn


def next_source(counts: Sequence[int], drawn: Sequence[int]) -> int:
    """The source whose next draw has the earliest ideal place; the earlier source where places are equal."""
    best = -1
    for index, count in enumerate(counts):
        if drawn[index] == count:
            continue
        if best < 0 or (2 * drawn[index] + 1) * counts[best] < (2 * drawn[best] + 1) * count:
            best = index
    return best

"""The order of every step of every stage, by a second implementation than that of `verify.py`, and without a sample."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_recipes.order_file import ORDER_FILE, FileOrder, read_order
from data_recipes.order_numpy import order_digests
from release.facts import LedgerFacts

_BLOCK_STEPS = 4096
_DIGEST_BYTES = 32


def compare_order(ledger: LedgerFacts, folder: Path) -> tuple[int, str | None]:
    """Recompute the order of all steps that a ledger records, block by block.

    Args:
        ledger: what it says.
        folder: directory of the stage's records; under `order/3` the file of the order is in it.

    Returns:
        How many steps the ledger records, and the first thing that is wrong.
    """
    order = read_order(ledger.start["order"], folder)
    giver = ORDER_FILE if isinstance(order, FileOrder) else "the seed"
    steps = [step for step, _ in ledger.losses]
    for begin, end in _stretches(steps):
        computed = order_digests(order, steps[begin], steps[end - 1])
        for place, digest in enumerate(computed, start=begin):
            if digest != ledger.order_digests[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES].hex():
                return place, f"step {steps[place]} of {folder.name} has another order than {giver} gives"
    num_due = order.num_steps - ledger.first_step - sum(last - first + 1 for first, last in ledger.skipped)
    if len(steps) != num_due:
        return len(steps), f"{folder.name} records {len(steps)} of {num_due} steps"
    return len(steps), None


def _stretches(steps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Places of neighbouring steps, from the first to before the second, no more than a block of them."""
    begin = 0
    for place in range(1, len(steps) + 1):
        if place == len(steps) or steps[place] != steps[place - 1] + 1 or place - begin == _BLOCK_STEPS:
            yield begin, place
            begin = place

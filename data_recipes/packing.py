"""Best-fit packing: which pieces share a row, so that little of it is padding."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put pieces into rows: longest first, each into the fullest row that it fits into.

    Args:
        lengths: length of each piece, at most `capacity`. Of equal lengths the earlier one comes first.
        capacity: length of a row.

    Returns:
        Numbers of the pieces of each row, in the order in which they were put there.
    """
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # space that is left, number of the row; sorted
    for piece in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        place = bisect_left(open_rows, (lengths[piece], 0))
        if place < len(open_rows):
            space, row = open_rows.pop(place)
        else:
            space, row = capacity, len(rows)
            rows.append([])
        rows[row].append(piece)
        if space > lengths[piece]:
            insort(open_rows, (space - lengths[piece], row))
    return rows

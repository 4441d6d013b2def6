"""Rows of labelled sequences: one each, or several by best fit, so that little of a row is padding."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_recipes.chat_settings import Packing


@dataclass(frozen=True)
class Labelled:
    """A sequence with its labels: 1 where the token is a trained target; `is_cut` where its end was left out."""

    ids: list[int]
    labels: list[int]
    is_cut: bool = False


@dataclass(frozen=True)
class RowShape:
    """Width of a row in tokens, and the tokens that fill it up and that end a sequence."""

    width: int
    pad_id: int
    eos_id: int


def group(sequences: Sequence[tuple[str, Labelled]], width: int, packing: Packing) -> list[list[int]]:
    """Numbers of the sequences of each row.

    Args:
        sequences: source and sequence; a row holds sequences of one source.
        width: tokens of a row; no sequence has more.
    """
    if packing == "none":
        return [[number] for number in range(len(sequences))]
    rows = []
    for source in sorted({name for name, _ in sequences}):
        numbers = [number for number, (name, _) in enumerate(sequences) if name == source]
        # One token more, to end with; a sequence that fills a row needs none.
        lengths = [min(len(sequences[number][1].ids) + 1, width) for number in numbers]
        rows += [[numbers[place] for place in row] for row in best_fit(lengths, width)]
    return rows


def join(
    parts: Sequence[Labelled], shape: RowShape, packing: Packing
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Ids and labels of a row: sequences one after another, then padding.

    Args:
        packing: unless it is `none`, each sequence is ended by the end-of-text token where there is room for it.
    """
    ids: list[int] = []
    labels: list[int] = []
    for part in parts:
        ids += part.ids
        labels += part.labels
        if packing != "none" and len(ids) < shape.width:
            ids.append(shape.eos_id)
            labels.append(0)
    padding = shape.width - len(ids)
    return np.array(ids + [shape.pad_id] * padding, np.int64), np.array(labels + [0] * padding, np.uint8)


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

"""Exact de-duplication by the digest of the normalised text, over columns of digests."""

from typing import Any

import numpy as np
import numpy.typing as npt

Digests = npt.NDArray[np.uint64]
"""[n, 4]: sha256 digests as four big-endian words, so that they sort as their hexadecimal digits do."""
Rows = npt.NDArray[np.int64]

WORDS = 4


def digests_of(hexadecimal: bytes) -> Digests:
    """Return the digests whose 64 hexadecimal digits stand one after the other."""
    return np.frombuffer(bytes.fromhex(hexadecimal.decode("ascii")), dtype=">u8").astype(np.uint64).reshape(-1, WORDS)


def hexadecimal_of(digest: npt.NDArray[Any]) -> str:
    """Return the 64 hexadecimal digits of one digest."""
    return digest.astype(">u8").tobytes().hex()


def sorted_rows(digests: Digests) -> Rows:
    """Return the order in which digests are sorted; equal ones stay in their order."""
    return np.lexsort(tuple(digests[:, word] for word in reversed(range(WORDS))))


def first_equal(digests: Digests, order: Rows) -> int:
    """Return the place in a sorted order of the first digest that the next one equals, or -1."""
    equal = np.all(digests[order[1:]] == digests[order[:-1]], axis=1)
    return int(np.argmax(equal)) if equal.any() else -1


def kept_rows(texts: Digests, precedence: npt.NDArray[Any]) -> Rows:
    """Return for each document the row of the one that stays in its place, itself where its text is the first.

    The one of the smallest precedence stays; else the first row.

    Args:
        texts: digests of the normalised texts, rows in document id order.
        precedence: such that no held-out text is trained on: held-out documents before those that are trained on.
    """
    order = np.lexsort((precedence, *(texts[:, word] for word in reversed(range(WORDS)))))
    ordered = texts[order]
    begins = np.ones(len(order), dtype=np.bool_)
    begins[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    firsts = order[np.flatnonzero(begins)]
    kept = np.empty(len(order), dtype=np.int64)
    kept[order] = firsts[np.cumsum(begins) - 1]
    return kept

"""Keyed permutations of 0 .. n-1 in integers only: a Feistel network with cycle walking, and its round keys.

`docs/formats.md` specifies both under `order/1` and `order/2`.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from provenance.canonical import Json, canonical_json

NUM_ROUNDS = 8
MASK_64 = 2**64 - 1
MIX_FACTOR_1 = 0xBF58476D1CE4E5B9
MIX_FACTOR_2 = 0x94D049BB133111EB


@lru_cache(maxsize=4096)
def round_keys(
    tokens_digest: str, seed: int, source: str, epoch: int, window_tokens: int | None = None
) -> tuple[int, ...]:
    """The eight round keys (u64) of one epoch of one source.

    Args:
        window_tokens: window length of a pool of `order/2` that has keys of its own; None for the keys of `order/1`.
    """
    construction, data = "order/1", b""
    for half in (0, 1):
        value: dict[str, Json] = {"tokens_digest": tokens_digest, "seed": seed, "source": source, "epoch": epoch}
        if window_tokens is not None:
            construction, value["window_tokens"] = "order/2", window_tokens
        value["half"] = half
        data += hashlib.sha256(f"openwright:{construction}\n".encode() + canonical_json(value)).digest()
    return tuple(int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(NUM_ROUNDS))


def half_bits(size: int) -> int:
    """Bits of each half of the Feistel network that permutes 0 .. size-1."""
    return ((size - 1).bit_length() + 1) // 2


def permute(keys: Sequence[int], size: int, x: int) -> int:
    """Image of `x` under the keyed permutation of 0 .. size-1 (Feistel rounds with cycle walking)."""
    if size == 1:
        return 0
    half = half_bits(size)
    mask = (1 << half) - 1
    while True:
        left, right = x >> half, x & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        x = (left << half) | right
        if x < size:
            return x


def permute_inverse(keys: Sequence[int], size: int, x: int) -> int:
    """The place that `permute` maps to `x`."""
    if size == 1:
        return 0
    half = half_bits(size)
    mask = (1 << half) - 1
    while True:
        left, right = x >> half, x & mask
        for key in reversed(keys):
            left, right = right ^ (_mix(left ^ key) & mask), left
        x = (left << half) | right
        if x < size:
            return x


def _mix(z: int) -> int:
    z ^= z >> 30
    z = (z * MIX_FACTOR_1) & MASK_64
    z ^= z >> 27
    z = (z * MIX_FACTOR_2) & MASK_64
    return z ^ (z >> 31)

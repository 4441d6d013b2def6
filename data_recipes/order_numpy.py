"""The data order vectorised with numpy: the fast path for recomputing millions of steps.

It gives exactly what `data_recipes.order` gives. Where a product of ideal places would not fit in 64 bits (phases of
more than about 2^31 sequences) it uses the plain implementation, which is slower and has no such limit.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from data_recipes.order import Order
from data_recipes.order_file import FileOrder
from data_recipes.permutation import MIX_FACTOR_1, MIX_FACTOR_2, half_bits

U64Array = npt.NDArray[np.uint64]

_BLOCK_SEQUENCES = 1 << 18
_PRODUCT_LIMIT = 2**62


def window_ids_numpy(order: Order, first_step: int, last_step: int) -> list[U64Array]:
    """Window ids of steps `first_step` .. `last_step` (both included), one array in slot order for each step."""
    if isinstance(order, FileOrder):
        return [order.numbers_of(step) for step in range(first_step, last_step + 1)]
    ids: list[U64Array] = []
    for phase, block_first, block_last in _blocks(order, first_step, last_step):
        width = order.phases[phase].sequences_per_step
        if fits_in_64_bits(order, phase):
            flat = _block_ids(order, phase, block_first, block_last)
            ids.extend(flat.reshape(-1, width))
        else:
            ids.extend(np.array(order.window_ids(step), np.uint64) for step in range(block_first, block_last + 1))
    return ids


def order_digests(order: Order, first_step: int, last_step: int) -> list[str]:
    """`order_digest` of steps `first_step` .. `last_step`, both included."""
    arrays = window_ids_numpy(order, first_step, last_step)
    return [hashlib.sha256(array.astype("<u8").tobytes()).hexdigest() for array in arrays]


def fits_in_64_bits(order: Order, phase: int) -> bool:
    """Whether every product that the interleaving of a phase forms fits in a signed 64-bit integer."""
    largest = max(order.phases[phase].counts)
    return (2 * largest + 1) * largest < _PRODUCT_LIMIT


def permute_numpy(keys: tuple[int, ...], size: int, places: U64Array) -> U64Array:
    """Images of `places` under the keyed permutation of 0 .. size-1."""
    if size == 1:
        return np.zeros_like(places)
    half = np.uint64(half_bits(size))
    mask = np.uint64((1 << half_bits(size)) - 1)
    result = places.copy()
    walking = np.arange(len(places))
    while len(walking):
        x = result[walking]
        left, right = x >> half, x & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ np.uint64(key)) & mask)
        x = (left << half) | right
        result[walking] = x
        walking = walking[x >= np.uint64(size)]
    return result


def _mix(z: U64Array) -> U64Array:
    z = z ^ (z >> np.uint64(30))
    z = z * np.uint64(MIX_FACTOR_1)
    z = z ^ (z >> np.uint64(27))
    z = z * np.uint64(MIX_FACTOR_2)
    return z ^ (z >> np.uint64(31))


def _blocks(order: Order, first_step: int, last_step: int) -> Iterator[tuple[int, int, int]]:
    """Cut a range of steps at phases and into blocks of bounded size: (phase, first step, last step)."""
    order.locate_step(first_step)
    order.locate_step(last_step)
    step = first_step
    while step <= last_step:
        phase, slot = order.locate_step(step)
        width = order.phases[phase].sequences_per_step
        steps_left = order.phases[phase].num_steps - slot // width
        num_steps = min(steps_left, last_step - step + 1, max(1, _BLOCK_SEQUENCES // width))
        yield phase, step, step + num_steps - 1
        step += num_steps


def _block_ids(order: Order, phase: int, first_step: int, last_step: int) -> U64Array:
    """Window ids of some steps of one phase, flat, in slot order."""
    counts = order.phases[phase].counts
    _, first_slot = order.locate_step(first_step)
    num_slots = (last_step - first_step + 1) * order.phases[phase].sequences_per_step
    before_phase = order.first_draws(phase, 0)
    begins, ends = order.first_draws(phase, first_slot), order.first_draws(phase, first_slot + num_slots)
    ids = np.empty(num_slots, np.uint64)
    for source, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin == end:
            continue
        draws = np.arange(begin - before_phase[source], end - before_phase[source], dtype=np.int64)
        slots = _slots_of_draws(counts, source, draws) - first_slot
        ids[slots] = _windows(order, source, begin, end) + np.uint64(order.window_offsets[source])
    return ids


def _slots_of_draws(counts: tuple[int, ...], source: int, draws: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    odd = 2 * draws + 1
    slots = draws.copy()
    for other, count in enumerate(counts):
        if other != source and count:
            limit = odd * count if other < source else odd * count - 1
            slots += (limit // counts[source] + 1) // 2
    return slots


def _windows(order: Order, source: int, begin: int, end: int) -> U64Array:
    """Windows of draws `begin` .. `end`-1 of a source, counted over the whole run, epoch by epoch."""
    size = order.sources[source].num_windows
    parts = []
    while begin < end:
        epoch, place = divmod(begin, size)
        stop = min(end, (epoch + 1) * size)
        places = np.arange(place, place + stop - begin, dtype=np.uint64)
        parts.append(permute_numpy(order.epoch_keys(source, epoch), size, places))
        begin = stop
    return np.concatenate(parts)

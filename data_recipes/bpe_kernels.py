"""Byte-level BPE, compiled: cutting UTF-8 text into words as two common patterns do, and merging the bytes of a word.

A word that was merged before is found in a table, so that a text costs little more than reading it. Everything here
works on bytes and arrays; `data_recipes/tokenizer_engine.py` prepares them and says when the result may be trusted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from data_recipes.text_kernels import compiled

OTHER, LETTER, NUMBER, SPACE = 0, 1, 2, 3
"""Classes of code points; SPACE is what `\\s` matches."""

GPT2, CL100K = 0, 1
"""Patterns that cut a text into words."""

_FNV_SEED = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_PAIR_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(32)
_QUOTE, _BLANK, _NEWLINE, _RETURN = 0x27, 0x20, 0x0A, 0x0D
_LONG_S = 0x17F  # folds to s where a pattern ignores case

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _inlined(function: _Function) -> _Function:
    """Compile a function into each of its callers: arrays are then passed without counting references."""
    return cast(_Function, numba.njit(inline="always", error_model="numpy")(function))


class Rules(NamedTuple):
    """A tokenizer, as arrays.

    Attributes:
        pattern: GPT2 or CL100K.
        max_digits: longest run of numbers in one word, for CL100K.
        classes: u8 [0x110000]: class of each code point.
        byte_ids: i32 [256]: token of each byte.
        pair_keys: i64 [power of two]: left << 32 | right of each merge, -1 where free.
        pair_ranks: i32, same shape: rank of the merge.
        pair_ids: i32, same shape: token that it makes.
        max_word_bytes: longer words are left to the caller.
    """

    pattern: int
    max_digits: int
    classes: npt.NDArray[np.uint8]
    byte_ids: npt.NDArray[np.int32]
    pair_keys: npt.NDArray[np.int64]
    pair_ranks: npt.NDArray[np.int32]
    pair_ids: npt.NDArray[np.int32]
    max_word_bytes: int


class Words(NamedTuple):
    """Words merged before, in an open table; when it is full, further words are merged each time.

    Attributes:
        hashes: u64 [power of two]; 0 where free.
        places: i64 [power of two, 4]: where the word begins in `text`, its bytes, where its tokens begin in `ids`, how
            many they are.
        text: u8: bytes of all words.
        ids: i32: tokens of all words.
        used: i64 [3]: words, bytes of `text` and tokens of `ids` in use.
    """

    hashes: npt.NDArray[np.uint64]
    places: npt.NDArray[np.int64]
    text: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int32]
    used: npt.NDArray[np.int64]


@compiled
def encode_pieces(
    data: Any, starts: Any, rules: Rules, words: Words, tokens: Any, ends: Any, symbols: Any, slots: Any
) -> None:
    """Encode pieces of text one after another.

    Args:
        data: u8: UTF-8 bytes of all pieces.
        starts: i64 [N+1]: where each piece begins; the end of the last.
        tokens: i32 [at least len(data)]: takes the tokens of all pieces.
        ends: i64 [N]: takes where the tokens of each piece end; negative where a word was too long, and then the piece
            has no tokens here and the number is -1 - (where they would begin).
        symbols: i32 [max_word_bytes + 1], scratch.
        slots: i32 [max_word_bytes + 1], scratch.
    """
    # Arrays in variables of their own: taking them from a tuple for every word costs more than the word.
    classes, byte_ids, pair_keys, pair_ranks, pair_ids = (
        *(rules.classes, rules.byte_ids),
        *(rules.pair_keys, rules.pair_ranks, rules.pair_ids),
    )
    hashes, places, text, ids, used = words.hashes, words.places, words.text, words.ids, words.used
    end = 0
    for piece in range(len(starts) - 1):
        begin = end
        place, stop = starts[piece], starts[piece + 1]
        is_whole = True
        while place < stop:
            if rules.pattern == GPT2:
                past = _gpt2_end(data, place, stop, classes)
            else:
                past = _cl100k_end(data, place, stop, classes, rules.max_digits)
            if past - place > rules.max_word_bytes:
                is_whole = False
                break
            hashed = _hash(data, place, past)
            slot, is_known = _find_word(data, place, past, hashed, hashes, places, text)
            if is_known:
                first, num_ids = places[slot, 2], places[slot, 3]
                for number in range(num_ids):
                    tokens[end + number] = ids[first + number]
            else:
                num_ids = _merge(data, place, past - place, byte_ids, pair_keys, pair_ranks, pair_ids, symbols, slots)
                for number in range(num_ids):
                    tokens[end + number] = symbols[number]
                _keep_word(data, place, past - place, slot, hashed, symbols, num_ids, hashes, places, text, ids, used)
            end += num_ids
            place = past
        if not is_whole:
            end = begin
        ends[piece] = end if is_whole else -1 - end


@compiled
def fill_pairs(found: Any, values: Any, keys: Any, ranks: Any, ids: Any) -> None:
    """Enter merges into the table of `Rules`.

    Args:
        found: i64 [M]: left << 32 | right, each once.
        values: i32 [M, 2]: rank, and the token that the merge makes.
        keys: i64 [power of two, more than M], all -1; `ranks` and `ids` are of the same shape.
    """
    mask = np.uint64(len(keys) - 1)
    for number in range(len(found)):
        slot = (np.uint64(found[number]) * _PAIR_FACTOR) >> _SHIFT & mask
        while keys[slot] != -1:
            slot = (slot + np.uint64(1)) & mask
        keys[slot], ranks[slot], ids[slot] = found[number], values[number, 0], values[number, 1]


@compiled
def keep_whole_word(word: Any, number: int, words: Words) -> None:
    """Enter a word that is one token."""
    hashed = _hash(word, 0, len(word))
    slot, is_known = _find_word(word, 0, len(word), hashed, words.hashes, words.places, words.text)
    if not is_known:
        one = np.array([number], np.int32)
        _keep_word(
            word, 0, len(word), slot, hashed, one, 1, words.hashes, words.places, words.text, words.ids, words.used
        )


@_inlined
def _code_point(data: Any, place: int) -> tuple[int, int]:
    """The code point at a place of valid UTF-8, and the place after it."""
    first = int(data[place])
    if first < 0x80:
        return first, place + 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | int(data[place + 1]) & 0x3F, place + 2
    if first < 0xF0:
        middle = (first & 0x0F) << 12 | (int(data[place + 1]) & 0x3F) << 6
        return middle | int(data[place + 2]) & 0x3F, place + 3
    middle = (first & 0x07) << 18 | (int(data[place + 1]) & 0x3F) << 12 | (int(data[place + 2]) & 0x3F) << 6
    return middle | int(data[place + 3]) & 0x3F, place + 4


@_inlined
def _run_end(data: Any, place: int, stop: int, classes: Any, kind: int) -> int:
    """Where the code points of one class that begin here end."""
    while place < stop:
        code, following = _code_point(data, place)
        if classes[code] != kind:
            break
        place = following
    return place


@_inlined
def _space_end(data: Any, place: int, stop: int, classes: Any) -> int:
    """Where `\\s+(?!\\S)|\\s+` ends: before the last space of a run that something follows."""
    last = place
    end = place
    while end < stop:
        code, following = _code_point(data, end)
        if classes[code] != SPACE:
            break
        last = end
        end = following
    return last if end < stop and last > place else end


@_inlined
def _contraction_end(data: Any, place: int, stop: int, ignores_case: bool) -> int:
    """Where 's 't 're 've 'm 'll 'd ends, at an apostrophe; the place itself where none begins here."""
    if place + 1 >= stop:
        return place
    first, following = _code_point(data, place + 1)
    second = int(data[following]) if following < stop else 0
    if ignores_case:
        if first == _LONG_S:
            return following
        first, second = first | 0x20, second | 0x20
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:
        return following
    if ((first == 0x72 or first == 0x76) and second == 0x65) or (first == 0x6C and second == 0x6C):
        return following + 1
    return place


@compiled
def _gpt2_end(data: Any, place: int, stop: int, classes: Any) -> int:
    """Where a word of `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+` ends."""
    code, following = _code_point(data, place)
    if code == _QUOTE:
        end = _contraction_end(data, place, stop, False)
        if end > place:
            return end
    kind = classes[code]
    if code == _BLANK and following < stop:
        after, _ = _code_point(data, following)
        if classes[after] != SPACE:
            kind = classes[after]
    if kind == SPACE:
        return _space_end(data, place, stop, classes)
    return _run_end(data, following, stop, classes, kind)


@compiled
def _cl100k_end(data: Any, place: int, stop: int, classes: Any, max_digits: int) -> int:
    """Where a word of the pattern of cl100k ends, with up to `max_digits` numbers in a word."""
    code, following = _code_point(data, place)
    if code == _QUOTE:
        end = _contraction_end(data, place, stop, True)
        if end > place:
            return end
    kind = classes[code]
    after_kind = SPACE
    if following < stop:
        after, _ = _code_point(data, following)
        after_kind = classes[after]
    is_break = code in (_NEWLINE, _RETURN)
    if kind == LETTER or (after_kind == LETTER and kind != NUMBER and not is_break):
        return _run_end(data, following, stop, classes, LETTER)
    if kind == NUMBER:
        end, num_digits = following, 1
        while num_digits < max_digits and end < stop:
            code, following = _code_point(data, end)
            if classes[code] != NUMBER:
                break
            end, num_digits = following, num_digits + 1
        return end
    if kind == OTHER or (code == _BLANK and following < stop and after_kind == OTHER):
        end = _run_end(data, following, stop, classes, OTHER)
        while end < stop and (data[end] == _NEWLINE or data[end] == _RETURN):
            end += 1
        return end
    run = _run_end(data, place, stop, classes, SPACE)
    for last in range(run - 1, place - 1, -1):
        if data[last] == _NEWLINE or data[last] == _RETURN:
            return last + 1
    return _space_end(data, place, stop, classes)


@_inlined
def _hash(data: Any, begin: int, past: int) -> Any:
    hashed = _FNV_SEED
    for place in range(begin, past):
        hashed = (hashed ^ np.uint64(data[place])) * _FNV_PRIME
    return hashed | np.uint64(1)


@_inlined
def _find_word(data: Any, begin: int, past: int, hashed: Any, hashes: Any, places: Any, text: Any) -> tuple[int, bool]:
    """Slot of a word in the table and whether it is known; else a free slot."""
    mask = np.uint64(len(hashes) - 1)
    slot = (hashed >> _SHIFT) & mask
    is_known = False
    while hashes[slot] != 0:
        if hashes[slot] == hashed and places[slot, 1] == past - begin:
            first = places[slot, 0]
            is_known = True
            for place in range(past - begin):
                if text[first + place] != data[begin + place]:
                    is_known = False
                    break
            if is_known:
                break
        slot = (slot + np.uint64(1)) & mask
    return slot, is_known


@compiled
def _keep_word(
    data: Any, begin: int, length: int, slot: Any, hashed: Any, symbols: Any, num_ids: int,
    hashes: Any, places: Any, text: Any, ids: Any, used: Any,
) -> None:  # fmt: skip
    """Enter a word at a free slot, if there is room: three quarters of the table are used at most."""
    has_slot = 4 * (used[0] + 1) <= 3 * len(hashes)
    if not has_slot or used[1] + length > len(text) or used[2] + num_ids > len(ids):
        return
    hashes[slot] = hashed
    places[slot, 0], places[slot, 1] = used[1], length
    places[slot, 2], places[slot, 3] = used[2], num_ids
    text[used[1] : used[1] + length] = data[begin : begin + length]
    ids[used[2] : used[2] + num_ids] = symbols[:num_ids]
    used[0] += 1
    used[1] += length
    used[2] += num_ids


@compiled
def _merge(
    data: Any, begin: int, length: int, byte_ids: Any, keys: Any, ranks: Any, ids: Any, symbols: Any, slots: Any
) -> int:
    """Merge the bytes of a word, the lowest rank first and the leftmost of equals; returns how many tokens are left.

    `symbols` holds the tokens and `slots` the place in the table of the merge with the next token, or -1.
    """
    for place in range(length):
        symbols[place] = byte_ids[data[begin + place]]
    for place in range(length - 1):
        slots[place] = _find_pair(symbols[place], symbols[place + 1], keys)
    while length > 1:
        best, best_rank = -1, 0
        for place in range(length - 1):
            slot = slots[place]
            if slot >= 0 and (best < 0 or ranks[slot] < best_rank):
                best, best_rank = place, ranks[slot]
        if best < 0:
            break
        symbols[best] = ids[slots[best]]
        length -= 1
        for place in range(best + 1, length):
            symbols[place] = symbols[place + 1]
            slots[place] = slots[place + 1]
        if best > 0:
            slots[best - 1] = _find_pair(symbols[best - 1], symbols[best], keys)
        if best < length - 1:
            slots[best] = _find_pair(symbols[best], symbols[best + 1], keys)
    return length


@_inlined
def _find_pair(left: Any, right: Any, keys: Any) -> int:
    """Place of a merge in the table, or -1."""
    key = np.int64(left) << 32 | np.int64(right)
    mask = np.uint64(len(keys) - 1)
    slot = (np.uint64(key) * _PAIR_FACTOR) >> _SHIFT & mask
    while keys[slot] != -1 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return int(slot) if keys[slot] == key else -1

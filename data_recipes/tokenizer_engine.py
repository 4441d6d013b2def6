"""Engines that turn texts into token ids: the `tokenizers` library, and a compiled one for byte-level BPE.

The compiled engine is made from a `tokenizer.json` of a kind that it knows; of any other it says what it does not know.
That it gives the same ids is never assumed: `data_recipes/tokenizer_proof.py` compares.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, pre_tokenizers

from data_recipes.bpe_kernels import (
    CL100K,
    GPT2,
    LETTER,
    NUMBER,
    OTHER,
    SPACE,
    Rules,
    Words,
    encode_pieces,
    fill_pairs,
    keep_whole_word,
)
from data_recipes.windows import byte_characters
from provenance.canonical import Json

LIBRARY_NAME, COMPILED_NAME = "tokenizers", "compiled-bpe/1"
MAX_WORD_BYTES = 4096
NUM_CODE_POINTS = 0x110000

_WORD_SLOTS, _WORD_TEXT_BYTES, _WORD_IDS = 1 << 20, 1 << 24, 1 << 23
_CLASS_BLOCK = 512
_CL100K_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_CL100K_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K_DIGITS = {
    _CL100K_HEAD + r"\p{N}{1,3}" + _CL100K_TAIL: 3,
    _CL100K_HEAD + r"\p{N}" + _CL100K_TAIL: 1,
}
_MODEL_KEYS = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")

TokenArray = npt.NDArray[np.int32]


class Engine(Protocol):
    """What encodes texts; special tokens are found in the text, and none are added."""

    name: str

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Token ids of each text."""


class LibraryEngine:
    """The `tokenizers` library itself, which every other engine is measured by."""

    name = LIBRARY_NAME

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Token ids of each text."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]


class NotCompiled(Exception):
    """The tokenizer has something that the compiled engine does not know; the message says what."""


class CompiledEngine:
    """Byte-level BPE with the words of GPT-2 or cl100k, compiled by numba.

    Texts with words of more than `MAX_WORD_BYTES` bytes go to the library.

    Args:
        tokenizer: any tokenizer.

    Raises:
        NotCompiled: for one that this engine does not know.
    """

    name = COMPILED_NAME

    def __init__(self, tokenizer: Tokenizer) -> None:
        values = json.loads(tokenizer.to_str())
        self._library = LibraryEngine(tokenizer)
        pattern, max_digits = _pattern_of(values)
        self._rules = _rules_of(values["model"], pattern, max_digits)
        self._normalizer = _normalizer_of(values, tokenizer)
        added = values.get("added_tokens", [])
        if any(token["single_word"] or token["lstrip"] or token["rstrip"] for token in added):
            raise NotCompiled("added tokens that take in spaces or stand for whole words only")
        self._added = {token["content"]: int(token["id"]) for token in added}
        self._raw = _splitter(token["content"] for token in added if not token["normalized"])
        self._normalized = _splitter(token["content"] for token in added if token["normalized"])
        self._heads = sorted({token["content"][:2] for token in added})
        self._symbols = np.empty(MAX_WORD_BYTES + 1, np.int32)
        self._slots = np.empty(MAX_WORD_BYTES + 1, np.int32)
        self._words = _no_words()
        if values["model"].get("ignore_merges"):
            self._know_whole_words(values["model"]["vocab"])

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Token ids of each text."""
        pieces: list[bytes] = []
        plans = [self._plan(text, pieces) for text in texts]
        starts = np.array(list(accumulate(map(len, pieces), initial=0)), np.int64)
        data = np.frombuffer(b"".join(pieces), np.uint8)
        tokens, ends = np.empty(len(data), np.int32), np.empty(len(pieces), np.int64)
        encode_pieces(data, starts, self._rules, self._words, tokens, ends, self._symbols, self._slots)
        encoded = []
        for text, plan in zip(texts, plans, strict=True):
            parts = [self._part(item, tokens, ends) if isinstance(item, int) else item for item in plan]
            whole = [part for part in parts if part is not None]
            if len(whole) < len(parts):
                encoded.append(self._library.encode([text])[0])
            else:
                encoded.append(whole[0] if len(whole) == 1 else np.concatenate(whole or [tokens[:0]]))
        return encoded

    @staticmethod
    def _part(piece: int, tokens: TokenArray, ends: npt.NDArray[np.int64]) -> TokenArray | None:
        """The tokens of a piece; None where it has a word that is too long."""
        begin, end = int(ends[piece - 1]) if piece else 0, int(ends[piece])
        return tokens[-1 - begin if begin < 0 else begin : end] if end >= 0 else None

    def _plan(self, text: str, pieces: list[bytes]) -> list[Any]:
        """Append the pieces of a text that are no added tokens; returns their numbers, with added tokens between."""
        is_plain = self._normalizer is None or text.isascii()
        if is_plain and not any(head in text for head in self._heads):
            pieces.append(text.encode())
            return [len(pieces) - 1]
        plan: list[Any] = []
        for is_token, raw in _split(self._raw, text):
            if is_token:
                plan.append(np.array([self._added[raw]], np.int32))
                continue
            plain = raw if self._normalizer is None or is_plain else self._normalizer.normalize_str(raw)
            for is_token, piece in _split(self._normalized, plain):
                if is_token:
                    plan.append(np.array([self._added[piece]], np.int32))
                elif piece:
                    pieces.append(piece.encode())
                    plan.append(len(pieces) - 1)
        return plan

    def _know_whole_words(self, vocab: dict[str, int]) -> None:
        """Enter every token as a word that is not merged: what `ignore_merges` says."""
        to_byte = {character: byte for byte, character in enumerate(byte_characters())}
        tokens = {bytes(to_byte[character] for character in token): number for token, number in vocab.items()}
        for word, number in tokens.items():
            keep_whole_word(np.frombuffer(word, np.uint8), number, self._words)


def _pattern_of(values: Json) -> tuple[int, int]:
    """Which words a tokenizer cuts, and the most digits in one.

    Raises:
        NotCompiled: for words of another kind.
    """
    if values.get("truncation") or values.get("padding"):
        raise NotCompiled("truncation or padding")
    steps = values["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    if [step.get("type") for step in steps] == ["ByteLevel"] and steps[0]["use_regex"]:
        pattern, max_digits = GPT2, 0
    elif [step.get("type") for step in steps] == ["Split", "ByteLevel"] and not steps[1]["use_regex"]:
        regex = steps[0]["pattern"].get("Regex")
        if steps[0]["behavior"] != "Isolated" or steps[0]["invert"] or regex not in _CL100K_DIGITS:
            raise NotCompiled(f"the words of {regex!r}")
        pattern, max_digits = CL100K, _CL100K_DIGITS[regex]
    else:
        raise NotCompiled(f"words cut by {[step.get('type') for step in steps]}")
    if steps[-1]["add_prefix_space"]:
        raise NotCompiled("a space before the first word")
    return pattern, max_digits


def _normalizer_of(values: Json, tokenizer: Tokenizer) -> Any:
    """The normalizer, which does nothing to ASCII, or None."""
    normalizer = values.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise NotCompiled(f"normalizer {normalizer.get('type')!r}")
    return tokenizer.normalizer if normalizer is not None else None


def _rules_of(model: Json, pattern: int, max_digits: int) -> Rules:
    if model["type"] != "BPE" or any(model.get(key) for key in _MODEL_KEYS):
        raise NotCompiled("a model other than BPE without dropout, unknown token, prefix, suffix or byte fallback")
    vocab: dict[str, int] = model["vocab"]
    characters = byte_characters()
    if not vocab.keys() >= set(characters):
        raise NotCompiled("a vocabulary without all bytes")
    merges: dict[int, tuple[int, int]] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        merges[vocab[left] << 32 | vocab[right]] = rank, vocab[left + right]
    num_slots = 1 << max(4, (2 * len(merges)).bit_length())
    keys = np.full(num_slots, -1, np.int64)
    ranks, ids = np.zeros(num_slots, np.int32), np.zeros(num_slots, np.int32)
    fill_pairs(
        np.array(list(merges), np.int64), np.array(list(merges.values()), np.int32).reshape(-1, 2), keys, ranks, ids
    )
    byte_ids = np.array([vocab[character] for character in characters], np.int32)
    return Rules(pattern, max_digits, _code_point_classes(), byte_ids, keys, ranks, ids, MAX_WORD_BYTES)


def _no_words() -> Words:
    return Words(
        np.zeros(_WORD_SLOTS, np.uint64),
        np.zeros((_WORD_SLOTS, 4), np.int64),
        np.empty(_WORD_TEXT_BYTES, np.uint8),
        np.empty(_WORD_IDS, np.int32),
        np.zeros(3, np.int64),
    )


@lru_cache(maxsize=1)
def _code_point_classes() -> npt.NDArray[np.uint8]:
    """The class of every code point, asked of the library's own regular expressions: Unicode versions differ."""
    classes = np.full(NUM_CODE_POINTS, OTHER, np.uint8)
    characters = [chr(code) for code in range(NUM_CODE_POINTS) if not 0xD800 <= code < 0xE000]
    for kind, regex in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        split = pre_tokenizers.Split(Regex(f"{regex}+"), "removed")
        for begin in range(0, len(characters), _CLASS_BLOCK):
            block = characters[begin : begin + _CLASS_BLOCK]
            others = np.ones(len(block), bool)
            for _, (first, past) in split.pre_tokenize_str("".join(block)):
                others[first:past] = False
            classes[[ord(character) for character, is_kind in zip(block, others, strict=True) if is_kind]] = kind
    return classes


def _splitter(contents: Iterable[str]) -> re.Pattern[str] | None:
    """An expression that finds added tokens, the longest of those that begin at one place."""
    longest_first = sorted(contents, key=lambda content: (-len(content), content))
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None


def _split(pattern: re.Pattern[str] | None, text: str) -> list[tuple[bool, str]]:
    """Cut a text at added tokens: whether each part is one, and the part."""
    parts = pattern.split(text) if pattern else [text]
    return [(bool(number % 2), part) for number, part in enumerate(parts)]

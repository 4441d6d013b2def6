"""What text each id of a tokenizer stands for: of byte-level ones the bytes, of others what their decoder makes of it.

The texts of a document's tokens, put together, are the document in the tokenizer's normal form: as it was for
tokenizers that keep all of a text, else in lower case, with one space for many, or what else a normalizer changes. A
token for what the vocabulary lacks stands for one byte that no text has, so that nothing is ever found in it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from data_recipes.tokenizer_file import is_byte_level, kinds_of, unknown_id
from data_recipes.windows import byte_characters
from provenance.canonical import Json, read_json
from provenance.errors import ConfigError, DataError

UNKNOWN = b"\xff"
"""What an unknown token stands for: a byte of no UTF-8 text, and the least that it can have taken the place of."""

_NEIGHBOUR = "a"  # a piece that decoders leave as it is
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenTexts:
    """The texts of all ids of a tokenizer.

    Args:
        values: the content of its `tokenizer.json`.

    Attributes:
        of_id: the bytes of each id; none for special tokens and ids that are not used.
        adds_space: whether the text of a document begins with a space that the tokenizer put there.
    """

    def __init__(self, values: Json) -> None:
        self._tokenizer = Tokenizer.from_str(json.dumps({**values, "post_processor": None}))
        decoders = set(kinds_of(values.get("decoder")))
        suffix: str = values["model"].get("end_of_word_suffix") or ""
        self._adds_space_behind = bool(suffix)
        self._suffix = "" if "BPEDecoder" in decoders else suffix
        self._has_byte_pieces = "ByteFallback" in decoders
        self._to_byte = (
            {character: byte for byte, character in enumerate(byte_characters())} if is_byte_level(values) else None
        )
        self._tokenizer.encode_special_tokens = True  # a passage that spells one is looked for as the text it is
        self._tail = self._joined([_NEIGHBOUR, _NEIGHBOUR])[len(_NEIGHBOUR) :]
        self.of_id = self._texts(values)
        self.adds_space = self._first_piece_text().startswith(b" ")

    def _texts(self, values: Json) -> list[bytes]:
        added: dict[int, Json] = {token["id"]: token for token in values.get("added_tokens", [])}
        vocab = self._tokenizer.get_vocab()
        texts = [b""] * (max(vocab.values()) + 1)
        for piece, token_id in vocab.items():
            if token_id not in added:
                texts[token_id] = self._text_of(piece)
            elif not added[token_id]["special"]:
                texts[token_id] = piece.encode()
        unknown = unknown_id(values)
        if unknown is not None:
            texts[unknown] = UNKNOWN
        return texts

    def _text_of(self, piece: str) -> bytes:
        """The text of a piece of the vocabulary that stands between others."""
        if self._suffix and piece.endswith(self._suffix):
            return self._text_of_whole(piece.removesuffix(self._suffix)) + b" "
        return self._text_of_whole(piece)

    def _text_of_whole(self, piece: str) -> bytes:
        if self._to_byte is not None:  # as the library, which takes for text what is not made of the alphabet
            found = [self._to_byte.get(character) for character in piece]
            return piece.encode() if None in found else bytes(byte for byte in found if byte is not None)
        if self._has_byte_pieces and (byte_piece := _BYTE_PIECE.fullmatch(piece)):
            return bytes([int(byte_piece[1], 16)])
        whole = self._joined([_NEIGHBOUR, piece, _NEIGHBOUR])
        if not (whole.startswith(_NEIGHBOUR) and self._tail.endswith(_NEIGHBOUR) and whole.endswith(self._tail)):
            raise DataError(
                f"a decoder that makes {whole!r} of {piece!r} between two letters",
                expected="a tokenizer whose decoder puts texts of tokens together",
                where="tokenizer.json",
            )
        return whole[len(_NEIGHBOUR) : len(whole) - len(self._tail)].encode()

    def _joined(self, pieces: list[str]) -> str:
        decoder = self._tokenizer.decoder
        return str(decoder.decode(pieces)) if decoder is not None else " ".join(pieces)

    def _first_piece_text(self) -> bytes:
        """The text of the first piece of a word, as the tokenizer cuts one, with what it puts before it."""
        normalizer, cutter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        word = _NEIGHBOUR if normalizer is None else normalizer.normalize_str(_NEIGHBOUR)
        pieces = [(word, None)] if cutter is None else cutter.pre_tokenize_str(word)
        return self._text_of_whole(pieces[0][0]) if pieces else b""  # some leave nothing of letters

    def num_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of text that each id stands for: int64 [number of ids], 0 for special tokens and unused ids."""
        return np.array(list(map(len, self.of_id)), np.int64)

    def document(self, ids: Sequence[int]) -> bytes:
        """The text of a whole document, without the space that the tokenizer put before it."""
        text = b"".join([self.of_id[token] for token in ids])
        return text[1:] if self.adds_space and text.startswith(b" ") else text

    def lengths(self, ids: Sequence[int]) -> list[int]:
        """Bytes that each token of a whole document has in its `document` text."""
        lengths = [len(self.of_id[token]) for token in ids]
        first = next((place for place, length in enumerate(lengths) if length), None)
        if self.adds_space and first is not None and self.of_id[ids[first]].startswith(b" "):
            lengths[first] -= 1
        return lengths

    def normal_form(self, passage: str) -> bytes:
        """A part of a text as `document` has it, by the same normalizer.

        Raises:
            ConfigError: for characters that the vocabulary lacks, and where no text is left.
        """
        text = self.document(self._tokenizer.encode(passage, add_special_tokens=False).ids)
        if not text:
            raise ConfigError("an empty text", expected="at least one character", where="command line")
        if UNKNOWN in text:
            raise ConfigError(
                f"{passage!r} has characters that the tokenizer does not know",
                expected="a text that its tokens can hold",
                where="command line",
            )
        return text.removesuffix(b" ") if self._adds_space_behind and not passage.endswith(" ") else text


def read_token_texts(tokenizer_json: Path) -> TokenTexts:
    """The texts of a `tokenizer.json`, by path."""
    return TokenTexts(read_json(tokenizer_json))

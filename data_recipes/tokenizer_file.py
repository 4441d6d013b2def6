"""What a `tokenizer.json` says of itself: its kind, and whether any text could be lost in its tokens unseen."""

from collections.abc import Iterator
from pathlib import Path

from data_recipes.windows import byte_characters
from provenance.canonical import Json
from provenance.errors import DataError

_NOT_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}
_MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")
_PARTS = ("normalizers", "pretokenizers", "decoders")


def check_tokenizer_kind(values: Json, path: Path) -> None:
    """Refuse what is no tokenizer of a kind that is known; the library says the rest of what is wrong with one.

    Raises:
        DataError: for another file.
    """
    model = values.get("model") if isinstance(values, dict) else None
    if not isinstance(model, dict) or model.get("type") not in _MODELS or "vocab" not in model:
        raise DataError("no tokenizer that is known", expected=f"a model of {', '.join(_MODELS)}", where=str(path))


def check_keeps_texts(values: Json, path: Path) -> None:
    """Refuse a tokenizer that would cut, fill up or change texts in ways that nothing on record would say.

    Args:
        values: what the library has read as a tokenizer.

    Raises:
        DataError: for one that cuts texts or fills them up, one that chooses tokens at random, and one without a token
            for what it does not know.
    """
    model = values["model"]
    if values.get("truncation") or values.get("padding"):
        raise DataError("truncation or padding", expected="a tokenizer that keeps whole texts", where=str(path))
    if model.get("dropout"):
        raise DataError(
            f"dropout {model['dropout']}: other tokens each time",
            expected="the same tokens for the same text",
            where=str(path),
            next_command="set model.dropout to null, and the digest to the new file's",
        )
    if not _knows_every_character(values) and _named_unknown(model) is None:
        raise DataError(
            "no unknown token: what the vocabulary lacks would be left out of texts without a word",
            expected="tokens for all bytes, or an unknown token in the vocabulary",
            where=str(path),
        )


def check_decoder(values: Json, path: Path) -> None:
    """Refuse a tokenizer that makes other texts of its tokens than they were made of: signs of its own would be left.

    Raises:
        DataError: for one without a decoder that its pieces need.
    """
    model, decoders = values["model"], set(kinds_of(values.get("decoder")))
    needed = (("ByteLevel", _is_read_as_bytes(values)), ("BPEDecoder", bool(model.get("end_of_word_suffix"))))
    missing = [f"the decoder {name}" for name, is_needed in needed if is_needed and name not in decoders]
    if not decoders and model["type"] != "WordLevel":
        missing.append("a decoder that puts parts of words together")
    if missing:
        raise DataError("a decoder that does not give texts back", expected=missing[0], where=str(path))


def kinds_of(part: Json) -> Iterator[str]:
    """Types of a normalizer, pre-tokenizer or decoder and of all that it is made of."""
    if isinstance(part, dict):
        yield part.get("type", "")
        for name in _PARTS:
            for inner in part.get(name, ()):
                yield from kinds_of(inner)


def is_byte_level(values: Json) -> bool:
    """Whether the pieces of a vocabulary are bytes, in the alphabet that stands for them."""
    return _is_read_as_bytes(values) or "ByteLevel" in kinds_of(values.get("decoder"))


def _is_read_as_bytes(values: Json) -> bool:
    return any("ByteLevel" in kinds_of(values.get(part)) for part in ("normalizer", "pre_tokenizer"))


def unknown_id(values: Json) -> int | None:
    """The id that stands for whatever the vocabulary lacks; None where it lacks nothing."""
    return None if _knows_every_character(values) else _named_unknown(values["model"])


def _named_unknown(model: Json) -> int | None:
    if model["type"] == "Unigram":
        number = model.get("unk_id")
        return number if number is not None and number < len(model["vocab"]) else None
    found: int | None = model["vocab"].get(model.get("unk_token"))
    return found


def _knows_every_character(values: Json) -> bool:
    """Whether there is a token for every byte that a UTF-8 text can have, wherever it stands in a word."""
    model = values["model"]
    pieces = {piece for piece, _ in model["vocab"]} if model["type"] == "Unigram" else model["vocab"].keys()
    needed = [byte for byte in range(256) if byte not in _NOT_IN_UTF8]
    if model.get("byte_fallback"):
        return all(f"<0x{byte:02X}>" in pieces for byte in needed)
    if not _is_read_as_bytes(values) or model["type"] not in ("BPE", "Unigram"):  # a decoder alone reads nothing
        return False
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    characters = byte_characters()
    return all(
        f"{before}{characters[byte]}{after}" in pieces
        for byte in needed
        for before in {"", prefix}
        for after in {"", suffix}
    )

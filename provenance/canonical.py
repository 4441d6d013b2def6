"""Canonical JSON (`canonical-json/1`) and strict parsing.

Anything that is hashed as a value is written in this form: UTF-8, keys sorted by code point, no white space, no
floats (they are written as hexadecimal strings), integers within 2**53 - 1 so that every JSON reader keeps them
(RFC 8785 is the model). The format is specified in `docs/formats.md`.
"""

import json
import math
from pathlib import Path
from typing import Any

from provenance.errors import BundleError

Json = Any
"""A value made of dict, list, str, int, bool and None."""

MAX_SAFE_INTEGER = 2**53 - 1
MAX_JSON_BYTES = 256 * 2**20
MAX_JSON_DEPTH = 64


def hex_float(value: float) -> str:
    """Write a float so that no bit is lost (C99 hexadecimal form, `float.hex`)."""
    return float(value).hex()


def parse_hex_float(text: str) -> float:
    """Read what `hex_float` wrote; raises ValueError for other text."""
    return float.fromhex(text)


def canonical_json(value: Json) -> bytes:
    """Return the one byte string that stands for `value`.

    Raises:
        TypeError: for floats, non-string keys and foreign types.
        ValueError: for integers outside the safe range and for lone surrogates.
    """
    _check(value, 0)
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8")


def _check(value: Json, depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH}")
    if value is None or isinstance(value, bool | str):
        return
    if isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise ValueError(f"integer {value} is outside the safe range; write it as a string")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"key {key!r} is not a string")
            _check(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item, depth + 1)
    else:
        raise TypeError(f"{type(value).__name__} has no canonical form; floats go through hex_float")


def write_json(path: Path, value: Json) -> None:
    """Write a JSON file for machines and people: the canonical rules, but indented, with a final newline."""
    _check(value, 0)
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8") + b"\n")


def parse_json(data: bytes, where: str) -> Json:
    """Parse JSON that may come from a stranger.

    Raises:
        BundleError: for bad UTF-8, duplicate keys, non-finite numbers, too much data or nesting.
    """
    if len(data) > MAX_JSON_BYTES:
        raise BundleError(f"JSON of {len(data)} bytes", expected=f"at most {MAX_JSON_BYTES} bytes", where=where)
    try:
        return _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"not valid JSON ({error})", expected="strict JSON in UTF-8", where=where) from error


def _refuse_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _refuse_constant(text: str) -> Json:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text} is out of range")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant, parse_float=_finite)
"""Made once: a ledger has a million lines."""


def read_json(path: Path) -> Json:
    """Read a JSON file with `parse_json`; a missing file is a BundleError too."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise BundleError(f"cannot read ({error.strerror})", expected="a JSON file", where=str(path)) from error
    return parse_json(data, str(path))

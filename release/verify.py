"""Verify a bundle with the Python standard library alone: an independent reader of `docs/formats.md`.

    python -S verify.py [BUNDLE] [--expect DIGEST] [--tokens sample|all|none] [--seed N] [--json]

It runs nothing from the bundle, follows no link and opens no network connection. Two kinds of checks: `bytes` (every
file is the one listed, and every content digest follows from the files) and `records` (what the ledgers, tables and
shards say agrees, and what follows from them is recomputed). Each check is PASS, FAIL or UNVERIFIED. Training itself
is not replayed here: numbers that only training can confirm (losses, parameter checksums) are taken as recorded.

Exit codes: 0 all passed, 1 a check failed, 2 bad usage, 3 nothing failed but something stays unverified.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import secrets
import stat
import struct
import sys
import unicodedata
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

Json = Any

PASS, FAIL, UNVERIFIED = "PASS", "FAIL", "UNVERIFIED"
BYTES, RECORDS = "bytes", "records"

BUNDLE_FORMAT = "openwright-bundle/1"
DATASET_FORMAT = "openwright-dataset/1"
ARTIFACT_FORMAT = "openwright-artifact/1"
CORPUS_FORMAT = "openwright-corpus/1"
CODES_FORMAT = "openwright-codes/1"
TOKENS_FORMAT = "openwright-tokens/1"
RUN_FORMAT = "openwright-run/1"
LEDGER_FORMAT = "openwright-ledger/1"
CHECKPOINT_FORMAT = "openwright-checkpoint/1"
EVALUATION_FORMAT = "openwright-evaluation/1"
CODE_FORMAT = "openwright-code/1"
ORDER_VERSION = "order/1"
VERIFY_FORMAT = "openwright-verify/1"

MAX_FILES = 1_000_000
MAX_DEPTH = 32
MAX_NAME_BYTES = 255
MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_ITEMS = 4_000_000
MAX_JSON_DEPTH = 64
MAX_LINE_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 16 * 2**20
MAX_SAFE_INTEGER = 2**53 - 1
MAX_SEQUENCES_PER_STEP = 2**20
MAX_ORDER_STEPS = 10_000
MAX_ORDER_SEQUENCES = 4_000_000
NUM_TOKEN_STEPS = 200
BLOCK_BYTES = 1 << 20
CHAIN_START = "0" * 64
PACKAGES = ("provenance", "data_recipes", "train", "eval", "release", "openwright")
ROLES = ("result", "observation", "document")
INDEX_ROW = struct.Struct("<32s32sIHHHBBI")
MASK_64 = 2**64 - 1

NOTHING_EXPECTED = (
    "internally consistent; nothing says it is the bundle you were promised: give --expect or check the signature"
)
SIGNATURE_NOT_CHECKED = (
    "a signature is there and is not checked by this program: check it with"
    " `model_signing verify key model --signature model/manifest.sig --public_key PUB`"
    " and a key that you had from elsewhere"
)


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check.

    Attributes:
        check: `bytes` or `records` (`replay` for those of `openwright reproduce`).
        verdict: PASS, FAIL or UNVERIFIED.
        detail: what was checked, or the first thing that is wrong or missing.
        where: file or record that the detail speaks of; empty for the whole bundle.
    """

    check: str
    name: str
    verdict: str
    detail: str
    where: str


class Mismatch(Exception):
    """Something is wrong: the check that meets it fails."""

    def __init__(self, detail: str, where: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.where = where


class Unverifiable(Mismatch):
    """Something cannot be judged: the check that meets it stays UNVERIFIED."""


def show(value: object) -> str:
    """Text of a value from a stranger, harmless on a terminal and of bounded length."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text[:300])
    return text if len(text) <= 200 else text[:200] + "..."


# ---- canonical JSON and strict parsing ------------------------------------------------------------------------------


def canonical_json(value: Json) -> bytes:
    """Bytes of `canonical-json/1`; the value has been through `parse_json` or is made of plain values here."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8")


def tagged_digest(construction: str, value: Json) -> str:
    """sha256 of `openwright:<construction>\\n` followed by the canonical JSON."""
    return hashlib.sha256(f"openwright:{construction}\n".encode() + canonical_json(value)).hexdigest()


def parse_json(data: bytes, where: str) -> Json:
    """Parse JSON by the rules of `canonical-json/1`; anything else is a Mismatch."""
    if len(data) > MAX_JSON_BYTES or data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_JSON_ITEMS:
        raise Mismatch(f"JSON that is too large ({len(data)} bytes)", where)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_float,
            parse_float=_no_float,
            parse_int=_safe_integer,
        )
        _check_plain(value, 0)
    except RecursionError:
        raise Mismatch("not strict JSON: nested too deeply", where) from None
    except ValueError as error:
        raise Mismatch(f"not strict JSON: {show(str(error))}", where) from None
    return value


def _without_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _no_float(text: str) -> Json:
    raise ValueError(f"the number {text[:40]} is not an integer")


def _safe_integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_SAFE_INTEGER:
        raise ValueError(f"the integer {text[:40]} is outside the safe range")
    return int(text)


def _check_plain(value: Json, depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate has no bytes: UnicodeEncodeError is a ValueError
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode("utf-8")
            _check_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, depth + 1)


@dataclass(frozen=True)
class Fields:
    """Typed access to a JSON object from a stranger: a missing or wrongly typed field is a Mismatch."""

    value: Json
    where: str

    def __post_init__(self) -> None:
        if not isinstance(self.value, dict):
            raise Mismatch(f"{type(self.value).__name__} where an object belongs", self.where)

    def get(self, key: str) -> Json:
        """Any value; it must be there."""
        if key not in self.value:
            raise Mismatch(f"field {key!r} is missing", self.where)
        return self.value[key]

    def text(self, key: str) -> str:
        """A string."""
        found = self.get(key)
        if not isinstance(found, str):
            raise Mismatch(f"field {key!r} is {show(found)}, not a string", self.where)
        return found

    def number(self, key: str, least: int = 0) -> int:
        """An integer of at least `least`."""
        found = self.get(key)
        if isinstance(found, bool) or not isinstance(found, int) or found < least:
            raise Mismatch(f"field {key!r} is {show(found)}, not an integer >= {least}", self.where)
        return found

    def flag(self, key: str) -> bool:
        """A boolean."""
        found = self.get(key)
        if not isinstance(found, bool):
            raise Mismatch(f"field {key!r} is {show(found)}, not true or false", self.where)
        return found

    def digest(self, key: str) -> str:
        """64 lower-case hexadecimal digits."""
        found = self.text(key)
        if not re.fullmatch("[0-9a-f]{64}", found):
            raise Mismatch(f"field {key!r} is {show(found)}, not a sha256", self.where)
        return found

    def hex_float(self, key: str) -> float:
        """A finite float in hexadecimal form, as `float.hex` writes it."""
        found = self.text(key)
        try:
            value = float.fromhex(found) if len(found) < 40 else None
        except (ValueError, OverflowError):
            value = None
        if value is None or value.hex() != found or value - value != 0:
            raise Mismatch(f"field {key!r} is {show(found)}, not a finite hexadecimal float", self.where)
        return value

    def part(self, key: str) -> Fields:
        """An object."""
        return Fields(self.get(key), f"{self.where}: {show(key)}")

    def items(self, key: str) -> list[Json]:
        """A list."""
        found = self.get(key)
        if not isinstance(found, list):
            raise Mismatch(f"field {key!r} is {show(found)}, not a list", self.where)
        return found

    def parts(self, key: str) -> list[Fields]:
        """A list of objects."""
        return [Fields(item, f"{self.where}: {show(key)}[{i}]") for i, item in enumerate(self.items(key))]

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        found = self.items(key)
        if not all(isinstance(item, str) for item in found):
            raise Mismatch(f"field {key!r} holds other things than strings", self.where)
        return found

    def format(self, expected: str) -> None:
        """The field `format` must name a version that this program knows."""
        found = self.text("format")
        if found == expected:
            return
        if found.split("/")[0] == expected.split("/")[0]:
            raise Unverifiable(f"format {show(found)}; this program reads {expected}", self.where)
        raise Mismatch(f"format {show(found)}, expected {expected}", self.where)

    def only(self, *keys: str) -> None:
        """No field may be missing and none may be there beside these."""
        if set(self.value) != set(keys):
            odd = sorted(set(self.value) ^ set(keys))
            raise Mismatch(f"missing or unknown fields: {show(', '.join(odd))}", self.where)


# ---- the tree of files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundFile:
    """A plain file of the bundle: size, and sha256 once it is hashed."""

    size_bytes: int
    sha256: str


def path_problem(path: str) -> str:
    """Why a relative path is refused; empty for a harmless one."""
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return "has an empty part, . or .."
        try:
            if len(part.encode("utf-8")) > MAX_NAME_BYTES:
                return "has a name that is too long"
        except UnicodeEncodeError:
            return "is not valid UTF-8"
        if "\\" in part or not part.isprintable():
            return "has a backslash or an unprintable character"
    if path.count("/") >= MAX_DEPTH:
        return "lies too deep"
    return ""


class Tree:
    """The plain files below a directory, found without following links; problems are collected, not raised.

    Attributes:
        files: sizes by path relative to the root, POSIX style.
        problems: (what, path) of everything that has no place in a bundle.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, int] = {}
        self.problems: list[tuple[str, str]] = []
        self._hashes: dict[str, str] = {}
        self._walk("")
        folded: dict[str, str] = {}
        for path in sorted(self.files):
            key = unicodedata.normalize("NFC", path).casefold()
            if key in folded:
                self.problems.append((f"differs from {show(folded[key])} only in case or Unicode form", path))
            folded[key] = path

    def _walk(self, prefix: str) -> None:
        try:
            with os.scandir(self.root / prefix) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append((f"cannot be read ({error.strerror})", prefix))
            return
        for entry in found:
            path = prefix + entry.name
            mode = entry.stat(follow_symlinks=False).st_mode
            problem = path_problem(path)
            if problem:
                self.problems.append((problem, path))
            elif stat.S_ISDIR(mode):
                self._walk(path + "/")
            elif not stat.S_ISREG(mode):
                self.problems.append(("is a link" if stat.S_ISLNK(mode) else "is not a plain file", path))
            elif len(self.files) >= MAX_FILES:
                raise Mismatch(f"more than {MAX_FILES} files", show(path))
            else:
                self.files[path] = entry.stat(follow_symlinks=False).st_size

    def open(self, path: str) -> BinaryIO:
        """Open a plain file of the tree; a missing one is a Mismatch."""
        if path not in self.files:
            raise Mismatch("the file is missing", show(path))
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            return os.fdopen(os.open(self.root / path, flags), "rb")
        except OSError as error:
            raise Mismatch(f"cannot be opened ({error.strerror})", show(path)) from None

    def sha256(self, path: str) -> str:
        """sha256 of a file, computed once."""
        if path not in self._hashes:
            digest = hashlib.sha256()
            with self.open(path) as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
            self._hashes[path] = digest.hexdigest()
        return self._hashes[path]

    def json(self, path: str) -> Fields:
        """Parse a JSON file of the tree; an object."""
        if self.files.get(path, 0) > MAX_JSON_BYTES:
            raise Mismatch(f"JSON that is too large ({self.files[path]} bytes)", show(path))
        with self.open(path) as file:
            return Fields(parse_json(file.read(MAX_JSON_BYTES + 1), show(path)), show(path))

    def below(self, prefix: str) -> list[str]:
        """Paths that start with a prefix, sorted."""
        return sorted(path for path in self.files if path.startswith(prefix))


@dataclass(frozen=True)
class ListedFile:
    """An entry of a manifest."""

    path: str
    size_bytes: int
    sha256: str
    role: str = ""

    def as_json(self) -> dict[str, Json]:
        """The form that is hashed."""
        return {"path": self.path, "size_bytes": self.size_bytes, "sha256": self.sha256}


def listed_files(fields: Fields, key: str, with_roles: bool = False) -> list[ListedFile]:
    """Read a list of `{path, size_bytes, sha256[, role]}` with harmless, different paths."""
    entries = []
    for part in fields.parts(key):
        path, role = part.text("path"), part.text("role") if with_roles else ""
        part.only("path", "size_bytes", "sha256", *(["role"] if with_roles else []))
        problem = path_problem(path)
        if problem:
            raise Mismatch(f"the listed path {show(path)} {problem}", fields.where)
        if with_roles and role not in ROLES:
            raise Mismatch(f"role {show(role)} of {show(path)}", fields.where)
        entries.append(ListedFile(path, part.number("size_bytes"), part.digest("sha256"), role))
    if len({entry.path for entry in entries}) != len(entries):
        raise Mismatch(f"a path is listed twice in {key}", fields.where)
    return entries


# ---- hash chains ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChainLine:
    """One record of a chain: its number from 1, the record, and the head before it."""

    number: int
    record: Fields
    head_before: str
    head: str


def read_chain(tree: Tree, path: str) -> Iterator[ChainLine]:
    """Yield the records of a `chain/1` file; any line that is not canonical or not linked is a Mismatch."""
    head, number = CHAIN_START, 0
    with tree.open(path) as file:
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            where = f"{show(path)}:{number}"
            if not line.endswith(b"\n"):
                raise Mismatch("a line that is torn or too long", where)
            record = Fields(parse_json(line[:-1], where), where)
            if canonical_json(record.value) != line[:-1]:
                raise Mismatch("the line is not canonical JSON", where)
            if record.get("previous") != head:
                raise Mismatch("the record is not chained to the one before it", where)
            before, head = head, hashlib.sha256(line[:-1]).hexdigest()
            yield ChainLine(number, record, before, head)

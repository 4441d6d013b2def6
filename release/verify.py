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
from functools import cached_property, partial
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

    def only(self, *keys: str, optional: tuple[str, ...] = ()) -> None:
        """No field may be missing, and none may be there beside these and the optional ones."""
        odd = sorted((set(self.value) - set(optional)) ^ set(keys))
        if odd:
            raise Mismatch(f"missing or unknown fields: {show(', '.join(odd))}", self.where)


# ---- the tree of files ----------------------------------------------------------------------------------------------


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

    Args:
        root: the directory.
        label: `model` or `dataset`, put before paths that people see.

    Attributes:
        files: sizes by path relative to the root, POSIX style.
        problems: (what, path) of everything that has no place in a bundle.
    """

    def __init__(self, root: Path, label: str) -> None:
        self.root = root
        self.label = label
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
                raise Mismatch(f"more than {MAX_FILES} files", self.place(path))
            else:
                self.files[path] = entry.stat(follow_symlinks=False).st_size

    def place(self, path: str) -> str:
        """A path as people see it."""
        return f"{self.label}/{show(path)}"

    def open(self, path: str) -> BinaryIO:
        """Open a plain file of the tree; a missing one is a Mismatch."""
        if path not in self.files:
            raise Mismatch("the file is missing", self.place(path))
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            return os.fdopen(os.open(self.root / path, flags), "rb")
        except OSError as error:
            raise Mismatch(f"cannot be opened ({error.strerror})", self.place(path)) from None

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
            raise Mismatch(f"JSON that is too large ({self.files[path]} bytes)", self.place(path))
        with self.open(path) as file:
            return Fields(parse_json(file.read(MAX_JSON_BYTES + 1), self.place(path)), self.place(path))

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
    """One record of a chain: its number from 1, the record, and the bytes and the head before it."""

    number: int
    record: Fields
    bytes_before: int
    head_before: str
    head: str


def read_chain(tree: Tree, path: str) -> Iterator[ChainLine]:
    """Yield the records of a `chain/1` file; any line that is not canonical or not linked is a Mismatch."""
    head, number, end = CHAIN_START, 0, 0
    with tree.open(path) as file:
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            where = f"{tree.place(path)}:{number}"
            if not line.endswith(b"\n"):
                raise Mismatch("a line that is torn or too long", where)
            record = Fields(parse_json(line[:-1], where), where)
            if canonical_json(record.value) != line[:-1]:
                raise Mismatch("the line is not canonical JSON", where)
            if record.get("previous") != head:
                raise Mismatch("the record is not chained to the one before it", where)
            begin, end = end, end + len(line)
            before, head = head, hashlib.sha256(line[:-1]).hexdigest()
            yield ChainLine(number, record, begin, before, head)


# ---- order/1 --------------------------------------------------------------------------------------------------------


@dataclass
class Order:
    """The order of a run as its ledger states it, in plain integers.

    Attributes:
        tokens_digest, seed, split, window_tokens: as recorded.
        names, sizes: sources in order with their window counts.
        phases: (num_steps, sequences_per_step, counts) of each phase.
    """

    tokens_digest: str
    seed: int
    split: str
    window_tokens: int
    names: list[str]
    sizes: list[int]
    phases: list[tuple[int, int, list[int]]]
    drawn_before: list[list[int]] = field(default_factory=list)
    first_steps: list[int] = field(default_factory=list)
    _keys: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        drawn, steps = [0] * len(self.sizes), 0
        for num_steps, _, counts in self.phases:
            self.drawn_before.append(drawn)
            self.first_steps.append(steps)
            drawn = [before + count for before, count in zip(drawn, counts, strict=True)]
            steps += num_steps
        self.num_steps = steps
        self.num_sequences = sum(drawn)
        self.offsets = [sum(self.sizes[:m]) for m in range(len(self.sizes))]

    def step_windows(self, step: int) -> list[tuple[int, int]]:
        """(source, window) of every slot of a step, from 1."""
        phase = bisect_right(self.first_steps, step - 1) - 1
        _, width, counts = self.phases[phase]
        drawn = draws_before(counts, (step - 1 - self.first_steps[phase]) * width)
        windows = []
        for _ in range(width):
            source = earliest(counts, drawn)
            epoch, place = divmod(self.drawn_before[phase][source] + drawn[source], self.sizes[source])
            drawn[source] += 1
            windows.append((source, permute(self.keys(source, epoch), self.sizes[source], place)))
        return windows

    def order_digest(self, windows: Sequence[tuple[int, int]]) -> str:
        """`order_digest` of a step's windows."""
        ids = (self.offsets[source] + window for source, window in windows)
        return hashlib.sha256(b"".join(i.to_bytes(8, "little") for i in ids)).hexdigest()

    def keys(self, source: int, epoch: int) -> tuple[int, ...]:
        """Round keys of one epoch of a source."""
        if (source, epoch) not in self._keys:
            if len(self._keys) > 4096:
                self._keys.clear()
            data = b""
            for half in (0, 1):
                value = {"tokens_digest": self.tokens_digest, "seed": self.seed, "source": self.names[source]}
                text = canonical_json({**value, "epoch": epoch, "half": half})
                data += hashlib.sha256(f"openwright:{ORDER_VERSION}\n".encode() + text).digest()
            self._keys[source, epoch] = struct.unpack("<8Q", data)
        return self._keys[source, epoch]


def read_order(fields: Fields) -> Order:
    """Read and check the order of a ledger's start record."""
    fields.only("version", "tokens_digest", "split", "seed", "window_tokens", "sources", "phases")
    version = fields.text("version")
    if version != ORDER_VERSION:
        raise Unverifiable(f"order version {show(version)}; this program reads {ORDER_VERSION}", fields.where)
    names, sizes, phases = [], [], []
    for part in fields.parts("sources"):
        part.only("name", "num_windows")
        names.append(part.text("name"))
        sizes.append(part.number("num_windows"))
    if len(set(names)) != len(names):
        raise Mismatch("a source stands twice in the order", fields.where)
    for part in fields.parts("phases"):
        part.only("num_steps", "sequences_per_step", "counts")
        num_steps, width, counts = (
            part.number("num_steps", 1),
            part.number("sequences_per_step", 1),
            part.items("counts"),
        )
        if width > MAX_SEQUENCES_PER_STEP:
            raise Unverifiable(
                f"{width} sequences in a step; this program reads up to {MAX_SEQUENCES_PER_STEP}", part.where
            )
        if len(counts) != len(sizes) or any(type(count) is not int or count < 0 for count in counts):
            raise Mismatch("counts that are not one number >= 0 for each source", part.where)
        if sum(counts) != num_steps * width:
            raise Mismatch(f"counts add up to {sum(counts)}, expected {num_steps * width} sequences", part.where)
        if any(count and not size for count, size in zip(counts, sizes, strict=True)):
            raise Mismatch("draws from a source without windows", part.where)
        phases.append((num_steps, width, counts))
    if not phases:
        raise Mismatch("an order without phases", fields.where)
    seed = fields.get("seed")
    if type(seed) is not int:
        raise Mismatch(f"seed {show(seed)}", fields.where)
    return Order(
        fields.digest("tokens_digest"),
        seed,
        fields.text("split"),
        fields.number("window_tokens", 1),
        names,
        sizes,
        phases,
    )


def draws_before(counts: Sequence[int], slot: int) -> list[int]:
    """Draws of each source in the first `slot` slots of a phase."""
    total = sum(counts)
    # Start from the draws whose place (2k+1)/(2c) lies before (slot - sources)/total: no more than `slot` of them.
    early = max(0, slot - len(counts))
    drawn = [(2 * count * early // total + 1) // 2 if count else 0 for count in counts]
    for _ in range(slot - sum(drawn)):
        drawn[earliest(counts, drawn)] += 1
    return drawn


def earliest(counts: Sequence[int], drawn: Sequence[int]) -> int:
    """The source whose next draw has the smallest (place, source)."""
    best = -1
    for m, count in enumerate(counts):
        if drawn[m] < count and (best < 0 or (2 * drawn[m] + 1) * counts[best] < (2 * drawn[best] + 1) * count):
            best = m
    return best


def permute(keys: Sequence[int], n: int, x: int) -> int:
    """The permutation `P(key, n)` at `x`."""
    if n == 1:
        return 0
    h = ((n - 1).bit_length() + 1) // 2
    mask = (1 << h) - 1
    while True:
        left, right = x >> h, x & mask
        for key in keys:
            z = right ^ key
            z ^= z >> 30
            z = z * 0xBF58476D1CE4E5B9 & MASK_64
            z ^= z >> 27
            z = z * 0x94D049BB133111EB & MASK_64
            left, right = right, left ^ ((z ^ z >> 31) & mask)
        x = left << h | right
        if x < n:
            return x


# ---- token shards ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """One shard of a source: paths and digests by role, and its counts."""

    num_tokens: int
    num_documents: int
    files: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Split:
    """One split of `tokens.json`."""

    name: str
    layout: str
    item_bytes: int
    width: int
    digest: str
    sources: list[tuple[str, list[Shard]]]

    def stride(self, window_tokens: int) -> int:
        """Tokens from the beginning of one window to that of the next."""
        return window_tokens if self.layout == "stream" else self.width

    def num_windows(self, shard: Shard, window_tokens: int) -> int:
        """Windows of a shard."""
        if self.layout == "stream":
            return max(0, shard.num_tokens - 1) // window_tokens
        return shard.num_tokens // self.width


ROLES_OF_LAYOUT = {"stream": ("ends", "tokens"), "rows": ("mask", "tokens")}


def read_split(name: str, fields: Fields) -> Split:
    """Read one split and recompute its digest `tokens/1`."""
    fields.only("layout", "dtype", "width", "digest", "sources")
    layout, dtype, width = fields.text("layout"), fields.text("dtype"), fields.number("width")
    if layout not in ROLES_OF_LAYOUT or dtype not in ("u16", "u32"):
        raise Unverifiable(f"layout {show(layout)} of {show(dtype)}", fields.where)
    if (layout == "rows") != (width >= 2) or (layout == "stream" and width):
        raise Mismatch(f"width {width} of layout {layout}", fields.where)
    sources, hashed = [], []
    for part in fields.parts("sources"):
        part.only("name", "num_tokens", "num_documents", "shards")
        shards = [read_shard(shard, layout) for shard in part.parts("shards")]
        for key in ("num_tokens", "num_documents"):
            if sum(getattr(shard, key) for shard in shards) != part.number(key):
                raise Mismatch(f"{key} is not the sum over the shards", part.where)
        sources.append((part.text("name"), shards))
        hashed.append(
            {
                "name": part.text("name"),
                "shards": [
                    {"num_tokens": shard.num_tokens, "files": {role: sha for role, (_, sha) in shard.files.items()}}
                    for shard in shards
                ],
            }
        )
    names = [name for name, _ in sources]
    if names != sorted(set(names)):
        raise Mismatch("sources are not sorted by name", fields.where)
    digest = tagged_digest("tokens/1", {"layout": layout, "dtype": dtype, "width": width, "sources": hashed})
    if digest != fields.digest("digest"):
        raise Mismatch("the digest tokens/1 does not follow from the shards", fields.where)
    return Split(name, layout, 2 if dtype == "u16" else 4, width, digest, sources)


def read_shard(fields: Fields, layout: str) -> Shard:
    """Read one shard's entry."""
    fields.only("num_tokens", "num_documents", "files")
    files = fields.part("files")
    files.only(*ROLES_OF_LAYOUT[layout])
    found = {}
    for role in ROLES_OF_LAYOUT[layout]:
        part = files.part(role)
        part.only("path", "sha256")
        problem = path_problem(part.text("path"))
        if problem:
            raise Mismatch(f"the path {show(part.text('path'))} {problem}", part.where)
        found[role] = (part.text("path"), part.digest("sha256"))
    return Shard(fields.number("num_tokens"), fields.number("num_documents"), found)


def unpack(data: bytes, item_bytes: int) -> array[int]:
    """Little-endian unsigned integers."""
    codes = {array(code).itemsize: code for code in "HIQ"}
    numbers = array(codes[item_bytes], data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def pack_u32(numbers: Sequence[int]) -> bytes:
    """Little-endian u32."""
    packed = array("I", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


class WindowReader:
    """Reads windows of a split from its shards.

    Raises:
        Mismatch: from `read` where bytes are missing.
    """

    def __init__(self, tree: Tree, split: Split, window_tokens: int) -> None:
        self.tree = tree
        self.split = split
        self.window_tokens = window_tokens
        self.firsts: list[list[int]] = []
        for _, shards in split.sources:
            firsts = [0]
            for shard in shards:
                firsts.append(firsts[-1] + split.num_windows(shard, window_tokens))
            self.firsts.append(firsts)
        self._open: dict[str, BinaryIO] = {}

    def close(self) -> None:
        """Close the files that were read."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def is_here(self, source: int) -> bool:
        """Whether all shards of a source are in the bundle."""
        return all(
            path in self.tree.files for shard in self.split.sources[source][1] for path, _ in shard.files.values()
        )

    def read(self, source: int, window: int) -> tuple[bytes, bytes]:
        """Token ids as u32 and mask as u8 of a window."""
        number = bisect_right(self.firsts[source], window) - 1
        shard = self.split.sources[source][1][number]
        begin = (window - self.firsts[source][number]) * self.split.stride(self.window_tokens)
        length = self.window_tokens + 1
        item = self.split.item_bytes
        ids = pack_u32(unpack(self._bytes(shard.files["tokens"][0], begin * item, length * item), item))
        if self.split.layout == "stream":
            return ids, b"\0" + b"\1" * self.window_tokens
        return ids, b"\0" + self._bytes(shard.files["mask"][0], begin + 1, length - 1)

    def _bytes(self, path: str, begin: int, length: int) -> bytes:
        if path not in self._open:
            if len(self._open) >= 64:
                self.close()
            self._open[path] = self.tree.open(path)
        self._open[path].seek(begin)
        data = self._open[path].read(length)
        if len(data) != length:
            raise Mismatch("the shard is shorter than its windows", self.tree.place(path))
        return data


# ---- state/1 --------------------------------------------------------------------------------------------------------

SIZES = {1: "BOOL U8 I8 F8_E4M3 F8_E5M2", 2: "U16 I16 F16 BF16", 4: "U32 I32 F32", 8: "U64 I64 F64"}
OPTIMIZER_PARTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
DTYPE_BYTES = {dtype: size for size, dtypes in SIZES.items() for dtype in dtypes.split()}


@dataclass(frozen=True)
class Tensor:
    """A tensor in a safetensors file; `begin` counts from the start of the file."""

    name: str
    dtype: str
    shape: list[int]
    begin: int
    end: int


def read_tensors(file: BinaryIO, size_bytes: int, where: str) -> list[Tensor]:
    """Read a safetensors header and check that its tensors tile the file exactly."""
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > min(MAX_HEADER_BYTES, size_bytes - 8):
        raise Mismatch(f"a safetensors header of {length} bytes", where)
    header = Fields(parse_json(file.read(length), where), where)
    tensors = [read_tensor(name, header.part(name), 8 + length) for name in header.value if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    at = 8 + length
    for tensor in tensors:
        if tensor.begin != at:
            raise Mismatch(f"tensor {show(tensor.name)} overlaps another or leaves a gap", where)
        at = tensor.end
    if at != size_bytes:
        raise Mismatch(f"the tensors end at byte {at} of {size_bytes}", where)
    return tensors


def read_tensor(name: str, fields: Fields, data_begin: int) -> Tensor:
    """Read one entry of a safetensors header."""
    fields.only("dtype", "shape", "data_offsets")
    dtype, shape, offsets = fields.text("dtype"), fields.items("shape"), fields.items("data_offsets")
    if dtype not in DTYPE_BYTES:
        raise Unverifiable(f"tensor type {show(dtype)}", fields.where)
    if len(shape) > 16 or len(offsets) != 2 or any(type(n) is not int or n < 0 for n in (*shape, *offsets)):
        raise Mismatch("shape or data_offsets are not lists of sizes", fields.where)
    num_bytes = DTYPE_BYTES[dtype]
    for n in shape:
        num_bytes *= n
    if not num_bytes:
        raise Mismatch("a tensor without elements", fields.where)
    if offsets[1] - offsets[0] != num_bytes:
        raise Mismatch(f"{offsets[1] - offsets[0]} bytes of data, expected {num_bytes} for its shape", fields.where)
    return Tensor(name, dtype, shape, data_begin + offsets[0], data_begin + offsets[1])


def tensor_digest(file: BinaryIO, tensor: Tensor, where: str) -> bytes:
    """Digest of one tensor: its header and the sha256 of each row."""
    header = {"name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape}
    digest = hashlib.sha256(b"openwright:state/1:tensor\n" + canonical_json(header) + b"\n")
    num_rows = tensor.shape[0] if len(tensor.shape) >= 2 else 1
    row_bytes = (tensor.end - tensor.begin) // num_rows
    file.seek(tensor.begin)
    if row_bytes > BLOCK_BYTES:
        for _ in range(num_rows):
            leaf = hashlib.sha256()
            left = row_bytes
            while left:
                block = read_exactly(file, min(left, BLOCK_BYTES), where)
                leaf.update(block)
                left -= len(block)
            digest.update(leaf.digest())
        return digest.digest()
    rows_per_block = BLOCK_BYTES // row_bytes
    for first in range(0, num_rows, rows_per_block):
        block = read_exactly(file, min(rows_per_block, num_rows - first) * row_bytes, where)
        for begin in range(0, len(block), row_bytes):
            digest.update(hashlib.sha256(block[begin : begin + row_bytes]).digest())
    return digest.digest()


def read_exactly(file: BinaryIO, length: int, where: str) -> bytes:
    """Read that many bytes or raise a Mismatch."""
    data = file.read(length)
    if len(data) != length:
        raise Mismatch("the file ends too early", where)
    return data


class States:
    """Tensor digests of the safetensors files of a tree; equal files are read once."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._known: dict[str, dict[str, bytes]] = {}

    def of_file(self, path: str) -> dict[str, bytes]:
        """Digest of each tensor of one file, by name."""
        sha256 = self.tree.sha256(path)
        if sha256 not in self._known:
            where = self.tree.place(path)
            with self.tree.open(path) as file:
                tensors = read_tensors(file, self.tree.files[path], where)
                self._known[sha256] = {tensor.name: tensor_digest(file, tensor, where) for tensor in tensors}
        return self._known[sha256]

    def of_directory(self, directory: str, stem: str) -> dict[str, bytes]:
        """Digests of the tensors in `<stem>.safetensors`, or in the shards that its index names."""
        single, index = f"{directory}{stem}.safetensors", f"{directory}{stem}.safetensors.index.json"
        shards = re.compile(re.escape(f"{directory}{stem}") + r"-\d{5}-of-\d{5}\.safetensors")
        on_disk = [path for path in self.tree.below(f"{directory}{stem}") if shards.fullmatch(path)]
        if single in self.tree.files:
            if index in self.tree.files or on_disk:
                raise Mismatch("both one file and shards of the same tensors", self.tree.place(single))
            return self.of_file(single)
        weight_map = self.tree.json(index).part("weight_map")
        if sorted({f"{directory}{weight_map.text(name)}" for name in weight_map.value}) != on_disk:
            raise Mismatch("the index does not name exactly the shards that are there", weight_map.where)
        digests: dict[str, bytes] = {}
        for path in on_disk:
            for name, digest in self.of_file(path).items():
                if f"{directory}{weight_map.text(name)}" != path or name in digests:
                    raise Mismatch(f"tensor {show(name)} is not where the index says", self.tree.place(path))
                digests[name] = digest
        if set(digests) != set(weight_map.value):
            raise Mismatch("the index names tensors that are in no shard", weight_map.where)
        return digests


def state_digest(*parts: dict[str, bytes]) -> str:
    """Digest `state/1` over the tensors of several files."""
    tensors: dict[str, bytes] = {}
    for part in parts:
        if tensors.keys() & part.keys():
            raise Mismatch(f"tensor {show(min(tensors.keys() & part.keys()))} stands twice")
        tensors.update(part)
    digest = hashlib.sha256(b"openwright:state/1\n")
    for name in sorted(tensors):
        digest.update(tensors[name])
    return digest.hexdigest()


# ---- what a ledger says ---------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """A ledger whose chain and grammar hold.

    Attributes:
        first_step: step at whose state it begins: 0, or that of the checkpoint of another run that it goes on from.
        num_steps: steps that it records; those that are left out do not count.
        num_tokens: tokens that these steps read.
        skipped: first and last step of each stretch that is left out.
        checkpoints: by step, the record with its place in the chain.
        evaluations: step of every evaluation; `scores` holds the first and the last record.
    """

    path: str
    start: Fields
    order: Order
    first_step: int
    end: Fields
    head: str
    num_records: int = 1
    num_steps: int = 0
    num_tokens: int = 0
    skipped: list[list[int]] = field(default_factory=list)
    checkpoints: dict[int, ChainLine] = field(default_factory=dict)
    evaluations: list[int] = field(default_factory=list)
    scores: list[Fields] = field(default_factory=list)

    def is_recorded(self, step: int) -> bool:
        """Whether a step is neither left out nor before the point at which the ledger begins."""
        return step >= self.first_step and not any(first <= step <= last for first, last in self.skipped)


RECORD_KEYS = {
    "start": "format stage recipe_digest reduction num_logical_replicas order parents",
    "step": "step order_digest token_digest tokens_by_source num_trained_tokens loss gradient_norm learning_rate"
    " parameter_checksum",
    "skip": "first last",
    "evaluation": "step split num_tokens num_bytes loss bits_per_byte",
    "checkpoint": "step checkpoint_kind weights_digest state_digest",
    "end": "step weights_digest state_digest",
}
OPTIONAL_KEYS = {"start": ("branch",), "step": ("router",)}
PLACE_IN_STEP = {"step": 0, "evaluation": 1, "checkpoint": 2, "end": 3}


def check_record(record: Fields) -> str:
    """Check the fields of a ledger record; returns its kind."""
    kind = record.text("kind")
    if kind not in RECORD_KEYS:
        raise Mismatch(f"a record of kind {show(kind)}", record.where)
    record.only("kind", "previous", *RECORD_KEYS[kind].split(), optional=OPTIONAL_KEYS.get(kind, ()))
    if kind == "start":
        check_start(record)
    elif kind == "step":
        check_step(record)
    elif kind == "evaluation":
        record.text("split")
        record.number("num_tokens", 1)
        record.number("num_bytes", 1)
        record.hex_float("loss")
        record.hex_float("bits_per_byte")
    elif kind in ("checkpoint", "end"):
        record.digest("weights_digest")
        is_full = kind == "end" or record.text("checkpoint_kind") == "full"
        if not is_full and record.text("checkpoint_kind") != "weights":
            raise Mismatch(f"checkpoint of kind {show(record.get('checkpoint_kind'))}", record.where)
        if record.get("state_digest") is not None:
            record.digest("state_digest")
        if is_full != (record.get("state_digest") is not None):
            raise Mismatch("state_digest does not fit the kind of checkpoint", record.where)
    return kind


def check_start(record: Fields) -> None:
    """Check the fields of a start record that are read as they stand."""
    record.format(LEDGER_FORMAT)
    record.digest("recipe_digest")
    record.number("num_logical_replicas", 1)
    if record.text("reduction") not in ("exact", "native"):
        raise Mismatch(f"reduction {show(record.get('reduction'))}, expected exact or native", record.where)
    if "branch" in record.value:
        branch = record.part("branch")
        branch.only("ledger_head", "step", "state_digest")
        branch.digest("ledger_head")
        branch.number("step", 1)
        branch.digest("state_digest")


def check_step(record: Fields) -> None:
    """Check the fields of a step record."""
    for key in ("order_digest", "token_digest"):
        record.digest(key)
    for key in ("loss", "gradient_norm", "learning_rate"):
        record.hex_float(key)
    tokens = record.part("tokens_by_source")
    total = sum(tokens.number(name, 1) for name in tokens.value)
    if record.number("num_trained_tokens", 1) > total:
        raise Mismatch("more trained tokens than tokens", record.where)
    if not re.fullmatch("[0-9a-f]{16}-[0-9a-f]{16}", record.text("parameter_checksum")):
        raise Mismatch("parameter_checksum has another form", record.where)
    if "router" in record.value:
        router = record.part("router")
        router.only("layers", "counts_sha256")
        router.digest("counts_sha256")
        for layer in router.parts("layers"):
            layer.only("router", "num_experts", "num_choices", "smallest_load", "largest_load")
            layer.text("router")
            experts, choices = layer.number("num_experts", 1), layer.number("num_choices")
            if not experts * layer.number("smallest_load") <= choices <= experts * layer.number("largest_load"):
                raise Mismatch("the loads of the experts do not fit the number of choices", layer.where)


def read_ledger(tree: Tree, path: str) -> Ledger:
    """Check the chain and grammar of a ledger: start, contiguous steps, records in their places, end."""
    lines = read_chain(tree, path)
    first = next(lines, None)
    if first is None or first.record.value.get("kind") != "start":
        raise Mismatch("the ledger does not begin with its start record", tree.place(path))
    start = first.record
    check_record(start)
    order = read_order(start.part("order"))
    begin = start.part("branch").number("step") if "branch" in start.value else 0
    ledger = Ledger(path, start, order, begin, start, first.head)
    # The state that a branch begins with is no result of its steps: nothing but its checkpoint record stands there.
    step, place = begin, PLACE_IN_STEP["evaluation"] if begin else -1
    for line in lines:
        record, kind = line.record, check_record(line.record)
        if ledger.end is not start:
            raise Mismatch("a record after the end record", record.where)
        if kind == "start":
            raise Mismatch("a second start record", record.where)
        if kind in ("step", "skip") and begin not in ledger.checkpoints:
            raise Mismatch(f"no checkpoint record for step {begin}", record.where)
        ledger.head, ledger.num_records = line.head, line.number
        if kind == "skip":
            stretch = [record.number("first"), record.number("last")]
            if not step + 1 == stretch[0] <= stretch[1] < order.num_steps:
                raise Mismatch(f"steps {stretch} cannot be left out after step {step}", record.where)
            ledger.skipped.append(stretch)
            step, place = stretch[1], len(PLACE_IN_STEP)
            continue
        if kind == "step":
            step, place = step + 1, -1
            ledger.num_steps += 1
            ledger.num_tokens += sum(record.value["tokens_by_source"].values())
        if record.number("step") != step or step > order.num_steps or PLACE_IN_STEP[kind] <= place:
            raise Mismatch(f"a {kind} record of step {record.get('step')} is out of place at step {step}", record.where)
        place = PLACE_IN_STEP[kind]
        if kind == "checkpoint":
            ledger.checkpoints[step] = line
        elif kind == "evaluation":
            ledger.evaluations.append(step)
            ledger.scores = [*ledger.scores[:1], record]
        elif kind == "end":
            ledger.end = record
    if ledger.end is start or step != order.num_steps:
        raise Mismatch(f"the ledger stops at step {step} of {order.num_steps}", tree.place(path))
    last = ledger.checkpoints.get(step)
    if last is None or any(last.record.value[k] != ledger.end.value[k] for k in ("weights_digest", "state_digest")):
        raise Mismatch("the end record has no equal checkpoint record at the last step", ledger.end.where)
    if begin and ledger.checkpoints[begin].record.value["state_digest"] != start.value["branch"]["state_digest"]:
        raise Mismatch("the first checkpoint record is not of the state that the branch begins with", start.where)
    return ledger


@dataclass(frozen=True)
class Schedule:
    """When a recipe orders checkpoints and held-out losses, and which checkpoints it keeps."""

    settings: Fields
    heldout_every_steps: int
    num_steps: int

    def weights_due(self, step: int) -> bool:
        """Whether weights are kept at a step."""
        every = self.settings.number("weights_every_steps")
        early = step <= self.settings.number("weights_until_step") and not step & (step - 1)
        return early or bool(every and step % every == 0)

    def full_due(self, step: int) -> bool:
        """Whether a full checkpoint is made at a step."""
        return step > 0 and (step % self.settings.number("full_every_steps", 1) == 0 or step == self.num_steps)

    def evaluation_due(self, step: int) -> bool:
        """Whether a held-out loss is taken at a step."""
        return step % self.heldout_every_steps == 0 or step == self.num_steps

    @cached_property
    def published(self) -> set[int]:
        """Steps whose full checkpoints are never removed."""
        return set(self.settings.items("published_full_steps"))

    def must_stay_full(self, ledger: Ledger) -> set[int]:
        """Steps whose full checkpoints belong in the bundle: the first and last, published ones, the newest ones."""
        made = [step for step, line in ledger.checkpoints.items() if line.record.value["checkpoint_kind"] == "full"]
        if self.settings.get("keep_last_full") is None:
            return set(made)
        every = self.settings.number("full_every_steps", 1)
        newest = sorted(step for step in made if step < self.num_steps and step % every == 0)
        newest = newest[-self.settings.number("keep_last_full", 1) :]
        return {ledger.first_step, self.num_steps, *self.published, *newest} & set(made)

    def never_made(self, ledger: Ledger) -> list[int]:
        """Published steps that this run reached and made no full checkpoint of."""
        made = {step for step, line in ledger.checkpoints.items() if line.record.value["checkpoint_kind"] == "full"}
        return sorted(step for step in self.published - made if ledger.is_recorded(step))


def read_schedule(recipe: Fields, num_steps: int) -> Schedule:
    """Read the schedule of a recipe."""
    return Schedule(recipe.part("checkpoints"), recipe.part("data").number("heldout_every_steps", 1), num_steps)


# ---- the checks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A stage as the root manifest names it, with its artifact manifest and the place of its files."""

    name: str
    row: Fields
    manifest: Fields
    content_digest: str

    @property
    def is_training(self) -> bool:
        """Whether it trained a model."""
        return self.manifest.where.startswith("model/training/")

    def place(self, path: str) -> tuple[str, str]:
        """Tree label and path in that tree of a file of the artifact."""
        if self.name == "corpus":
            return "dataset", path
        if not self.is_training:
            return "model", f"evaluation/{path}"
        if path.startswith("checkpoints/"):
            return "model", f"checkpoints/{self.name}/{path[len('checkpoints/') :]}"
        return "model", f"training/{self.name}/{path}"


RESULT_PATHS = re.compile(
    r"code/.*|(config|generation_config)\.json|tokenizer[^/]*|chat_template\.jinja|model[^/]*\.safetensors.*"
)
NO_DATASET = "the dataset is not here: give the directory that holds model/ and dataset/"


class Verifier:
    """All checks on one bundle, in order; each adds one result.

    Args:
        bundle: directory that holds `model/` and `dataset/`, or a lone `model/` directory.
        expect: manifest digest from a place that you trust, or None.
        tokens: `sample`, `all` or `none`: of how many steps the token digests are recomputed.
        seed: seed of the samples.
        report: called with each result as it comes.
    """

    def __init__(
        self, bundle: Path, expect: str | None, tokens: str, seed: int, report: Callable[[CheckResult], None]
    ) -> None:
        self.bundle = bundle
        self.expect = expect
        self.tokens = tokens
        self.seed = seed
        self.report = report
        self.results: list[CheckResult] = []
        self.trees: dict[str, Tree] = {}
        self.roles: dict[str, dict[str, ListedFile]] = {}
        self.stages: list[Stage] = []
        self.splits: dict[str, Split] = {}
        self.ledgers: dict[str, Ledger] = {}
        self.root = Fields({}, "model/manifest.json")

    @cached_property
    def _states(self) -> States:
        return States(self.model)

    def run(self) -> list[CheckResult]:
        """Run every check."""
        if not self._check(BYTES, "tree", "", self.check_tree) and "model" not in self.trees:
            return self.results
        self._check(BYTES, "identity", "model/manifest.json", self.check_identity)
        if "manifest.sig" in self.model.files:
            self._check(BYTES, "signature", "model/manifest.sig", lambda: unverified(SIGNATURE_NOT_CHECKED))
        if self.model.below("attestations/"):
            self._check(BYTES, "attestations", "model/attestations", lambda: unverified("not checked by this program"))
        if not self._check(BYTES, "manifest", "model/manifest.json", self.read_root):
            self._skip("everything else", "the root manifest could not be read")
            return self.results
        self._check(BYTES, "model files", "model", lambda: self.check_files("model", self.root))
        if self.dataset is None:
            for name in ("dataset files", "dataset binding"):
                self._check(BYTES, name, "dataset", lambda: unverified(NO_DATASET))
        else:
            self._check(BYTES, "dataset binding", "dataset/manifest.json", self.check_binding)
            self._check(BYTES, "dataset files", "dataset", lambda: self.check_files("dataset", self.dataset_manifest()))
        self._check(BYTES, "content digest", "model/manifest.json", self.check_content)
        for row in self.root.parts("stages"):
            self._check(BYTES, f"stage {show(row.value.get('stage'))}", row.where, partial(self.check_stage, row))
        self.check_records()
        return self.results

    def check_records(self) -> None:
        """Run the checks of kind `records`."""
        self._check(RECORDS, "lineage", "model/manifest.json", self.check_lineage)
        self._check(RECORDS, "code", "model/code", self.check_code)
        self._check(RECORDS, "journals", "", self.check_journals)
        for name, where, body in (
            ("token shards", "dataset/tokens", self.check_shards),
            ("documents", "dataset/documents", self.check_documents),
            ("tokenizer", "dataset/tokenizer", self.check_tokenizer),
        ):
            self._check(RECORDS, name, where, body if self.dataset else lambda: unverified(NO_DATASET))
        for stage in self.training_stages:
            folder = f"model/training/{stage.name}"
            for what, body_of_stage in (
                ("ledger", self.check_ledger),
                ("run", self.check_run),
                ("recipe", self.check_recipe),
                ("windows", self.check_windows),
                ("order", self.check_order),
                ("tokens", self.check_tokens),
                ("schedule", self.check_schedule),
                ("checkpoints", self.check_checkpoints),
            ):
                self._check(RECORDS, f"{stage.name} {what}", folder, partial(body_of_stage, stage))
            if stage.name in self.ledgers and self.ledgers[stage.name].first_step:
                self._check(RECORDS, f"{stage.name} branch", folder, partial(self.check_branch, stage))
        self._check(RECORDS, "final weights", "model/model.safetensors", self.check_final_weights)
        self._check(RECORDS, "evaluation", "model/evaluation/record.json", self.check_evaluation)

    def _check(self, check: str, name: str, where: str, body: Callable[[], str]) -> bool:
        """Run one check; whatever it meets becomes a result, never a traceback."""
        verdict = PASS
        try:
            detail = body()
        except Mismatch as error:
            verdict = UNVERIFIED if isinstance(error, Unverifiable) else FAIL
            detail, where = error.detail, error.where or where
        except Exception as error:  # hostile files can break in ways that nobody foresaw: a FAIL, not a crash
            verdict, detail = FAIL, f"cannot be read: {type(error).__name__}: {show(str(error))}"
        self.results.append(CheckResult(check, name, verdict, detail, where))
        self.report(self.results[-1])
        return verdict == PASS

    def _skip(self, name: str, why: str) -> None:
        self._check(RECORDS, name, "", lambda: unverified(f"not checked: {why}"))

    @property
    def model(self) -> Tree:
        """Files of `model/`."""
        return self.trees["model"]

    @property
    def dataset(self) -> Tree | None:
        """Files of `dataset/`; None for a lone model directory."""
        return self.trees.get("dataset")

    @property
    def training_stages(self) -> list[Stage]:
        """Stages that trained, in order."""
        return [stage for stage in self.stages if stage.is_training]

    # -- bytes

    def check_tree(self) -> str:
        """Walk the files; only plain files with harmless names belong in a bundle."""
        directories = {"model": self.bundle / "model", "dataset": self.bundle / "dataset"}
        problems = []
        if not (self.bundle / "model").is_dir() and (self.bundle / "manifest.json").is_file():
            directories = {"model": self.bundle}
        else:
            odd = sorted(set(os.listdir(self.bundle)) - set(directories))
            problems += [("does not belong in a bundle", show(name)) for name in odd]
        for label, directory in directories.items():
            if label != "model" and not os.path.lexists(directory):
                continue
            if label != "model" or directory != self.bundle:
                if not os.path.lexists(directory):
                    raise Mismatch("there is no model/manifest.json: this is not a bundle")
                if not stat.S_ISDIR(directory.lstat().st_mode):
                    raise Mismatch("is a link or no directory", label)
            tree = Tree(directory, label)
            self.trees[label] = tree
            problems += [(problem, tree.place(path)) for problem, path in tree.problems]
        if problems:
            more = f" (and {len(problems) - 1} more problems)" if problems[1:] else ""
            raise Mismatch(problems[0][0] + more, problems[0][1])
        return f"{sum(len(tree.files) for tree in self.trees.values())} plain files, no links, no odd names"

    def check_identity(self) -> str:
        """Compare the manifest digest with the expected one."""
        digest = self.model.sha256("manifest.json")
        if self.expect is None:
            return unverified(f"manifest digest {digest}: {NOTHING_EXPECTED}")
        if digest != self.expect:
            raise Mismatch(f"manifest digest {digest}, expected {show(self.expect)}")
        return f"manifest digest {digest} is the expected one"

    def read_root(self) -> str:
        """Read the root manifest."""
        self.root = self.model.json("manifest.json")
        self.root.format(BUNDLE_FORMAT)
        self.root.only("format", "name", "version", "dev", "content_digest", "dataset", "stages", "files")
        self.roles["model"] = {entry.path: entry for entry in listed_files(self.root, "files", with_roles=True)}
        for row in self.root.parts("stages"):
            row.only("stage", "fingerprint", "content_digest", "parents", "code")
        names = [row.text("stage") for row in self.root.parts("stages")]
        if len(set(names)) != len(names):
            raise Mismatch("a stage is listed twice", self.root.where)
        name, version = self.root.text("name"), self.root.text("version")
        if self.root.flag("dev"):
            return unverified(
                f"{show(name)} {show(version)} was made with --dev: no commit holds the code that made it"
            )
        return f"{show(name)} {show(version)}, stages {', '.join(map(show, names))}"

    def dataset_manifest(self) -> Fields:
        """Read the manifest of the dataset."""
        assert self.dataset is not None
        manifest = self.dataset.json("manifest.json")
        manifest.format(DATASET_FORMAT)
        manifest.only("format", "content_digest", "corpus", "files")
        return manifest

    def check_binding(self) -> str:
        """The root manifest names exactly this dataset."""
        assert self.dataset is not None
        bound = self.root.part("dataset")
        bound.only("content_digest", "manifest_sha256")
        if self.dataset.sha256("manifest.json") != bound.digest("manifest_sha256"):
            raise Mismatch("dataset/manifest.json is not the one that the root manifest names")
        if self.dataset_manifest().digest("content_digest") != bound.digest("content_digest"):
            raise Mismatch("the dataset has another content digest than the root manifest names")
        return f"content {bound.digest('content_digest')}"

    def check_files(self, label: str, manifest: Fields) -> str:
        """Every listed file is there with its size and sha256, and no other file is."""
        tree = self.trees[label]
        listed = {entry.path: entry for entry in listed_files(manifest, "files", with_roles=True)}
        self.roles[label] = listed
        apart = ("manifest.json", "manifest.sig") if label == "model" else ("manifest.json",)
        found = {p for p in tree.files if p not in apart and not (label == "model" and p.startswith("attestations/"))}
        problems = []
        for path in sorted(found | listed.keys()):
            if path not in listed:
                problems.append(("is not listed in the manifest", path))
            elif path not in found:
                problems.append(("is listed and missing", path))
            elif tree.files[path] != listed[path].size_bytes:
                problems.append((f"has {tree.files[path]} bytes, listed are {listed[path].size_bytes}", path))
            elif tree.sha256(path) != listed[path].sha256:
                problems.append(("is not the listed file: its sha256 differs", path))
        if problems:
            more = f" (and {len(problems) - 1} more files)" if problems[1:] else ""
            raise Mismatch(problems[0][0] + more, tree.place(problems[0][1]))
        return f"{len(listed)} files, {sum(entry.size_bytes for entry in listed.values()):,} bytes"

    def check_content(self) -> str:
        """Recompute the content digest `bundle/1`."""
        entries = self.roles["model"].values()
        for entry in entries:
            if entry.role != "result" and RESULT_PATHS.fullmatch(entry.path):
                raise Mismatch(
                    f"has role {entry.role}: it would not count in the content digest", self.model.place(entry.path)
                )
        value = {
            "name": self.root.text("name"),
            "version": self.root.text("version"),
            "dataset": self.root.part("dataset").digest("content_digest"),
            "results": [e.as_json() for e in sorted(entries, key=lambda e: e.path) if e.role == "result"],
        }
        if tagged_digest("bundle/1", value) != self.root.digest("content_digest"):
            raise Mismatch("the content digest bundle/1 does not follow from the listed results")
        return f"bundle/1 {self.root.digest('content_digest')}"

    def check_stage(self, row: Fields) -> str:
        """Recompute `content/1` of a stage and compare its files with those of the bundle."""
        stage = self._open_stage(row)
        manifest, results = stage.manifest, listed_files(stage.manifest, "results")
        value = {
            "kind": manifest.text("kind"),
            "results": [entry.as_json() for entry in sorted(results, key=lambda entry: entry.path)],
            "parents": sorted_parents(manifest),
        }
        if manifest.text("kind") != stage.name:
            raise Mismatch(f"the manifest is of a stage {show(manifest.text('kind'))}", manifest.where)
        if tagged_digest("content/1", value) != manifest.digest("content_digest"):
            raise Mismatch("the content digest content/1 does not follow from the manifest", manifest.where)
        for key in ("fingerprint", "content_digest", "parents", "code"):
            if manifest.get(key) != row.get(key):
                raise Mismatch(f"{key} differs between the root manifest and the stage's", manifest.where)
        if manifest.flag("dev") and not self.root.flag("dev"):
            raise Mismatch("the stage was made with --dev and the bundle does not say so", manifest.where)
        observations = listed_files(manifest, "observations")
        missing = self._compare_files(stage, results, "result") + self._compare_files(
            stage, observations, "observation"
        )
        self._no_other_results(stage, {stage.place(entry.path)[1] for entry in results})
        self.stages.append(stage)
        left_out = f", {missing} of them not shipped" if missing else ""
        return f"content/1 {stage.content_digest}, {len(results)} results{left_out}"

    def _open_stage(self, row: Fields) -> Stage:
        name = row.text("stage")
        if path_problem(name) or "/" in name:
            raise Mismatch(f"stage name {show(name)}", row.where)
        if name == "corpus":
            if self.dataset is None:
                raise Unverifiable(NO_DATASET)
            manifest = self.dataset_manifest().part("corpus")
            if manifest.digest("content_digest") != self.root.part("dataset").digest("content_digest"):
                raise Mismatch("the corpus is not the one that the root manifest names", manifest.where)
        else:
            trained = f"training/{name}/manifest.json"
            manifest = self.model.json(trained if trained in self.model.files else "evaluation/manifest.json")
        manifest.format(ARTIFACT_FORMAT)
        return Stage(name, row, manifest, manifest.digest("content_digest"))

    def _compare_files(self, stage: Stage, entries: Sequence[ListedFile], role: str) -> int:
        """Compare an artifact's files with the listed ones; returns how many are not shipped (corpus only)."""
        missing = 0
        for entry in entries:
            label, path = stage.place(entry.path)
            listed = self.roles.get(label, {}).get(path)
            if listed is None and stage.name == "corpus":
                missing += 1
            elif listed is None:
                raise Mismatch("a file of the stage is not in the bundle", f"{label}/{show(path)}")
            elif (listed.size_bytes, listed.sha256) != (entry.size_bytes, entry.sha256):
                raise Mismatch("the file is not the one that the stage made", f"{label}/{show(path)}")
            elif listed.role != role:
                raise Mismatch(f"has role {listed.role}; the stage lists it as {role}", f"{label}/{show(path)}")
        return missing

    def _no_other_results(self, stage: Stage, known: set[str]) -> None:
        """No file among those of a stage may count as a result that the stage did not make."""
        label: str = "model"
        folders: tuple[str, ...] = ("evaluation/",)
        if stage.name == "corpus":
            label, folders = "dataset", ("",)
        elif stage.is_training:
            folders = (f"training/{stage.name}/", f"checkpoints/{stage.name}/")
        for path, entry in self.roles[label].items():
            if entry.role == "result" and path.startswith(folders) and path not in known:
                raise Mismatch("is listed as a result and the stage did not make it", f"{label}/{show(path)}")

    # -- records: lineage, code, journals

    def check_lineage(self) -> str:
        """Every stage's parents are earlier stages, and fine-tuning starts from its base's final weights."""
        names = {row.text("stage") for row in self.root.parts("stages")}
        known = {stage.name for stage in self.stages}
        for folder in ("training", "checkpoints"):
            for path in self.model.below(f"{folder}/"):
                if path.split("/")[1] not in names:
                    raise Mismatch("belongs to a stage that the root manifest does not name", self.model.place(path))
        earlier = {self.root.part("dataset").digest("content_digest"): "corpus"}
        foreign = []
        for row in self.root.parts("stages"):
            for parent in row.parts("parents"):
                parent.only("role", "name", "content_digest")
                if parent.digest("content_digest") not in earlier:
                    foreign.append(f"{show(row.text('stage'))} <- {show(parent.text('name'))}")
            earlier[row.digest("content_digest")] = row.text("stage")
        if foreign:
            raise Unverifiable(f"parents that are no earlier stage of this bundle: {', '.join(foreign[:5])}")
        if names != known and (names - known != {"corpus"} or self.dataset is not None):
            raise Unverifiable(f"stages that could not be read: {', '.join(sorted(map(show, names - known)))}")
        return f"{len(names)} stages, every parent is an earlier one"

    def check_code(self) -> str:
        """`code/` is what CODE.json lists, and the stages recorded that source tree."""
        record = self.model.json("code/CODE.json")
        record.format(CODE_FORMAT)
        if not re.fullmatch("[0-9a-f]{40}", record.text("commit")):
            raise Mismatch(f"commit {show(record.text('commit'))}", record.where)
        listed = {f"code/{entry.path}": entry for entry in listed_files(record, "files")}
        found = [path for path in self.model.below("code/") if path != "code/CODE.json"]
        for path in sorted(listed.keys() | set(found)):
            if path not in listed or path not in self.model.files:
                raise Mismatch("is not in CODE.json or missing", self.model.place(path))
            if (self.model.files[path], self.model.sha256(path)) != (listed[path].size_bytes, listed[path].sha256):
                raise Mismatch("is not the file that CODE.json lists", self.model.place(path))
        sources = [
            entry for path, entry in sorted(listed.items()) if path.split("/")[1] in PACKAGES and path.count("/") > 1
        ]
        digest = tagged_digest("sources/1", [entry.as_json() for entry in sorted(sources, key=lambda e: e.path)])
        others = []
        for row in self.root.parts("stages"):
            code = row.part("code")
            if code.flag("dirty") and not self.root.flag("dev"):
                raise Mismatch(f"stage {show(row.text('stage'))} ran from a changed source tree", row.where)
            if code.digest("packages_digest") != digest:
                others.append(show(row.text("stage")))
        if others:
            raise Unverifiable(
                f"{', '.join(others)} ran from a tree whose packages differ from code/; whether in what those stages"
                " may import is judged by `openwright verify` (rule BND-04)"
            )
        return f"{len(listed)} files; sources/1 {digest} is the one that every stage recorded"

    def check_journals(self) -> str:
        """The journals are whole chains."""
        count = 0
        for tree in self.trees.values():
            for path in tree.files:
                if path.split("/")[-1] == "journal.jsonl" and not path.startswith("code/"):
                    count += sum(1 for _ in read_chain(tree, path))
        return f"{count:,} records, every link holds"

    # -- records: the corpus

    def check_shards(self) -> str:
        """Recompute `tokens/1` of every split and look through the shards that are here."""
        tree = self.trees["dataset"]
        tokens = tree.json("tokens/tokens.json")
        tokens.format(TOKENS_FORMAT)
        tokens.only("format", "vocab_size", "eos_id", "pad_id", "tokenizer_sha256", "splits")
        splits = tokens.part("splits")
        found = {name: read_split(name, splits.part(name)) for name in splits.value}
        self.splits, absent = found, 0
        named: set[str] = set()
        for split in found.values():
            for shard in (shard for _, shards in split.sources for shard in shards):
                named.update(path for path, _ in shard.files.values())
                absent += not self._check_shard(tree, split, shard, tokens)
        odd = set(tree.below("tokens/")) - named - {"tokens/tokens.json"}
        if odd:
            raise Mismatch("belongs to no split of tokens.json", tree.place(min(odd)))
        if absent:
            raise Unverifiable(f"{absent} shards are not shipped; the digests tokens/1 of {len(found)} splits hold")
        return f"{len(found)} splits: digests, sizes, ids below the vocabulary size, document ends and masks"

    def _check_shard(self, tree: Tree, split: Split, shard: Shard, tokens: Fields) -> bool:
        """Check one shard; returns whether all its files are here."""
        sizes = {
            "tokens": split.item_bytes * shard.num_tokens,
            "ends": 8 * shard.num_documents,
            "mask": shard.num_tokens,
        }
        here = {role: path for role, (path, _) in shard.files.items() if path in tree.files}
        for role, path in here.items():
            if tree.files[path] != sizes[role]:
                raise Mismatch(f"{tree.files[path]} bytes, expected {sizes[role]}", tree.place(path))
            if tree.sha256(path) != shard.files[role][1]:
                raise Mismatch("is not the file that tokens.json names", tree.place(path))
        if split.layout == "rows" and (shard.num_tokens % split.width or not shard.num_tokens):
            raise Mismatch(f"{shard.num_tokens} tokens are no whole rows of {split.width}", tokens.where)
        if "tokens" in here:
            vocab_size = tokens.number("vocab_size", 1)
            for block in blocks(tree, here["tokens"]):
                if max(unpack(block, split.item_bytes)) >= vocab_size:
                    raise Mismatch("a token id beyond the vocabulary", tree.place(here["tokens"]))
        if "mask" in here and any(block.translate(None, b"\0\1") for block in blocks(tree, here["mask"])):
            raise Mismatch("a mask value that is neither 0 nor 1", tree.place(here["mask"]))
        if "ends" in here:
            last = 0
            for end in (end for block in blocks(tree, here["ends"]) for end in unpack(block, 8)):
                if end <= last:
                    raise Mismatch("document ends that do not increase", tree.place(here["ends"]))
                last = end
            if last != shard.num_tokens:
                raise Mismatch(f"the last document ends at {last} of {shard.num_tokens}", tree.place(here["ends"]))
        return len(here) == len(shard.files)

    def check_documents(self) -> str:
        """The index fits its codes, the totals, the sources and, document by document, the token shards."""
        tree = self.trees["dataset"]
        codes = tree.json("documents/codes.json")
        codes.format(CODES_FORMAT)
        lists = [codes.texts(key) for key in ("sources", "licences", "decisions", "splits")]
        if lists[2][:1] != ["kept"] or lists[3][:1] != ["none"]:
            raise Mismatch("decision 0 is not `kept` or split 0 is not `none`", codes.where)
        locked = {part.text("name") for part in tree.json("sources.lock").parts("sources")}
        if not locked.issuperset(lists[0]):
            raise Mismatch("a source of the documents is not in sources.lock", codes.where)
        kept: dict[tuple[str, str], array[int]] = {}
        num_rows, last = 0, b""
        for place, row in index_rows(tree):
            document, _, num_tokens, source, licence, decision, split, reserved_1, reserved_2 = row
            numbers = (source, licence, decision, split)
            if document <= last:
                raise Mismatch("document ids that do not increase", place)
            if any(number >= len(names) for number, names in zip(numbers, lists, strict=True)):
                raise Mismatch("a code that codes.json does not list", place)
            if reserved_1 or reserved_2 or (decision == 0) != (split != 0) or (decision and num_tokens):
                raise Mismatch("a row whose decision, split and tokens do not fit together", place)
            num_rows, last = num_rows + 1, document
            if not decision:
                kept.setdefault((lists[3][split], lists[0][source]), array("I")).append(num_tokens)
        num_kept = sum(map(len, kept.values()))
        totals = tree.json("corpus.json")
        totals.format(CORPUS_FORMAT)
        totals = totals.part("num_documents")
        if (totals.number("kept"), totals.number("dropped")) != (num_kept, num_rows - num_kept):
            raise Mismatch(f"corpus.json counts other documents than {num_kept} kept of {num_rows}", totals.where)
        absent = self._compare_documents(tree, kept)
        if absent:
            raise Unverifiable(f"{num_rows} rows hold; the document ends of {absent} shards are not shipped")
        return f"{num_rows:,} rows, {num_kept:,} kept, each with the tokens that the shards hold"

    def _compare_documents(self, tree: Tree, kept: dict[tuple[str, str], array[int]]) -> int:
        """Compare the tokens of kept documents with the shards'; returns how many shards are not here."""
        if not self.splits:
            raise Unverifiable("tokens.json could not be read")
        absent = 0
        for split in (split for split in self.splits.values() if split.layout == "stream"):
            for name, shards in split.sources:
                counts = kept.pop((split.name, name), array("I"))
                where = f"split {show(split.name)}, source {show(name)}"
                found = (sum(shard.num_tokens for shard in shards), sum(shard.num_documents for shard in shards))
                if found != (sum(counts), len(counts)):
                    raise Mismatch(
                        f"the index counts {sum(counts)} tokens in {len(counts)} documents of {where}, the"
                        f" shards {found[0]} in {found[1]}",
                        "dataset/documents/index-00000.bin",
                    )
                first = 0
                for shard in shards:
                    path, end = shard.files["ends"][0], 0
                    absent += path not in tree.files
                    for block in blocks(tree, path) if path in tree.files else ():
                        for number in unpack(block, 8):
                            if number - end != counts[first]:
                                raise Mismatch(
                                    f"document {first} of {where} has {number - end} tokens in the shard and"
                                    f" {counts[first]} in the index",
                                    tree.place(path),
                                )
                            first, end = first + 1, number
                    first += shard.num_documents if path not in tree.files else 0
        if kept:
            raise Mismatch(f"kept documents of {show(min(kept))} have no shard", "dataset/documents/index-00000.bin")
        return absent

    def check_tokenizer(self) -> str:
        """One tokenizer: that of the shards, of the corpus and of the model."""
        tree = self.trees["dataset"]
        expected = tree.json("tokens/tokens.json").digest("tokenizer_sha256")
        for owner, path in ((tree, "tokenizer/tokenizer.json"), (self.model, "tokenizer.json")):
            if owner.sha256(path) != expected:
                raise Mismatch("is not the tokenizer that made the shards", owner.place(path))
        return "the model's tokenizer.json is the one that made the shards"

    # -- records: training stages

    def check_ledger(self, stage: Stage) -> str:
        """Chain and grammar of a ledger."""
        ledger = read_ledger(self.model, f"training/{stage.name}/ledger.jsonl")
        if ledger.start.text("stage") != stage.name:
            raise Mismatch(f"the ledger is of a stage {show(ledger.start.text('stage'))}", ledger.start.where)
        self.ledgers[stage.name] = ledger
        if sorted_parents(ledger.start) != sorted_parents(stage.manifest):
            raise Mismatch("the ledger names other parents than the stage's manifest", ledger.start.where)
        steps = f"steps {ledger.first_step + 1:,} to {ledger.order.num_steps:,}"
        if ledger.skipped:
            steps += f" without {', '.join(f'{first:,} to {last:,}' for first, last in ledger.skipped[:5])}"
        return f"{ledger.num_records:,} records, {steps}, head {ledger.head}"

    def check_branch(self, stage: Stage) -> str:
        """What a run of another ledger did before this one went on from it is not in this bundle."""
        start = self._ledger(stage).start
        branch = start.value["branch"]
        return unverified(
            f"steps 1 to {branch['step']:,} ran in another run, whose ledger head is {branch['ledger_head']}: how the"
            " state came about that this run begins with is not in this bundle"
        )

    def _ledger(self, stage: Stage) -> Ledger:
        if stage.name not in self.ledgers:
            raise Unverifiable("not checked: the ledger could not be read")
        return self.ledgers[stage.name]

    def check_run(self, stage: Stage) -> str:
        """`run.json` says what the ledger says."""
        ledger = self._ledger(stage)
        run = self.model.json(f"training/{stage.name}/run.json")
        run.format(RUN_FORMAT)
        final, steps = run.part("final"), ledger.order.num_steps
        facts = {
            "stage": (run.text("stage"), stage.name),
            "num_steps": (run.number("num_steps"), steps),
            "num_tokens": (run.number("num_tokens"), ledger.num_tokens),
            "final.step": (final.number("step"), steps),
            "final.path": (final.text("path"), f"checkpoints/step-{steps:08d}"),
            "final.weights_digest": (final.digest("weights_digest"), ledger.end.value["weights_digest"]),
            "final.state_digest": (final.digest("state_digest"), ledger.end.value["state_digest"]),
            "ledger.head": (run.part("ledger").digest("head"), ledger.head),
            "ledger.num_records": (run.part("ledger").number("num_records"), ledger.num_records),
        }
        for name, record in zip(("first", "last"), (ledger.scores[:1] + ledger.scores[-1:]), strict=False):
            scores = run.part("heldout").part(name)
            scores.only("step", "loss", "bits_per_byte", "num_tokens", "num_bytes")
            facts[f"heldout.{name}"] = (scores.value, {key: record.value[key] for key in scores.value})
        for name, (said, follows) in facts.items():
            if said != follows:
                raise Mismatch(f"{name} is {show(said)}; the ledger says {show(follows)}", run.where)
        return f"{steps:,} steps, {facts['num_tokens'][0]:,} tokens, final weights and held-out losses as in the ledger"

    def check_recipe(self, stage: Stage) -> str:
        """The ledger names this recipe, and seed, split, phases and mixture of the order follow from it."""
        ledger, order = self._ledger(stage), self._ledger(stage).order
        recipe = self.model.json(f"training/{stage.name}/recipe.json")
        if recipe.value != stage.manifest.get("recipe"):
            raise Mismatch("is not the recipe of the stage's manifest", recipe.where)
        if tagged_digest("recipe/1", recipe.value) != ledger.start.digest("recipe_digest"):
            raise Mismatch("the ledger's recipe_digest is of another recipe", recipe.where)
        data = recipe.part("data")
        facts = {
            "seed": (recipe.get("seed"), order.seed),
            "data.split": (data.text("split"), order.split),
            "data.window_tokens": (data.number("window_tokens"), order.window_tokens),
            "num_logical_replicas": (recipe.number("num_logical_replicas"), ledger.start.value["num_logical_replicas"]),
            "reduction": (recipe.text("reduction"), ledger.start.value["reduction"]),
            "skip_steps": (self._skips(recipe, ledger), ledger.skipped),
            "phases": ([self._phase(part, order) for part in recipe.parts("phases")], order.phases),
        }
        for name, (said, follows) in facts.items():
            if said != follows:
                raise Mismatch(f"{name} is {show(said)} in the recipe and {show(follows)} in the ledger", recipe.where)
        return "recipe/1 as recorded; seed, split, window, phases and exact mixture counts follow from it"

    @staticmethod
    def _skips(recipe: Fields, ledger: Ledger) -> list[Json]:
        """Stretches that the recipe leaves out; those that end before a branch begins are no part of its ledger."""
        stretches = recipe.items("skip_steps")
        if any(not isinstance(s, list) or len(s) != 2 or any(type(n) is not int for n in s) for s in stretches):
            raise Mismatch("skip_steps is no list of first and last steps", recipe.where)
        return [stretch for stretch in stretches if stretch[1] > ledger.first_step]

    def check_schedule(self, stage: Stage) -> str:
        """The ledger holds exactly the checkpoints and held-out losses that the recipe orders."""
        ledger = self._ledger(stage)
        recipe = self.model.json(f"training/{stage.name}/recipe.json")
        schedule = read_schedule(recipe, ledger.order.num_steps)
        evaluated = set(ledger.evaluations)
        for step in range(ledger.first_step, schedule.num_steps + 1):
            line = ledger.checkpoints.get(step)
            found = line.record.value["checkpoint_kind"] if line else None
            due = "full" if schedule.full_due(step) else "weights" if schedule.weights_due(step) or not step else None
            if step == ledger.first_step > 0:
                due = "full"
            elif not ledger.is_recorded(step):
                due = None
            if found != due:
                raise Mismatch(
                    f"step {step} has {found or 'no'} checkpoint in the ledger, the recipe orders {due or 'none'}"
                )
            has_evaluation = ledger.is_recorded(step) and schedule.evaluation_due(step)
            if (step in evaluated) != (has_evaluation and (step > ledger.first_step or not step)):
                raise Mismatch(f"the held-out loss of step {step} is not as the recipe orders")
        if schedule.never_made(ledger):
            raise Mismatch(
                f"published_full_steps: no full checkpoint of step {schedule.never_made(ledger)[0]} was made"
            )
        return f"{len(ledger.checkpoints)} checkpoints and {len(evaluated)} held-out losses, as the recipe orders"

    @staticmethod
    def _phase(part: Fields, order: Order) -> tuple[int, int, list[int]]:
        num_steps, width, mixture = (
            part.number("num_steps", 1),
            part.number("sequences_per_step", 1),
            part.get("mixture"),
        )
        weights = order.sizes
        if mixture != "proportional":
            named = part.part("mixture")
            if not set(order.names).issuperset(named.value):
                raise Mismatch("the mixture names a source that the order lacks", part.where)
            weights = [named.number(name) if name in named.value else 0 for name in order.names]
        if not sum(weights):
            raise Mismatch("a mixture without weight", part.where)
        shares = [divmod(num_steps * width * weight, sum(weights)) for weight in weights]
        counts = [whole for whole, _ in shares]
        ranks = sorted(range(len(weights)), key=lambda m: (-shares[m][1], m))
        for m in ranks[: num_steps * width - sum(counts)]:
            counts[m] += 1
        return num_steps, width, counts

    def check_windows(self, stage: Stage) -> str:
        """The order is one over the shards of the dataset: digest, sources and window counts."""
        order = self._ledger(stage).order
        split = self._split(order)
        if split.digest != order.tokens_digest:
            raise Mismatch("the order was made for other token shards", f"dataset/tokens: {show(split.name)}")
        if split.layout == "rows" and split.width != order.window_tokens + 1:
            raise Mismatch(f"windows of {order.window_tokens} tokens over rows of {split.width}")
        found = [
            (n, sum(split.num_windows(shard, order.window_tokens) for shard in shards)) for n, shards in split.sources
        ]
        if found != list(zip(order.names, order.sizes, strict=True)):
            raise Mismatch("the window counts of the order do not follow from the shards")
        return f"{sum(order.sizes):,} windows in {len(found)} sources, as the shards give"

    def _split(self, order: Order) -> Split:
        if self.dataset is None:
            raise Unverifiable(NO_DATASET)
        if not self.splits:
            raise Unverifiable("not checked: tokens.json could not be read")
        if order.split not in self.splits:
            raise Mismatch(f"the ledger reads split {show(order.split)}, which tokens.json lacks")
        return self.splits[order.split]

    def _sampled(self, ledger: Ledger, purpose: str, most: int) -> tuple[Iterator[Fields], str]:
        """The step records to recompute, and how they were chosen."""
        total = ledger.num_steps
        lines = (line.record for line in read_chain(self.model, ledger.path))
        steps = (record for record in lines if record.value["kind"] == "step")
        if most >= total:
            return steps, f"all {total:,} steps"
        chosen = set(random.Random(f"{self.seed} {purpose}").sample(range(total), most))
        sample = (record for number, record in enumerate(steps) if number in chosen)
        missed = f"a single wrong step is missed with probability {1 - most / total:.3f}"
        return sample, f"{most:,} of {total:,} steps drawn at random (--seed {self.seed}; {missed})"

    def check_order(self, stage: Stage) -> str:
        """Recompute the order digest and the tokens per source of every step, or of a large sample."""
        ledger, order = self._ledger(stage), self._ledger(stage).order
        affordable = MAX_ORDER_SEQUENCES * order.num_steps // order.num_sequences
        records, chosen = self._sampled(ledger, f"{stage.name} order", min(MAX_ORDER_STEPS, max(1, affordable)))
        for record in records:
            windows = order.step_windows(record.value["step"])
            if order.order_digest(windows) != record.value["order_digest"]:
                raise Mismatch(f"the order_digest of step {record.value['step']} is not that of order/1", record.where)
            read: dict[str, int] = {}
            for source, _ in windows:
                read[order.names[source]] = read.get(order.names[source], 0) + order.window_tokens
            if read != record.value["tokens_by_source"]:
                raise Mismatch(f"tokens_by_source of step {record.value['step']} does not follow", record.where)
        return f"order digests of {chosen} recomputed and equal"

    def check_tokens(self, stage: Stage) -> str:
        """Recompute the token digests of some or all steps from the shards."""
        ledger, order = self._ledger(stage), self._ledger(stage).order
        split = self._split(order)
        if (split.digest, [name for name, _ in split.sources]) != (order.tokens_digest, order.names):
            raise Unverifiable("not checked: the order is not one over these shards")
        if self.tokens == "none":
            raise Unverifiable("not checked: --tokens none")
        records, chosen = self._sampled(
            ledger, f"{stage.name} tokens", order.num_steps if self.tokens == "all" else NUM_TOKEN_STEPS
        )
        num_done = num_left = 0
        with contextlib.closing(WindowReader(self.trees["dataset"], split, order.window_tokens)) as reader:
            for record in records:
                windows = order.step_windows(record.value["step"])
                if not all(reader.is_here(source) for source, _ in windows):
                    num_left += 1
                    continue
                digest, num_trained = hashlib.sha256(), 0
                for source, window in windows:
                    ids, mask = reader.read(source, window)
                    digest.update(ids + mask)
                    num_trained += mask.count(1)
                num_done += 1
                if digest.hexdigest() != record.value["token_digest"]:
                    raise Mismatch(
                        f"the token_digest of step {record.value['step']} is not of the shards", record.where
                    )
                if num_trained != record.value["num_trained_tokens"]:
                    raise Mismatch(f"step {record.value['step']} trains {num_trained} tokens", record.where)
        if num_left:
            raise Unverifiable(f"{chosen}: {num_done} equal, {num_left} read sources whose tokens are not shipped")
        return f"token digests of {chosen} recomputed and equal"

    def check_checkpoints(self, stage: Stage) -> str:
        """Recompute the digests of every checkpoint from its tensors; each is the one that the ledger records."""
        ledger = self._ledger(stage)
        recipe = self.model.json(f"training/{stage.name}/recipe.json")
        schedule = read_schedule(recipe, ledger.order.num_steps)
        must_stay_full = schedule.must_stay_full(ledger)
        base, kept = f"checkpoints/{stage.name}/", []
        recorded = {f"step-{step:08d}" for step in ledger.checkpoints}
        for path in self.model.below(base):
            if path.split("/")[2] not in recorded:
                raise Mismatch("a checkpoint that the ledger does not record", self.model.place(path))
        for step, line in ledger.checkpoints.items():
            directory, said = f"{base}step-{step:08d}/", line.record.value["checkpoint_kind"]
            is_here = bool(self.model.below(directory))
            kind = self.model.json(f"{directory}checkpoint.json").text("kind") if is_here else "nothing"
            allowed = {said}
            if said == "full" and step not in must_stay_full:
                allowed.add("weights" if schedule.weights_due(step) else "nothing")
            if kind not in allowed:
                raise Mismatch(
                    f"of the checkpoint of step {step} {show(kind)} is kept, expected {' or '.join(sorted(allowed))}",
                    self.model.place(directory),
                )
            if is_here:
                self._check_checkpoint(directory, line, kind)
                kept.append(kind)
        self._check_base(stage, ledger)
        left_out = len(recorded) - len(kept)
        gone = f"; {left_out} older ones were removed, as the recipe says" if left_out else ""
        return f"state/1 of {len(kept)} checkpoints recomputed and equal, {kept.count('full')} with optimizer{gone}"

    def _check_checkpoint(self, directory: str, line: ChainLine, kind: str) -> None:
        """One checkpoint says what the ledger says, and its tensors have the recorded digests."""
        said, record = line.record.value, self.model.json(f"{directory}checkpoint.json")
        record.format(CHECKPOINT_FORMAT)
        expected = {
            "format": CHECKPOINT_FORMAT,
            "kind": kind,
            "step": said["step"],
            "ledger": {"num_records": line.number - 1, "size_bytes": line.bytes_before, "head": line.head_before},
            "weights_digest": said["weights_digest"],
            "state_digest": said["state_digest"] if kind == "full" else None,
        }
        if record.value != expected:
            raise Mismatch("does not say what the ledger's checkpoint record says", record.where)
        weights = self._states.of_directory(directory, "model")
        if state_digest(weights) != said["weights_digest"]:
            raise Mismatch("the tensors do not have the recorded weights_digest", self.model.place(directory))
        if kind == "weights":
            if self.model.below(f"{directory}optimizer"):
                raise Mismatch("an optimizer state in a checkpoint of kind weights", self.model.place(directory))
            return
        optimizer = self._states.of_directory(directory, "optimizer")
        if state_digest(weights, optimizer) != said["state_digest"]:
            raise Mismatch("the tensors do not have the recorded state_digest", self.model.place(directory))
        if "optimizer.step" not in optimizer:
            raise Mismatch("the optimizer state has no optimizer.step", self.model.place(directory))
        for name in optimizer.keys() - {"optimizer.step"}:
            owner, _, part = name.rpartition(".")
            if owner not in weights or part not in OPTIMIZER_PARTS:
                raise Mismatch(f"{show(name)} is the state of no tensor of the model", self.model.place(directory))

    def _check_base(self, stage: Stage, ledger: Ledger) -> None:
        """A run that starts from another stage of this bundle starts from its final weights."""
        for parent in stage.manifest.parts("parents"):
            digest = parent.value["content_digest"]
            for base in (s for s in self.training_stages if s.content_digest == digest and s != stage):
                expected = self._ledger(base).end.value["weights_digest"]
                if not ledger.first_step and ledger.checkpoints[0].record.value["weights_digest"] != expected:
                    raise Mismatch(f"step 0 does not have the final weights of {show(base.name)}", ledger.start.where)

    def check_final_weights(self) -> str:
        """The released weights are the last training stage's."""
        if not self.training_stages:
            raise Mismatch("no training stage made these weights")
        stage = self.training_stages[-1]
        expected = self._ledger(stage).end.value["weights_digest"]
        if state_digest(self._states.of_directory("", "model")) != expected:
            raise Mismatch(f"the released tensors are not the final ones of {show(stage.name)}")
        return f"state/1 {expected}, the end of {show(stage.name)}"

    def check_evaluation(self) -> str:
        """The evaluation names the weights and the corpus of this bundle."""
        record = self.model.json("evaluation/record.json")
        record.format(EVALUATION_FORMAT)
        stages = {stage.content_digest: stage for stage in self.training_stages}
        if record.part("corpus").digest("content_digest") != self.root.part("dataset").digest("content_digest"):
            raise Mismatch("the evaluation read another corpus", record.where)
        for part in record.parts("models"):
            stage = stages.get(part.digest("content_digest"))
            if stage is None:
                raise Unverifiable(f"model {show(part.get('name'))} is of no stage of this bundle", part.where)
            if part.digest("weights_digest") != self._ledger(stage).end.value["weights_digest"]:
                raise Mismatch(f"the evaluated weights are not the final ones of {show(stage.name)}", part.where)
        return (
            f"{len(record.parts('models'))} models, each with the final weights of its stage; scores are not recomputed"
        )


def unverified(reason: str) -> str:
    """End a check as UNVERIFIED."""
    raise Unverifiable(reason)


def sorted_parents(fields: Fields) -> list[Json]:
    """Parents of a stage in the order in which they are hashed."""
    for part in fields.parts("parents"):
        part.only("role", "name", "content_digest")
        part.digest("content_digest")
    return sorted(fields.items("parents"), key=lambda p: (str(p["role"]), str(p["name"]), p["content_digest"]))


def blocks(tree: Tree, path: str) -> Iterator[bytes]:
    """Content of a file in blocks of a whole number of 8-byte words."""
    with tree.open(path) as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def index_rows(tree: Tree) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Rows of the document index with the place of each."""
    paths = [path for path in tree.below("documents/index-") if path.endswith(".bin")]
    if not paths:
        raise Mismatch("there is no document index", tree.place("documents/index-00000.bin"))
    for path in paths:
        if tree.files[path] % INDEX_ROW.size:
            raise Mismatch(f"{tree.files[path]} bytes are no whole rows of {INDEX_ROW.size}", tree.place(path))
        with tree.open(path) as file:
            number = 0
            while block := file.read(INDEX_ROW.size * 8192):
                for row in INDEX_ROW.iter_unpack(block):
                    yield f"{tree.place(path)}: row {number}", row
                    number += 1


# ---- entry points ---------------------------------------------------------------------------------------------------


def verify_bundle(
    bundle: Path,
    *,
    expect: str | None = None,
    tokens: str = "sample",
    rng_seed: int | None = None,
    report: Callable[[CheckResult], None] = lambda result: None,
) -> list[CheckResult]:
    """Run all checks on a bundle; never raises for what the bundle holds.

    Args:
        bundle: directory that holds `model/` and `dataset/`, or a lone `model/` directory.
        expect: manifest digest from a place that you trust, or None.
        tokens: `sample` (up to 200 steps of each stage), `all` or `none`.
        rng_seed: seed of the samples; fresh randomness by default.
        report: called with each result as it comes.
    """
    seed = secrets.randbits(48) if rng_seed is None else rng_seed
    return Verifier(Path(bundle), expect, tokens, seed, report).run()


def overall(results: Sequence[CheckResult]) -> str:
    """FAIL if any check failed, UNVERIFIED if any is unverified or there are none, else PASS."""
    verdicts = {result.verdict for result in results}
    return FAIL if FAIL in verdicts else UNVERIFIED if UNVERIFIED in verdicts or not verdicts else PASS


EXIT_CODES = {PASS: 0, FAIL: 1, UNVERIFIED: 3}
NOT_CHECKED_HERE = (
    "not checked here: training itself (losses, parameter checksums: `openwright reproduce`), scores, licences and"
    " Parquet tables (`openwright verify`)"
)


def default_bundle() -> Path:
    """The bundle that this file lies in: with its dataset if that is there, else the model directory alone."""
    here = Path(__file__).resolve().parent
    return here.parent if here.name == "model" and (here.parent / "dataset").is_dir() else here


def print_result(result: CheckResult) -> None:
    """Print one line for people."""
    place = f" [{result.where}]" if result.where else ""
    print(f"{result.verdict:<10}  {result.check}: {result.name:<24}  {result.detail}{place}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="verify.py", description="Verify a bundle offline. Exit codes: 0 pass, 1 fail, 2 bad usage, 3 unverified."
    )
    parser.add_argument("bundle", nargs="?", type=Path, help="directory that holds model/ and dataset/")
    parser.add_argument("--expect", metavar="DIGEST", help="sha256 of model/manifest.json from a place that you trust")
    parser.add_argument(
        "--tokens", choices=("sample", "all", "none"), default="sample", help="token digests to recompute"
    )
    parser.add_argument("--seed", type=int, help="seed of the samples; fresh randomness by default")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args(arguments)
    bundle = default_bundle() if options.bundle is None else options.bundle
    if not bundle.is_dir():
        parser.error(f"no directory {bundle}")
    if options.expect is not None and not re.fullmatch("[0-9a-f]{64}", options.expect):
        parser.error("--expect takes 64 hexadecimal digits")
    report = (lambda result: None) if options.json else print_result
    results = verify_bundle(bundle, expect=options.expect, tokens=options.tokens, rng_seed=options.seed, report=report)
    verdict = overall(results)
    if options.json:
        document = {"format": VERIFY_FORMAT, "verdict": verdict, "checks": [asdict(result) for result in results]}
        print(json.dumps(document, ensure_ascii=False, indent=1))
    else:
        print(f"{verdict}  {NOT_CHECKED_HERE}")
    return EXIT_CODES[verdict]


if __name__ == "__main__":
    sys.exit(main())

"""Verify a bundle with the Python standard library alone: an independent reader of `docs/formats.md`.

    python -S verify.py [BUNDLE] [--expect DIGEST] [--tokens sample|all|none] [--seed N] [--json]

It runs nothing from the bundle, follows no link and opens no network connection. Two kinds of checks: `bytes` (every
file is the one listed, and every content digest follows from the files) and `records` (what the ledgers, tables and
shards say agrees, and what follows from them is recomputed). Each check is PASS, FAIL or UNVERIFIED.
"""

from __future__ import annotations

import sys

if sys.hexversion < 0x030A0000:
    print("this program needs Python 3.10 or later", file=sys.stderr)
    sys.exit(2)  # before anything that an older one would take for a fault of the bundle
if __name__ == "__main__" and not getattr(sys.flags, "safe_path", sys.flags.isolated):
    del sys.path[0]  # the directory of this file: nothing is imported from a bundle

import argparse
import hashlib
import json
import os
import random
import re
import secrets
import stat
import struct
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache, partial
from io import BufferedReader
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

Json = Any
PASS, FAIL, UNVERIFIED, BYTES, RECORDS, NOTE = "PASS", "FAIL", "UNVERIFIED", "bytes", "records", "note"

# What a stranger can make this program read or hold.
MAX_FILES, MAX_DEPTH, MAX_NAME_BYTES = 1_000_000, 32, 255
MAX_JSON_BYTES, MAX_JSON_ITEMS, MAX_LINE_BYTES, MAX_HEADER_BYTES = 64 * 2**20, 4_000_000, 4 * 2**20, 16 * 2**20
MAX_JSON_DEPTH, MAX_SEQUENCES_PER_STEP, MAX_DIMENSIONS, MAX_SAFE_INTEGER = 64, 2**20, 16, 2**53 - 1
# What one run recomputes of each ledger: beyond that a sample, and the check says so.
MAX_ORDER_STEPS, MAX_ORDER_WORK, NUM_TOKEN_STEPS, MAX_STAGES = 10_000, 2**26, 200, 64
ORDER_VERSIONS = ("order/1", "order/2", "order/3")
Pool = namedtuple("Pool", "name window_tokens num_windows draws_before first_id")  # a source at one length
Phase = namedtuple("Phase", "num_steps sequences_per_step window_tokens counts")
Tensor = namedtuple("Tensor", "digest path begin num_bytes dtype shape")  # where one lies, and its digest by state/1
PACKAGES = ("provenance/", "data_recipes/", "train/", "eval/", "release/", "openwright/")
INDEX_ROW, UNSIGNED = struct.Struct("<32s32sIHHHBBI"), {1: "B", 2: "H", 4: "I", 8: "Q"}
# An average of checkpoints: what its weights may add up to, and how many products one run recomputes.
ARITHMETIC, DENOMINATOR, MAX_INGREDIENTS, MAX_PRODUCTS, AVERAGE_BLOCK = "weighted-sum/1", 2**29, 1000, 2**27, 2**18
BLOCK_BYTES, MASK_64, OPTIMIZER_PARTS = 1 << 20, 2**64 - 1, ("exp_avg", "exp_avg_sq", "momentum_buffer")
SIZES = {1: "BOOL U8 I8 F8_E4M3 F8_E5M2", 2: "U16 I16 F16 BF16", 4: "U32 I32 F32", 8: "U64 I64 F64"}
DTYPE_BYTES = {dtype: size for size, dtypes in SIZES.items() for dtype in dtypes.split()}
IS_RESULT = re.compile(r"code/.*|(generation_)?config.json|tokenizer[^/]*|chat_template.jinja|model[^/]*.safetensors.*")
PROGRAMS = re.compile(r"(?!code/|verify\.py$).*\.(py[cdoz]?|so|dll|exe|sh|pth?|pkl|pickle|ckpt|joblib|np[yz]|h5)", re.I)
APART = re.compile(r"manifest\.(json|sig)|attestations/[0-9a-f][0-9a-f-]*\.json")  # listed by no manifest
ELSEWHERE = re.compile(r"[/\\~]|\.\.|[A-Za-z][\w.+-]*:[/\\]")  # how a place outside of the model's directory begins

NOTHING_EXPECTED = "nothing says it is the bundle you were promised: give --expect or check the signature"
BY_OTHERS = "no part of the verdict; those of people you trust are judged by `openwright verify --attester PUB.pem`"
CHECK_SIGNATURE = "`model_signing verify key model --signature model/manifest.sig --public_key PUB`"
SIGNATURE_NOT_CHECKED = f"not checked by this program; with a key that you had from elsewhere: {CHECK_SIGNATURE}"
OTHER_PACKAGES = "ran from other packages than code/ holds; `openwright verify` judges if that matters (rule BND-04)"
NOT_CHECKED_HERE = "not checked: training (`openwright reproduce`); scores, licences, Parquet (`openwright verify`)"


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check."""

    check: str  # `bytes`, `records`, or `note` for what is no part of the verdict; other programs have others
    name: str
    verdict: str  # PASS, FAIL or UNVERIFIED
    detail: str  # what was checked, or the first thing that is wrong or missing
    where: str  # file or record that the detail speaks of; empty for the whole bundle


@dataclass(eq=False)
class Mismatch(Exception):
    """Something is wrong: the check that meets it fails."""

    detail: str
    where: str = ""


class Unverifiable(Mismatch):
    """Something cannot be judged: the check that meets it stays UNVERIFIED."""


def require(holds: object, detail: str, where: str = "") -> None:
    """Raise a Mismatch unless something holds."""
    if not holds:
        raise Mismatch(detail, where)


def need(there: object, detail: str, where: str = "") -> None:
    """Raise Unverifiable unless what a judgement needs is there."""
    if not there:
        raise Unverifiable(detail, where)


unverified: Callable[[str], Any] = partial(need, False)  # ends a check as UNVERIFIED


def refuse_first(problems: Iterable[tuple[str, str]], noun: str) -> None:
    """Raise a Mismatch for the first of some problems (what, where) and say how many more there are."""
    if found := list(problems):
        more = f" (and {len(found) - 1} more {noun})" if found[1:] else ""
        raise Mismatch(found[0][0] + more, found[0][1])


def show(value: object) -> str:
    """Text of a value from a stranger, harmless on a terminal and of bounded length."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text[:300])
    return text if len(text) <= 200 else text[:200] + "..."


# ---- canonical JSON and strict parsing ------------------------------------------------------------------------------
def canonical_json(value: Json) -> bytes:
    """Bytes of `canonical-json/1`; the value has been through `parse_json` or is made of plain values here."""
    return ENCODER.encode(value).encode("utf-8")


def tagged_digest(construction: str, value: Json) -> str:
    """sha256 of `openwright:<construction>\\n` followed by the canonical JSON."""
    return hashlib.sha256(f"openwright:{construction}\n".encode() + canonical_json(value)).hexdigest()


def parse_json(data: bytes, where: str) -> Json:
    """Parse JSON by the rules of `canonical-json/1`; anything else is a Mismatch."""
    num_nodes = data.count(b"[") + data.count(b"{")
    if len(data) > MAX_JSON_BYTES or data.count(b",") + num_nodes > MAX_JSON_ITEMS:
        raise Mismatch(f"JSON that is too large ({len(data)} bytes)", where)
    try:
        value = DECODER.decode(data.decode("utf-8"))
        if b"\\u" in data:
            canonical_json(value)  # a lone surrogate has no bytes: UnicodeEncodeError is a ValueError
        depth, tier = 0, [value] * (num_nodes > MAX_JSON_DEPTH)
        while tier and (depth := depth + 1) <= MAX_JSON_DEPTH + 1:
            tier = [x for n in tier if isinstance(n, (dict, list)) for x in (n.values() if isinstance(n, dict) else n)]
        require(not tier, "not strict JSON: nested too deeply", where)
    except (RecursionError, ValueError) as error:
        raise Mismatch(f"not strict JSON: {show(str(error))}", where) from None
    return value


def _without_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    if len(result := dict(pairs)) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _safe_integer(text: str) -> int:
    if len(text) > 17 or not text.lstrip("-").isdecimal() or abs(int(text)) > MAX_SAFE_INTEGER:
        raise ValueError(f"the number {text[:40]} is not an integer in the safe range")
    return int(text)


ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
numbers: dict[str, Any] = dict.fromkeys(("parse_constant", "parse_float", "parse_int"), _safe_integer)
DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, **numbers)


# ---- what a value from a stranger has to look like ------------------------------------------------------------------
KINDS: dict[str, Callable[[Json], bool]] = {
    "any": lambda value: True,
    "null": lambda value: value is None,
    "text": lambda value: isinstance(value, str),
    "flag": lambda value: isinstance(value, bool),
    "integer": lambda value: type(value) is int,
    "count": lambda value: type(value) is int and value >= 0,
    "positive": lambda value: type(value) is int and value > 0,
    "float": lambda value: isinstance(value, str) and is_hex_float(value),
    "path": lambda value: isinstance(value, str) and is_harmless(value),
    "commit": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{40}", value) is not None,
    "sha256": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None,
    "checksum": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{16}-[0-9a-f]{16}", value) is not None,
}

ORDER_FIELDS = "version:text tokens_digest:sha256 split:text seed:integer window_tokens:positive"
OBJECTS = {
    "object": "*:any",
    "openwright-bundle/1": "format:text name:text version:text dev:flag content_digest:sha256 dataset:bound"
    " stages:[row] files:[listed]",
    "bound": "content_digest:sha256 manifest_sha256:sha256",
    "row": "stage:text fingerprint:any content_digest:sha256 parents:[parent] code:code",
    "listed": "path:path size_bytes:count sha256:sha256 role:result|observation|document",
    "file": "path:path size_bytes:count sha256:sha256",
    "parent": "role:text name:text content_digest:sha256",
    "code": "dirty:flag packages_digest:sha256 *:any",
    "openwright-dataset/1": "format:text content_digest:sha256 corpus:object files:[listed]",
    "openwright-artifact/1": "kind:text dev:flag recipe:any fingerprint:any content_digest:sha256 parents:[parent]"
    " code:code results:[file] observations:[file] *:any",
    "openwright-code/1": "commit:commit files:[file] *:any",
    "openwright-corpus/1": "num_documents:decided *:any",
    "decided": "kept:count dropped:count *:any",
    "openwright-sources/1": "sources:[named] *:any",
    "named": "name:text *:any",
    "openwright-codes/1": "sources:[text] licences:[text] decisions:[text] splits:[text] *:any",
    "openwright-tokens/1": "format:text vocab_size:positive eos_id:any pad_id:any tokenizer_sha256:sha256 splits:parts",
    "parts": "*:split",
    "split": "layout:text dtype:text width:count digest:sha256 sources:[source]",
    "source": "name:text num_tokens:count num_documents:count shards:[shard]",
    "shard": "num_tokens:count num_documents:count files:object",
    "stream": "ends:stored tokens:stored",
    "rows": "mask:stored tokens:stored",
    "stored": "path:path sha256:sha256",
    "openwright-tombstones/1": "blanked:blanked *:any",
    "blanked": "token:count files:[blank]",
    "blank": "path:path ranges:[[count]]",
    "openwright-run/1": "stage:text num_steps:count num_tokens:count final:final ledger:place heldout:heldout *:any",
    "final": "step:count path:text weights_digest:sha256 state_digest:sha256 *:any",
    "place": "head:sha256 num_records:count *:any",
    "heldout": "first:scores last:scores *:any",
    "scores": "step:count loss:float bits_per_byte:float num_tokens:positive num_bytes:positive",
    "openwright-checkpoint/1": "kind:text *:any",
    "openwright-average/1": "stage:text kind:text arithmetic:text denominator:positive ingredients:[ingredient]"
    " final:averaged *:any",
    "ingredient": "stage:text step:count numerator:positive weights_digest:sha256",
    "averaged": "path:text weights_digest:sha256",
    "averaging": "kind:uniform|weights|ema ingredients:[group] weights:[positive] decay:float|null",
    "group": "stage:text steps:[count]",
    "openwright-evaluation/1": "corpus:read models:[evaluated] *:any",
    "read": "content_digest:sha256 *:any",
    "evaluated": "name:any content_digest:sha256 weights_digest:sha256 *:any",
    "openwright-ledger/1": "*:any",
    "ledger start": "format:text stage:text recipe_digest:sha256 reduction:exact|native"
    " num_logical_replicas:positive order:object parents:[parent] branch?:branch",
    "branch": "ledger_head:sha256 step:positive state_digest:sha256",
    "order/1": f"{ORDER_FIELDS} sources:[windows] phases:[phase]",
    "windows": "name:text num_windows:count",
    "phase": "num_steps:positive sequences_per_step:positive counts:[count]",
    "order/2": f"{ORDER_FIELDS} first_step:positive sources:[pool] phases:[stretch]",
    "pool": "name:text num_windows:count window_tokens:positive draws_before:count",
    "stretch": "num_steps:positive sequences_per_step:positive window_tokens:positive counts:[count]",
    "order/3": f"{ORDER_FIELDS} sources:[windows] phases:[span] file:numbers",
    "span": "num_steps:positive sequences_per_step:positive",
    "numbers": "dtype:u32|u64 sha256:sha256",
    "pinned": "dtype:u32|u64 sha256:sha256 tokens_digest:sha256 *:any",
    "ledger step": "step:count order_digest:sha256 token_digest:sha256 tokens_by_source:read_of"
    " num_trained_tokens:positive loss:float gradient_norm:float learning_rate:float parameter_checksum:checksum"
    " router?:routers",
    "read_of": "*:positive",
    "routers": "layers:[router] counts_sha256:sha256",
    "router": "router:text num_experts:positive num_choices:count smallest_load:count largest_load:count",
    "ledger skip": "first:positive last:positive",
    "ledger evaluation": "split:text step:count loss:float bits_per_byte:float num_tokens:positive num_bytes:positive",
    "ledger checkpoint": "step:count checkpoint_kind:full|weights weights_digest:sha256 state_digest:sha256|null",
    "ledger end": "step:count weights_digest:sha256 state_digest:sha256",
    "chained": "previous:text *:any",
    "recipe": "seed:integer data:data phases:[steps] skip_steps:[[positive]] checkpoints:checkpoints reduction:text"
    " num_logical_replicas:positive *:any",
    "data": "split:text window_tokens:positive heldout_every_steps:positive *:any",
    "steps": "num_steps:positive sequences_per_step:positive mixture:any window_tokens?:positive|null *:any",
    "drawn": "step:count pools:[draws]",
    "draws": "source:text window_tokens:positive num_draws:positive",
    "weights": "*:count",
    "checkpoints": "weights_until_step:count weights_every_steps:count full_every_steps:positive"
    " keep_last_full:positive|null published_full_steps:[count] *:any",
    "tensors": "__metadata__?:object *:tensor",
    "tensor": "dtype:text shape:[count] data_offsets:[count]",
    "tensor index": "weight_map:files *:any",
    "files": "*:text",
}
"""Objects by name, in words `key:shape`. A shape is a kind, the name of an object, `[shape]` for a list, or `a|b` for
alternatives of kinds and words. `key?` may be missing; `*` is the shape of all other keys (without it there are none).
Records of a ledger have `kind` and `previous` besides."""

OBJECTS |= {name: f"kind:text previous:text {w}" for name, w in OBJECTS.items() if name.startswith("ledger ")}
SHAPES = {name: dict(word.replace("?", "").split(":") for word in words.split()) for name, words in OBJECTS.items()}
REQUIRED = {name: set(re.findall(r"([^ ?*:]+):\S", words)) for name, words in OBJECTS.items()}


def fit(value: Json, shape: str, where: str, key: str = "") -> None:
    """Raise a Mismatch unless a value has a shape."""
    if shape in KINDS or "|" in shape:
        fits = any(KINDS[word](value) if word in KINDS else value == word for word in shape.split("|"))
        require(fits, f"field {key!r} is {show(value)}, not {shape}", where)
    elif shape.startswith("["):
        require(isinstance(value, list), f"field {key!r} is {show(value)}, not a list", where)
        for number, item in enumerate(value):
            fit(item, shape[1:-1], where, f"{key}[{number}]")
    else:
        where = f"{where}: {key if key.isidentifier() else show(key)}" if key else where
        require(isinstance(value, dict), f"{type(value).__name__} where an object belongs", where)
        shapes = SHAPES[shape]
        if odd := (REQUIRED[shape] - value.keys()) | (set() if "*" in shapes else value.keys() - shapes.keys()):
            raise Mismatch(f"missing or unknown fields: {show(', '.join(sorted(odd)))}", where)
        for name, item in value.items():
            kind = shapes[name if name in shapes else "*"]
            if kind not in KINDS or not KINDS[kind](item):  # most values need no call: a ledger has a million records
                fit(item, kind, where, name)


def is_hex_float(text: str) -> bool:
    """Whether a text is a finite float as `float.hex` writes it."""
    try:
        number = float.fromhex(text[:40])
    except (ValueError, OverflowError):
        return False
    return number - number == 0 and number.hex() == text


def is_harmless(path: str) -> bool:
    """Whether a relative path is short, printable (no surrogates either), and stays below its root on any system."""
    parts = path.split("/")
    if not path.isprintable() or "\\" in path or len(parts) > MAX_DEPTH:
        return False
    return all(part not in ("", ".", "..") and len(part.encode()) <= MAX_NAME_BYTES for part in parts)


def check_format(value: Json, expected: str, where: str) -> None:
    """Raise unless a value is of a format: Unverifiable for a version that is not known here."""
    found = value.get("format") if isinstance(value, dict) else None
    if found != expected and "/" in expected:
        is_other_version = isinstance(found, str) and found.split("/")[0] == expected.split("/")[0]
        error = Unverifiable if is_other_version else Mismatch
        raise error(f"format {show(found)}; this program reads {expected}", where)
    fit(value, expected, where)


# ---- files and hash chains ------------------------------------------------------------------------------------------
class Tree:
    """The plain files below a directory, found without following links; problems are collected, not raised."""

    def __init__(self, root: Path, label: str) -> None:
        self.root, self.label = root, label  # the label is `model` or `dataset`
        self.files: dict[str, int] = {}  # sizes by path relative to the root, POSIX style
        self.problems: list[tuple[str, str]] = []  # what, and where, for everything that has no place in a bundle
        self._hashes: dict[str, str] = {}
        self._tensors: dict[str, dict[str, Tensor]] = {}
        self._walk("")
        self.paths, folded = sorted(self.files), dict[str, str]()
        for path in self.paths:
            other = folded.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
            if other != path:
                self.problems.append((f"differs from {show(other)} only in case or Unicode form", self.place(path)))

    def _walk(self, prefix: str) -> None:
        try:
            with os.scandir(self.root / prefix) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append((f"cannot be read ({error.strerror})", self.place(prefix)))
            return
        for entry in found:
            path, status = prefix + entry.name, entry.stat(follow_symlinks=False)
            require(len(self.files) + len(self.problems) < MAX_FILES, f"more than {MAX_FILES} files", self.label)
            if not is_harmless(path):
                self.problems.append(("is not a harmless relative path", self.place(path)))
            elif stat.S_ISDIR(status.st_mode):
                self._walk(path + "/")
            elif not stat.S_ISREG(status.st_mode):
                what = "is a link" if stat.S_ISLNK(status.st_mode) else "is not a plain file"
                self.problems.append((what, self.place(path)))
            else:
                self.files[path] = status.st_size
                if PROGRAMS.fullmatch(path):
                    self.problems.append(("is a program or a pickle outside of code/", self.place(path)))

    def place(self, path: str) -> str:
        """A path as people see it."""
        return f"{self.label}/{show(path)}"

    def below(self, prefix: str) -> list[str]:
        """Paths that start with a prefix, sorted."""
        return self.paths[bisect_left(self.paths, prefix) : bisect_left(self.paths, f"{prefix}\U0010ffff")]

    def open(self, path: str) -> BufferedReader:
        """Open a plain file of the tree; a missing one is a Mismatch."""
        require(path in self.files, "the file is missing", self.place(path))
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            return os.fdopen(os.open(self.root / path, flags), "rb")
        except OSError as error:
            raise Mismatch(f"cannot be opened ({error.strerror})", self.place(path)) from None

    def blocks(self, path: str, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Content of a file in blocks: by default of a whole number of 8-byte words."""
        with self.open(path) as file:
            while block := file.read(block_bytes):
                yield block

    def read(self, path: str, begin: int, length: int) -> bytes:
        """A piece of a file; too few bytes are a Mismatch."""
        with self.open(path) as file:
            file.seek(begin)
            data = file.read(min(length, self.files[path]))
        require(len(data) == length, "the file ends too early", self.place(path))
        return data

    def sha256(self, path: str) -> str:
        """sha256 of a file, computed once."""
        if path not in self._hashes:
            digest = hashlib.sha256()
            for block in self.blocks(path):
                digest.update(block)
            self._hashes[path] = digest.hexdigest()
        return self._hashes[path]

    def json(self, path: str, expected: str) -> Json:
        """Parse a JSON file that has to be of a format."""
        with self.open(path) as file:
            value = parse_json(file.read(MAX_JSON_BYTES + 1), self.place(path))
        check_format(value, expected, self.place(path))
        return value

    def tensors(self, directory: str, stem: str) -> dict[str, Tensor]:
        """The tensors in `<stem>.safetensors`, or in the shards that its index names; equal files are read once."""
        single, index = f"{directory}{stem}.safetensors", f"{directory}{stem}.safetensors.index.json"
        shards = re.compile(re.escape(f"{directory}{stem}") + r"-\d{5}-of-\d{5}\.safetensors")
        on_disk = [path for path in self.below(f"{directory}{stem}") if shards.fullmatch(path)]
        if single in self.files:
            require(index not in self.files and not on_disk, "both one file and shards of it", self.place(single))
            return self._tensors_of_file(single)
        weight_map, where = self.json(index, "tensor index")["weight_map"], self.place(index)
        named = sorted({directory + file for file in weight_map.values()})
        require(named == on_disk, "the index does not name exactly the shards there are", where)
        found: dict[str, Tensor] = {}
        for path in on_disk:
            for name, tensor in self._tensors_of_file(path).items():
                is_home = name in weight_map and directory + weight_map[name] == path
                require(is_home, f"tensor {show(name)} is not where the index says", self.place(path))
                found[name] = tensor
        require(len(found) == len(weight_map), "the index names tensors that are in no shard", where)
        return found

    def _tensors_of_file(self, path: str) -> dict[str, Tensor]:
        if (digest := self.sha256(path)) not in self._tensors:
            self._tensors[digest] = read_tensors(self, path)
        return self._tensors[digest]

    def differences(self, listed: dict[str, Json], found: set[str]) -> Iterator[tuple[str, str]]:
        """How files that were found differ from their entries in a manifest: what, and where."""
        for path in sorted(found | listed.keys()):
            if path not in listed:
                yield "is not listed in the manifest", self.place(path)
            elif path not in found:
                yield "is listed and missing", self.place(path)
            elif self.files[path] != listed[path]["size_bytes"]:
                yield f"has {self.files[path]} bytes, listed are {listed[path]['size_bytes']}", self.place(path)
            elif self.sha256(path) != listed[path]["sha256"]:
                yield "is not the listed file: its sha256 differs", self.place(path)


def by_path(entries: Sequence[Json], where: str = "", prefix: str = "") -> dict[str, Json]:
    """Entries of a list of files by their paths, which have to differ."""
    found = {prefix + entry["path"]: entry for entry in entries}
    require(len(found) == len(entries), "a path is listed twice", where)
    return found


def listing(entries: Iterable[Json], shape: str) -> list[Json]:
    """Entries of a list of files or parents in the form and order in which they are hashed."""
    return sorted(({key: entry[key] for key in SHAPES[shape]} for entry in entries), key=lambda e: list(e.values()))


@dataclass(frozen=True)
class ChainLine:
    """One record of a chain, and the places before and after it: records, bytes, and the digest of the last record."""

    record: Json
    where: str
    before: dict[str, Json]
    after: dict[str, Json]


def read_chain(tree: Tree, path: str) -> Iterator[ChainLine]:
    """Yield the records of a `chain/1` file; any line that is not canonical or not linked is a Mismatch."""
    place: dict[str, Json] = {"num_records": 0, "size_bytes": 0, "head": "0" * 64}
    name = tree.place(path)
    with tree.open(path) as file:
        while line := file.readline(MAX_LINE_BYTES):
            number, end = place["num_records"] + 1, place["size_bytes"] + len(line)
            where = f"{name}:{number}"
            require(line.endswith(b"\n"), "a line that is torn or too long", where)
            record = parse_json(line[:-1], where)
            fit(record, "chained", where)
            require(canonical_json(record) == line[:-1], "the line is not canonical JSON", where)
            require(record["previous"] == place["head"], "the record is not chained to the one before it", where)
            before, head = place, hashlib.sha256(line[:-1]).hexdigest()
            place = {"num_records": number, "size_bytes": end, "head": head}
            yield ChainLine(record, where, before, place)


# ---- order/1, order/2 and order/3 -----------------------------------------------------------------------------------
class Order:
    """The order of a run as a start record states it at `where`; only `order/2` has more than a pool for each source.

    The numbers of an `order/3` are in the file `path` of `tree`; without one its windows are not known.
    """

    def __init__(self, stated: Json, where: str, tree: Tree | None = None, path: str = "") -> None:
        self.version, known = stated.get("version"), ", ".join(ORDER_VERSIONS)
        need(self.version in ORDER_VERSIONS, f"order {show(self.version)}; this program reads {known}", where)
        fit(stated, self.version, where)
        self.tokens_digest, self.split, self.seed = stated["tokens_digest"], stated["split"], stated["seed"]
        self.window_tokens, self.first_step = stated["window_tokens"], stated.get("first_step", 1)
        self.file, self._tree, self._path = stated.get("file"), tree, path
        self._item_bytes = 8 if self.file and self.file["dtype"] == "u64" else 4
        sources, usual = stated["sources"], {"window_tokens": self.window_tokens}
        width, number = max([p["sequences_per_step"] for p in stated["phases"]], default=0), len(sources)
        is_small = width <= MAX_SEQUENCES_PER_STEP and (width + 2 * number) * number <= MAX_ORDER_WORK
        need(is_small, f"{width} sequences in a step from {number} sources: more than this program reads", where)
        *first_ids, self.num_windows = accumulate((source["num_windows"] for source in sources), initial=0)
        self.pools = [Pool(**{**usual, "draws_before": 0, **source}, first_id=0) for source in sources]
        self.pools = [pool._replace(first_id=first) for pool, first in zip(self.pools, first_ids, strict=True)]
        self.phases = [Phase(**{**usual, "counts": [], **phase}) for phase in stated["phases"]]
        self.lengths = list(dict.fromkeys(pool.window_tokens for pool in self.pools))
        require(len({pool[:2] for pool in self.pools}) == len(self.pools), "a source stands twice in the order", where)
        require(self.phases, "an order without phases", where)
        self._drawn_before, self._first_steps = [[pool.draws_before for pool in self.pools]], [self.first_step - 1]
        require(self.first_step > 1 or not any(self._drawn_before[0]), "draws before step 1", where)
        for num_steps, width, length, counts in self.phases:
            self._first_steps.append(self._first_steps[-1] + num_steps)
            if self.file:
                continue
            fits = len(counts) == len(self.pools) and sum(counts) == num_steps * width
            require(fits, f"counts that do not add up to {num_steps * width} sequences over all sources", where)
            drawn = zip(self.pools, counts, strict=True)
            is_possible = all(pool.num_windows and pool.window_tokens == length for pool, count in drawn if count)
            require(is_possible, "draws from a source without windows of the phase's length", where)
            self._drawn_before.append([sum(pair) for pair in zip(self._drawn_before[-1], counts, strict=True)])
        self.num_steps = self._first_steps[-1]
        work = self.num_places() * (number + 16) // sum(p.num_steps for p in self.phases) + 2 * number**2
        self.affordable_steps = max(1, MAX_ORDER_WORK // work)  # `work`: of a step, by choices of a source

    def num_places(self, num_phases: int | None = None) -> int:
        """Windows that all phases read, or the first few of them."""
        return sum(phase.num_steps * phase.sequences_per_step for phase in self.phases[:num_phases])

    def step_windows(self, step: int) -> list[tuple[Pool, int]]:
        """(pool, window) of every slot of a step."""
        number = bisect_right(self._first_steps, step - 1) - 1
        _, width, _, counts = self.phases[number]
        slot, windows = (step - 1 - self._first_steps[number]) * width, []
        if self.file:
            return self._numbered(self.num_places(number) + slot, width)
        drawn = draws_before(counts, slot)
        for _ in range(width):
            m = earliest(counts, drawn)
            pool, r = self.pools[m], self._drawn_before[number][m] + drawn[m]
            drawn[m] += 1
            other = pool.window_tokens if pool.window_tokens != self.window_tokens else 0
            keys = round_keys(self.tokens_digest, self.seed, pool.name, r // pool.num_windows, other)
            windows.append((pool, permute(keys, pool.num_windows, r % pool.num_windows)))
        return windows

    def _numbered(self, first: int, width: int) -> list[tuple[Pool, int]]:
        """The windows at some places of the file."""
        if self._tree is None:
            raise Unverifiable("the file that gives the order is not here")
        item, first_ids = self._item_bytes, [pool.first_id for pool in self.pools]
        numbers = unpack(self._tree.read(self._path, first * item, width * item), item)
        require(max(numbers) < self.num_windows, "a number that is no window", self._tree.place(self._path))
        # Of pools that share a first window id, all but the last are without a window.
        pools = [self.pools[bisect_right(first_ids, number) - 1] for number in numbers]
        return [(pool, number - pool.first_id) for pool, number in zip(pools, numbers, strict=True)]

    def check_file(self, tree: Tree) -> None:
        """The file of an `order/3` is the one that is stated: enough numbers, all of them windows."""
        path, item, needed = self._path, self._item_bytes, self.num_places()
        where, size = tree.place(path), tree.files.get(path, 0)
        require(tree.sha256(path) == self.file["sha256"], "is not the file that the ledger names", where)
        fits = size % item == 0 and size >= item * needed
        require(fits, f"{size} bytes, expected {needed} numbers of {item} bytes or more", where)
        is_known = all(max(unpack(block, item)) < self.num_windows for block in tree.blocks(path))
        require(is_known, f"a number that is none of the {self.num_windows} windows", where)


@lru_cache(4096)
def round_keys(tokens_digest: str, seed: int, source: str, epoch: int, other_length: int) -> tuple[int, ...]:
    """The eight round keys of one epoch of a source, or of a pool of it at another length than the usual one."""
    value: Json = {"tokens_digest": tokens_digest, "seed": seed, "source": source, "epoch": epoch}
    value |= {"window_tokens": other_length} if other_length else {}
    halves = (tagged_digest(ORDER_VERSIONS[bool(other_length)], {**value, "half": half}) for half in (0, 1))
    return struct.unpack("<8Q", bytes.fromhex("".join(halves)))


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


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Whole shares of a total by the largest remainder; ties go to the earlier one."""
    counts = [total * weight // sum(weights) for weight in weights]
    ranks = sorted(range(len(weights)), key=lambda m: (-(total * weights[m] % sum(weights)), m))
    for m in ranks[: total - sum(counts)]:
        counts[m] += 1
    return counts


# ---- token shards ---------------------------------------------------------------------------------------------------
class Split:
    """One split as `tokens.json` states it at `where`, its digest `tokens/1` recomputed."""

    def __init__(self, name: str, stated: Json, where: str) -> None:
        self.name, self.digest, self.layout, self.width = name, stated["digest"], stated["layout"], stated["width"]
        is_known = self.layout in ("stream", "rows") and stated["dtype"] in ("u16", "u32")
        need(is_known, f"layout {show(self.layout)} of {show(stated['dtype'])}", where)
        self.item_bytes = 2 if stated["dtype"] == "u16" else 4
        fits = self.width >= 2 if self.layout == "rows" else self.width == 0
        require(fits, f"width {self.width} of layout {self.layout}", where)
        self.sources: dict[str, list[Json]] = {source["name"]: source["shards"] for source in stated["sources"]}
        self.shards = [shard for shards in self.sources.values() for shard in shards]
        self._ends: dict[Pool, list[int]] = {}  # windows of a pool up to the end of each shard
        self.blank: dict[str, Json] = {}  # by path of a token file of which a copy is here: tokens that were taken down
        names, hashed = [source["name"] for source in stated["sources"]], []
        require(names == sorted(set(names)), "sources are not sorted by name", where)
        for shard in self.shards:
            fit(shard["files"], self.layout, where)
        for source in stated["sources"]:
            for key in ("num_tokens", "num_documents"):
                total = sum(shard[key] for shard in source["shards"])
                require(source[key] == total, f"{key} of {show(source['name'])} is not the sum over the shards", where)
            shards = [
                {"num_tokens": shard["num_tokens"], "files": {r: file["sha256"] for r, file in shard["files"].items()}}
                for shard in source["shards"]
            ]
            hashed.append({"name": source["name"], "shards": shards})
        value = {"layout": self.layout, "dtype": stated["dtype"], "width": self.width, "sources": hashed}
        require(self.digest == tagged_digest("tokens/1", value), "its digest does not follow from the shards", where)

    def num_windows(self, shards: Sequence[Json], window_tokens: int) -> int:
        """Windows of some shards."""
        sizes = [shard["num_tokens"] for shard in shards]
        return sum(max(0, n - 1) // window_tokens if self.layout == "stream" else n // self.width for n in sizes)

    def read_window(self, tree: Tree, pool: Pool, window: int) -> tuple[bytes, bytes] | None:
        """Token ids as u32 and mask as u8 of a window of a pool; None where tokens of it are not here any more."""
        shards, length = self.sources[pool.name], pool.window_tokens + 1
        if pool not in self._ends:
            self._ends[pool] = list(accumulate(self.num_windows([shard], length - 1) for shard in shards))
        number = bisect_right(self._ends[pool], window)
        shard, window = shards[number], window - (self._ends[pool][number - 1] if number else 0)
        begin = window * (pool.window_tokens if self.layout == "stream" else self.width)
        path, paths = shard["files"]["tokens"]["path"], [file["path"] for file in shard["files"].values()]
        is_blank = any(first < begin + length and begin < end for first, end in self.blank.get(path, ()))
        if is_blank or any(path not in tree.files and path not in self.blank for path in paths):
            return None
        data = tree.read("redacted/" * (path in self.blank) + path, begin * self.item_bytes, length * self.item_bytes)
        ids = struct.pack(f"<{length}I", *unpack(data, self.item_bytes))
        if self.layout == "stream":
            return ids, b"\0" + b"\1" * pool.window_tokens
        return ids, b"\0" + tree.read(shard["files"]["mask"]["path"], begin + 1, pool.window_tokens)


def unpack(data: bytes, item_bytes: int) -> tuple[int, ...]:
    """Little-endian unsigned integers."""
    return struct.unpack(f"<{len(data) // item_bytes}{UNSIGNED[item_bytes]}", data)


# ---- state/1 --------------------------------------------------------------------------------------------------------
def read_tensors(tree: Tree, path: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, each of them hashed; they have to tile the file exactly."""
    size, where, found = tree.files.get(path, 0), tree.place(path), dict[str, Tensor]()
    with tree.open(path) as file:
        prefix = file.read(8)
        begin = at = 8 + int.from_bytes(prefix, "little")
        require(len(prefix) == 8 and at <= min(MAX_HEADER_BYTES, size), f"a header of {at - 8} bytes", where)
        header = parse_json(file.read(at - 8), where)
        fit(header, "tensors", where)
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape = entry["dtype"], entry["shape"]
            need(dtype in DTYPE_BYTES, f"tensor type {show(dtype)}", where)
            num_bytes = DTYPE_BYTES[dtype] * prod(shape[:MAX_DIMENSIONS])
            require(num_bytes and len(shape) <= MAX_DIMENSIONS, f"the shape of tensor {show(name)}", where)
            is_next = entry["data_offsets"] == [at - begin, at - begin + num_bytes]
            require(is_next, f"tensor {show(name)} overlaps another, leaves a gap or has another size", where)
            digest = tensor_digest(file, {"name": name, "dtype": dtype, "shape": shape}, num_bytes, where)
            found[name] = Tensor(digest, path, at, num_bytes, dtype, shape)
            at += num_bytes
    require(at == size, f"the tensors end at byte {at} of {size}", where)
    return found


def tensor_digest(file: BufferedReader, header: Json, num_bytes: int, where: str) -> bytes:
    """Digest of the tensor that comes next in a file: its header and the sha256 of each row."""
    digest = hashlib.sha256(b"openwright:state/1:tensor\n" + canonical_json(header) + b"\n")
    num_rows = header["shape"][0] if len(header["shape"]) >= 2 else 1
    for _ in range(num_rows):
        leaf, num_left = hashlib.sha256(), num_bytes // num_rows
        while num_left:
            block = file.read(min(num_left, BLOCK_BYTES))
            require(block, "the file ends too early", where)
            leaf.update(block)
            num_left -= len(block)
        digest.update(leaf.digest())
    return digest.digest()


def weighted_sum(rows: Sequence[Sequence[float]], numerators: Sequence[int]) -> bytes:
    """The average `weighted-sum/1`; never `sum`, which starts with 0 and corrects its rounding in newer versions."""
    total = [numerators[0] * x for x in rows[0]]
    for numerator, row in zip(numerators[1:], rows[1:], strict=True):
        total = [t + numerator * x for t, x in zip(total, row, strict=True)]
    denominator = float(sum(numerators))
    return struct.pack(f"<{len(total)}f", *(t / denominator for t in total))


def numerators_of(recipe: Json, num_ingredients: int) -> list[int]:
    """The whole numbers with which the checkpoints of an average count, as its recipe gives them."""
    if recipe["kind"] != "ema":
        return list(recipe["weights"]) if recipe["kind"] == "weights" else [1] * num_ingredients
    decay, last = Fraction(float.fromhex(recipe["decay"] or "0x0p+0")), num_ingredients - 1
    require(0 < decay < 1 and decay.denominator <= 2**64, f"decay {float(decay)} does not lie between 0.001 and 1")
    keep, whole = decay.numerator, decay.denominator
    exact = [keep ** (last - i) * ((whole - keep) * whole ** (i - 1) if i else 1) for i in range(num_ingredients)]
    return shares(DENOMINATOR, exact)


def state_digest(*parts: dict[str, Tensor]) -> str:
    """Digest `state/1` over the tensors of several files."""
    digests = {name: tensor.digest for part in parts for name, tensor in part.items()}
    require(len(digests) == sum(map(len, parts)), "a tensor stands twice")
    return hashlib.sha256(b"openwright:state/1\n" + b"".join(digests[name] for name in sorted(digests))).hexdigest()


# ---- ledgers --------------------------------------------------------------------------------------------------------
@dataclass
class Ledger:
    """A ledger whose chain and grammar hold."""

    path: str
    start: Json
    where: str  # of the start record
    order: Order
    first_step: int  # at whose state it begins: 0, or that of the checkpoint of another run that it goes on from
    steps: array[int]  # the first one, and those that it records
    numbers: array[int] = field(default_factory=partial(array, "q"))  # of the records of these steps in the file
    begins: array[int] = field(default_factory=partial(array, "q"))  # and the first byte of each
    end: Any = None
    place: dict[str, Json] = field(default_factory=dict)  # after its last record
    num_tokens: int = 0  # that these steps read
    skipped: list[list[int]] = field(default_factory=list)  # first and last step of each stretch that is left out
    checkpoints: dict[int, ChainLine] = field(default_factory=dict)  # their records by step
    kinds: dict[int, str] = field(default_factory=dict)  # and of which kind each was made
    scores: dict[int, Json] = field(default_factory=dict)  # records of held-out losses by step

    def step_records(self, tree: Tree, chosen: Iterable[int]) -> Iterator[tuple[Json, str]]:
        """Some of the step records, counted from 0, with the place of each; `read_ledger` has checked them all."""
        with tree.open(self.path) as file:
            for n in chosen:
                file.seek(self.begins[n])
                where = f"{tree.place(self.path)}:{self.numbers[n]}"
                yield parse_json(file.readline(MAX_LINE_BYTES), where), where


def check_record(line: ChainLine) -> str:
    """Check the fields of a ledger record; returns its kind."""
    record, where, kind = line.record, line.where, str(line.record.get("kind"))
    require(f"ledger {kind}" in SHAPES, f"a record of kind {kind!r:.99}", where)
    fit(record, f"ledger {kind}", where)
    if kind == "step":
        total = sum(record["tokens_by_source"].values())
        require(record["num_trained_tokens"] <= total, "more trained tokens than tokens", where)
        for layer in record["router"]["layers"] if "router" in record else ():
            least, most = (layer["num_experts"] * layer[key] for key in ("smallest_load", "largest_load"))
            require(least <= layer["num_choices"] <= most, "the loads of experts do not fit the choices made", where)
    if kind == "checkpoint":
        has_state = record["state_digest"] is not None
        require(has_state == (record["checkpoint_kind"] == "full"), "state_digest does not fit the kind", where)
    return kind


def read_ledger(tree: Tree, path: str) -> Ledger:
    """Check the chain and grammar of a ledger: start, contiguous steps, records in their places, end."""
    lines, whole = read_chain(tree, path), tree.place(path)
    first = next(lines, None)
    if first is None or first.record.get("kind") != "start":
        raise Mismatch("the ledger does not begin with its start record", whole)
    check_format(first.record, "openwright-ledger/1", first.where)
    check_record(first)
    start, file = first.record, f"{path.rpartition('/')[0]}/order.bin"
    begin = start["branch"]["step"] if "branch" in start else 0
    order = Order(start["order"], f"{first.where}: order", tree, file)
    require(order.first_step <= begin + 1, "its order begins after its first step", first.where)
    ledger = Ledger(path, start, first.where, order, begin, array("q", [begin]))
    places, num_steps = {"step": 0, "evaluation": 1, "checkpoint": 2, "end": 3}, order.num_steps
    # The state that a branch begins with is no result of its steps: nothing but its checkpoint record stands there.
    step, place = begin, places["evaluation"] if begin else -1
    for line in lines:
        kind, record, where = check_record(line), line.record, line.where
        require(kind != "start" and ledger.end is None, f"a {kind} record where none belongs", where)
        if kind in ("step", "skip"):
            require(begin in ledger.checkpoints, f"no checkpoint record for step {begin}", where)
        ledger.place = line.after
        if kind == "skip":
            left_out = [record["first"], record["last"]]
            is_next = step + 1 == left_out[0] <= left_out[1] < num_steps
            require(is_next, f"steps {left_out} cannot be left out after step {step}", where)
            ledger.skipped.append(left_out)
            step, place = left_out[1], len(places)
            continue
        if kind == "step":
            step, place = step + 1, -1
            ledger.steps.append(step)
            ledger.numbers.append(line.after["num_records"])
            ledger.begins.append(line.before["size_bytes"])
            ledger.num_tokens += sum(record["tokens_by_source"].values())
        is_in_place = record["step"] == step <= num_steps and places[kind] > place
        require(is_in_place, f"a {kind} record of step {record['step']} is out of place at step {step}", where)
        place = places[kind]
        if kind == "checkpoint":
            ledger.checkpoints[step], ledger.kinds[step] = line, record["checkpoint_kind"]
        elif kind == "evaluation":
            ledger.scores[step] = record
        elif kind == "end":
            ledger.end = record
    require(ledger.end is not None and step == num_steps, f"the ledger stops at step {step} of {num_steps}", whole)
    last = ledger.checkpoints[step].record if step in ledger.checkpoints else {}
    is_final = all(last.get(key) == ledger.end[key] for key in ("weights_digest", "state_digest"))
    require(is_final, "the end record has no equal checkpoint record at the last step", whole)
    if begin:
        is_same = ledger.checkpoints[begin].record["state_digest"] == start["branch"]["state_digest"]
        require(is_same, "the first checkpoint record is not of the state that the branch begins with", first.where)
    return ledger


def weights_due(settings: Json, step: int) -> bool:
    """Whether a recipe's settings for checkpoints keep the weights of a step."""
    every = settings["weights_every_steps"]
    is_early_power = step <= settings["weights_until_step"] and not step & (step - 1)
    return step == 0 or is_early_power or bool(every and step % every == 0)


# ---- the checks -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Stage:
    """A stage as the root manifest names it."""

    name: str
    manifest: Json  # of its artifact
    content_digest: str
    where: str  # of that manifest
    label: str  # tree that holds its files
    folders: tuple[str, ...]  # of that tree; two for a stage that made weights

    def place(self, path: str) -> str:
        """Path in that tree of a file of the artifact."""
        is_checkpoint = len(self.folders) > 1 and path.startswith("checkpoints/")
        return self.folders[1] + path.removeprefix("checkpoints/") if is_checkpoint else self.folders[0] + path


@dataclass
class Verifier:
    """All checks on one bundle, in order; each adds one result. The first fields are arguments of `verify_bundle`."""

    bundle: Path
    expect: str | None
    tokens: str
    seed: int
    report: Callable[[CheckResult], None]
    results: list[CheckResult] = field(default_factory=list)
    trees: dict[str, Tree] = field(default_factory=dict)
    model: Tree = field(init=False)
    listed: dict[str, dict[str, Json]] = field(default_factory=lambda: {"model": {}, "dataset": {}})
    root: Any = None
    stages: list[Stage] = field(default_factory=list)
    makers: list[Stage] = field(default_factory=list)  # those of them that made weights
    trained: list[Stage] = field(default_factory=list)  # and those that trained
    average: Any = None
    splits: dict[str, Split] = field(default_factory=dict)
    ledgers: dict[str, Ledger] = field(default_factory=dict)

    def run(self) -> list[CheckResult]:
        """Run every check."""
        manifest = "model/manifest.json"
        self._check(BYTES, "tree", "", self.check_tree)
        if "model" not in self.trees:
            return self.results
        self.model = self.trees["model"]
        self._check(BYTES, "identity", manifest, self.check_identity)
        if "manifest.sig" in self.model.files:
            self._check(BYTES, "signature", "model/manifest.sig", lambda: unverified(SIGNATURE_NOT_CHECKED))
        if self.model.below("attestations/"):
            self._check(NOTE, "attestations", "model/attestations", lambda: unverified(BY_OTHERS))
        self._check(BYTES, "manifest", manifest, self.read_root)
        if self.root is None:
            self._check(RECORDS, "everything else", "", lambda: unverified("the root manifest could not be read"))
            return self.results
        self._check(BYTES, "model files", "model", lambda: self.check_files(self.model, self.root))
        self._check(BYTES, "dataset binding", "dataset/manifest.json", self.check_binding)
        self._check(BYTES, "dataset files", "dataset", lambda: self.check_files(self.dataset, self.dataset_manifest))
        self._check(BYTES, "content digest", manifest, self.check_content)
        for number, row in enumerate(self.root["stages"]):
            where = f"{manifest}: stages[{number}]"
            self._check(BYTES, f"stage {show(row['stage'])}", where, partial(self.check_stage, row, where))
        self._check(RECORDS, "lineage", manifest, self.check_lineage)
        self._check(RECORDS, "code", "model/code", self.check_code)
        self._check(RECORDS, "configs", "model/config.json", self.check_configs)
        self._check(RECORDS, "journals", "", self.check_journals)
        self._check(RECORDS, "token shards", "dataset/tokens", self.check_shards)
        self._check(RECORDS, "documents", "dataset/documents", self.check_documents)
        self._check(RECORDS, "tokenizer", "dataset/tokenizer", self.check_tokenizer)
        of_a_run = [self.check_ledger, self.check_run, self.check_recipe, self.check_windows, self.check_order]
        of_a_run += [self.check_tokens, self.check_schedule, self.check_checkpoints, self.check_branch]
        for stage in self.trained:
            for body in of_a_run:
                name = body.__name__.removeprefix("check_")
                if name != "branch" or (stage.name in self.ledgers and self.ledgers[stage.name].first_step):
                    self._check(RECORDS, f"{stage.name} {name}", f"model/training/{stage.name}", partial(body, stage))
        for stage in (stage for stage in self.stages if stage.name == "average"):
            where = "model/training/average"
            self._check(RECORDS, "average ingredients", where, partial(self.check_ingredients, stage))
            self._check(RECORDS, "average weights", where, partial(self.check_average, stage))
        self._check(RECORDS, "final weights", "model/model.safetensors", self.check_final_weights)
        self._check(RECORDS, "evaluation", "model/evaluation/record.json", self.check_evaluation)
        return self.results

    def _check(self, check: str, name: str, where: str, body: Callable[[], str]) -> None:
        """Run one check; whatever it meets becomes a result, never a traceback."""
        try:
            verdict, detail = PASS, body()
        except Mismatch as error:
            verdict = UNVERIFIED if isinstance(error, Unverifiable) else FAIL
            detail, where = error.detail, error.where or where
        except Exception as error:  # hostile files can break in ways that nobody foresaw: a FAIL, not a crash
            verdict, detail = FAIL, f"cannot be read: {type(error).__name__}: {show(str(error))}"
        self.results.append(CheckResult(check, name, verdict, detail, where))
        self.report(self.results[-1])

    @property
    def dataset(self) -> Tree:
        """Files of `dataset/`; a check that asks for them where they are not here stays UNVERIFIED."""
        need("dataset" in self.trees, "the dataset is not here: give the directory that holds model/ and dataset/")
        return self.trees["dataset"]

    @cached_property
    def dataset_manifest(self) -> Json:
        """The manifest of the dataset."""
        return self.dataset.json("manifest.json", "openwright-dataset/1")

    def check_tree(self) -> str:
        """Walk the files; only plain files with harmless names belong in a bundle."""
        is_lone = not (self.bundle / "model").is_dir() and (self.bundle / "manifest.json").is_file()
        places = {"model": self.bundle} if is_lone else {name: self.bundle / name for name in ("model", "dataset")}
        odd = [] if is_lone else sorted(set(os.listdir(self.bundle)) - places.keys())
        problems = [("does not belong in a bundle", show(name)) for name in odd]
        require(os.path.lexists(places["model"]), "there is no model/manifest.json: this is not a bundle")
        for label, directory in places.items():
            if os.path.lexists(directory):
                require(is_lone or stat.S_ISDIR(directory.lstat().st_mode), "is a link or no directory", label)
                self.trees[label] = Tree(directory, label)
                problems += self.trees[label].problems
        refuse_first(problems, "problems")
        return f"{sum(len(tree.files) for tree in self.trees.values())} plain files, no links, no odd names"

    def check_identity(self) -> str:
        """Compare the manifest digest with the expected one."""
        digest = self.model.sha256("manifest.json")
        need(self.expect is not None, f"manifest digest {digest}: internally consistent; {NOTHING_EXPECTED}")
        require(digest == self.expect, f"manifest digest {digest}, expected {show(self.expect)}")
        return f"manifest digest {digest} is the expected one"

    def read_root(self) -> str:
        """Read the root manifest."""
        root = self.model.json("manifest.json", "openwright-bundle/1")
        self.listed["model"] = by_path(root["files"])
        names = [row["stage"] for row in root["stages"]]
        require(len(set(names)) == len(names) <= MAX_STAGES, f"a stage is listed twice, or more than {MAX_STAGES} are")
        self.root = root
        title = f"{show(root['name'])} {show(root['version'])}"
        need(not root["dev"], f"{title} was made with --dev: no commit holds the code that made it")
        return f"{title}, stages {', '.join(map(show, names))}"

    def check_binding(self) -> str:
        """The root manifest names exactly this dataset."""
        bound, sha256 = self.root["dataset"], self.dataset.sha256("manifest.json")
        require(sha256 == bound["manifest_sha256"], "dataset/manifest.json is not the one that the root manifest names")
        content = self.dataset_manifest["content_digest"]
        require(content == bound["content_digest"], "it has another content digest than the root manifest names")
        return f"content {content}"

    def check_files(self, tree: Tree, manifest: Json) -> str:
        """Every listed file is there with its size and sha256, and no other file is."""
        listed = self.listed[tree.label] = by_path(manifest["files"])
        found = {p for p in tree.files if not (APART.fullmatch(p) if tree is self.model else p == "manifest.json")}
        refuse_first(tree.differences(listed, found), "files")
        return f"{len(listed)} files, {sum(entry['size_bytes'] for entry in listed.values()):,} bytes"

    def check_content(self) -> str:
        """Recompute the content digest `bundle/1`."""
        for path, entry in self.listed["model"].items():
            counts = entry["role"] == "result" or not IS_RESULT.fullmatch(path)
            require(counts, f"has role {entry['role']}: it would not count in the content digest", f"model/{path}")
        results = listing((entry for entry in self.root["files"] if entry["role"] == "result"), "file")
        value = {"name": self.root["name"], "version": self.root["version"], "results": results}
        digest = tagged_digest("bundle/1", {**value, "dataset": self.root["dataset"]["content_digest"]})
        require(digest == self.root["content_digest"], "the content digest bundle/1 does not follow from the results")
        return f"bundle/1 {digest}"

    def check_stage(self, row: Json, where: str) -> str:
        """Recompute `content/1` of a stage and compare its files with those of the bundle."""
        stage = self._open_stage(row["stage"], where)
        manifest, where, listed = stage.manifest, stage.where, self.listed[stage.label]
        value = {"kind": manifest["kind"], "parents": listing(manifest["parents"], "parent")}
        digest = tagged_digest("content/1", {**value, "results": listing(manifest["results"], "file")})
        is_same = digest == stage.content_digest
        require(manifest["kind"] == stage.name, f"the manifest is of a stage {show(manifest['kind'])}", where)
        require(is_same, "the content digest content/1 does not follow from the manifest", where)
        for key in ("fingerprint", "content_digest", "parents", "code"):
            require(manifest[key] == row[key], f"{key} differs between the root manifest and the stage's", where)
        require(self.root["dev"] or not manifest["dev"], "it was made with --dev and the bundle does not say so", where)
        num_missing = sum(self._compare_files(stage, role) for role in ("result", "observation"))
        made = {stage.place(entry["path"]) for entry in manifest["results"]}
        for path, entry in listed.items():
            is_made = entry["role"] != "result" or not path.startswith(stage.folders) or path in made
            require(is_made, "is listed as a result and the stage did not make it", f"{stage.label}/{show(path)}")
        self.stages.append(stage)
        if len(stage.folders) > 1:
            self.makers.append(stage)
            self.trained += [stage] if stage.name != "average" else []
        left_out = f", {num_missing} of them not shipped" if num_missing else ""
        return f"content/1 {digest}, {len(made)} results{left_out}"

    def _open_stage(self, name: str, where: str) -> Stage:
        require(is_harmless(name) and "/" not in name, f"stage name {show(name)}", where)
        if name == "corpus":
            manifest, where = self.dataset_manifest["corpus"], "dataset/manifest.json: corpus"
            check_format(manifest, "openwright-artifact/1", where)
            is_named = manifest["content_digest"] == self.root["dataset"]["content_digest"]
            require(is_named, "the corpus is not the one that the root manifest names", where)
            return Stage(name, manifest, manifest["content_digest"], where, "dataset", ("",))
        folders: tuple[str, ...] = (f"training/{name}/", f"checkpoints/{name}/")
        if f"{folders[0]}manifest.json" not in self.model.files:
            folders = ("evaluation/",)
        manifest = self.model.json(f"{folders[0]}manifest.json", "openwright-artifact/1")
        return Stage(name, manifest, manifest["content_digest"], f"model/{folders[0]}manifest.json", "model", folders)

    def _compare_files(self, stage: Stage, role: str) -> int:
        """Compare an artifact's files with the listed ones; returns how many are not shipped (corpus only)."""
        num_missing = 0
        for path, entry in by_path(stage.manifest[f"{role}s"], stage.where).items():
            place = stage.place(path)
            listed, where = self.listed[stage.label].get(place), f"{stage.label}/{show(place)}"
            require(listed or stage.name == "corpus", "a file of the stage is not in the bundle", where)
            if listed is None:
                num_missing += 1
                continue
            is_same = listed == {**entry, "path": place, "role": listed["role"]}
            require(is_same, "the file is not the one that the stage made", where)
            require(listed["role"] == role, f"has role {listed['role']}; the stage lists it as {role}", where)
        return num_missing

    def check_lineage(self) -> str:
        """Every stage's parents are earlier stages of this bundle."""
        names, read = {row["stage"] for row in self.root["stages"]}, {stage.name for stage in self.stages}
        for path in self.model.below("training/") + self.model.below("checkpoints/"):
            require(path.split("/")[1] in names, "is of a stage that the root manifest lacks", self.model.place(path))
        earlier, foreign = {self.root["dataset"]["content_digest"]}, []
        for row in self.root["stages"]:
            strangers = (parent for parent in row["parents"] if parent["content_digest"] not in earlier)
            foreign += [f"{show(row['stage'])} <- {show(parent['name'])}" for parent in strangers]
            earlier.add(row["content_digest"])
        need(not foreign, f"parents that are no earlier stage of this bundle: {', '.join(foreign[:5])}")
        unread = names - read - (set() if "dataset" in self.trees else {"corpus"})
        need(not unread, f"stages that could not be read: {', '.join(sorted(map(show, unread)))}")
        return f"{len(names)} stages, every parent is an earlier one"

    def check_code(self) -> str:
        """`code/` is what CODE.json lists, and the stages recorded that source tree."""
        files = self.model.json("code/CODE.json", "openwright-code/1")["files"]
        listed = by_path(files, "model/code/CODE.json", prefix="code/")
        refuse_first(self.model.differences(listed, set(self.model.below("code/")) - {"code/CODE.json"}), "files")
        sources = listing((entry for entry in files if entry["path"].startswith(PACKAGES)), "file")
        digest = tagged_digest("sources/1", sources)
        for row in self.root["stages"]:
            is_clean = self.root["dev"] or not row["code"]["dirty"]
            require(is_clean, f"stage {show(row['stage'])} ran from a changed source tree", "model/manifest.json")
        others = [show(row["stage"]) for row in self.root["stages"] if row["code"]["packages_digest"] != digest]
        need(not others, f"{', '.join(others)} {OTHER_PACKAGES}")
        return f"{len(files)} files; sources/1 {digest} is the one that every stage recorded"

    def check_configs(self) -> str:
        """Configs of model and tokenizer, which libraries obey, name no code and no place outside of the bundle."""
        for path in (found := [p for p in self.model.paths if p.endswith("config.json") and not p.startswith("code/")]):
            data, where = self.model.read(path, 0, min(self.model.files[path], MAX_LINE_BYTES)), self.model.place(path)
            for key, value in json.loads(data, object_pairs_hook=_without_duplicates).items():
                is_odd = key in ("auto_map", "trust_remote_code") or (isinstance(value, str) and ELSEWHERE.match(value))
                require(not is_odd, f"{show(key)}: {show(value)} names code, or a place outside of the bundle", where)
        return f"{len(found)} configs name no code and no place outside of the bundle"

    def check_journals(self) -> str:
        """The journals are whole chains."""
        names = re.compile("(?!code/)(.*/)?journal.jsonl")
        journals = [(tree, path) for tree in self.trees.values() for path in tree.paths if names.fullmatch(path)]
        return f"{sum(1 for journal in journals for _ in read_chain(*journal)):,} records, every link holds"

    def check_shards(self) -> str:
        """Recompute `tokens/1` of every split and look through the shards that are here."""
        tree, where = self.dataset, "dataset/tokens/tokens.json"
        tokens, blank = tree.json("tokens/tokens.json", "openwright-tokens/1"), {}
        if "tombstones.json" in tree.files:
            copies = tree.json("tombstones.json", "openwright-tombstones/1")["blanked"]["files"]
            blank = {file["path"]: file["ranges"] for file in copies if file["path"] not in tree.files}
        splits = {name: Split(name, stated, f"{where}: {show(name)}") for name, stated in tokens["splits"].items()}
        self.splits, num_absent, named = splits, 0, {"tokens/tokens.json"}
        for split in splits.values():
            split.blank = blank
            for shard in split.shards:
                paths = {file["path"] for file in shard["files"].values()}
                require(named.isdisjoint(paths), "tokens.json names a file twice", where)
                named |= paths
                num_absent += not self._check_shard(split, shard, tokens["vocab_size"])
        odd = [("belongs to no split of tokens.json", tree.place(p)) for p in tree.below("tokens/") if p not in named]
        refuse_first(odd, "files")
        need(not num_absent, f"{num_absent} shards are not shipped; the digests tokens/1 of {len(splits)} splits hold")
        return f"{len(splits)} splits: digests, sizes, ids below the vocabulary size, document ends and masks"

    def _check_shard(self, split: Split, shard: Json, vocab_size: int) -> bool:
        """Check one shard; returns whether all its files are here."""
        tree, num_tokens = self.dataset, shard["num_tokens"]
        is_whole = split.layout != "rows" or (num_tokens and num_tokens % split.width == 0)
        require(is_whole, f"a shard of {show(split.name)}: {num_tokens} tokens are no whole rows of {split.width}")
        sizes = {"tokens": split.item_bytes * num_tokens, "ends": 8 * shard["num_documents"], "mask": num_tokens}
        here = {role: file for role, file in shard["files"].items() if file["path"] in tree.files}
        for role, file in here.items():
            path, where = file["path"], tree.place(file["path"])
            require(tree.files[path] == sizes[role], f"{tree.files[path]} bytes, expected {sizes[role]}", where)
            require(tree.sha256(path) == file["sha256"], "is not the file that tokens.json names", where)
            if role == "tokens":
                is_known = all(max(unpack(block, split.item_bytes)) < vocab_size for block in tree.blocks(path))
                require(is_known, "a token id beyond the vocabulary", where)
            elif role == "mask":
                is_odd = any(block.translate(None, b"\0\1") for block in tree.blocks(path))
                require(not is_odd, "a mask value that is neither 0 nor 1", where)
            else:
                last = 0
                for end in (end for block in tree.blocks(path) for end in unpack(block, 8)):
                    require(end > last, "document ends that do not increase", where)
                    last = end
                require(last == num_tokens, f"the last document ends at {last} of {num_tokens}", where)
        return len(here) == len(shard["files"])

    def check_documents(self) -> str:
        """The index fits its codes, the totals, the sources and, document by document, the token shards."""
        tree, where = self.dataset, "dataset/documents/codes.json"
        codes = tree.json("documents/codes.json", "openwright-codes/1")
        lists = [codes[key] for key in ("sources", "licences", "decisions", "splits")]
        require(lists[2][:1] == ["kept"] and lists[3][:1] == ["none"], "decision 0 or split 0 has another name", where)
        lock = tree.json("sources.lock", "openwright-sources/1")
        require({s["name"] for s in lock["sources"]} >= {*lists[0]}, "a source is not in sources.lock", where)
        compared = self.dataset_manifest["corpus"]["recipe"].get("decontamination") or {}
        here = {tree.sha256(path) for path in tree.below("evaluation-sets/")}
        for sets in (compared.get("sets", []), lock.get("evaluation_sets", [])):
            pinned = {one["sha256"] for one in sets if one.get("shipping") == "file"}
            require(pinned == here, "other files than are pinned", "dataset/evaluation-sets")
        kept: dict[tuple[str, str], array[int]] = {}
        num_rows, last = 0, b""
        for place, row in index_rows(tree):
            document, _, num_tokens, source, licence, decision, split, reserved_1, reserved_2 = row
            require(document > last, "document ids that do not increase", place)
            numbers = zip((source, licence, decision, split), lists, strict=True)
            require(all(n < len(names) for n, names in numbers), "a code that codes.json does not list", place)
            is_odd = reserved_1 or reserved_2 or (decision == 0) != (split != 0) or (decision and num_tokens)
            require(not is_odd, "a row whose decision, split and tokens do not fit together", place)
            num_rows, last = num_rows + 1, document
            if not decision:
                kept.setdefault((lists[3][split], lists[0][source]), array("I")).append(num_tokens)
        num_kept = sum(map(len, kept.values()))
        totals = tree.json("corpus.json", "openwright-corpus/1")["num_documents"]
        is_counted = (totals["kept"], totals["dropped"]) == (num_kept, num_rows - num_kept)
        require(is_counted, f"counts other documents than {num_kept} kept of {num_rows}", "dataset/corpus.json")
        num_absent = self._compare_documents(kept)
        need(not num_absent, f"{num_rows} rows hold; the document ends of {num_absent} shards are not shipped")
        return f"{num_rows:,} rows, {num_kept:,} kept, each with the tokens that the shards hold"

    def _compare_documents(self, kept: dict[tuple[str, str], array[int]]) -> int:
        """Compare the tokens of kept documents with the shards'; returns how many shards are not here."""
        need(self.splits, "tokens.json could not be read")
        tree, num_absent, index = self.dataset, 0, "dataset/documents/index-00000.bin"
        streams = [split for split in self.splits.values() if split.layout == "stream"]
        for key, shards in (((split.name, n), shards) for split in streams for n, shards in split.sources.items()):
            counts, where, first = kept.pop(key, array("I")), f"split and source {show(key)}", 0
            held = [sum(shard[total] for shard in shards) for total in ("num_tokens", "num_documents")]
            told = f"{sum(counts)} tokens in {len(counts)} documents of {where}, the shards {held[0]} in {held[1]}"
            require(held == [sum(counts), len(counts)], f"the index counts {told}", index)
            for shard in shards:
                path, end = shard["files"]["ends"]["path"], 0
                if path not in tree.files:
                    num_absent, first = num_absent + 1, first + shard["num_documents"]
                    continue
                for number in (number for block in tree.blocks(path) for number in unpack(block, 8)):
                    if number - end != counts[first]:
                        told = f"{number - end} tokens in the shard and {counts[first]} in the index"
                        raise Mismatch(f"document {first} of {where} has {told}", tree.place(path))
                    first, end = first + 1, number
        require(not kept, f"kept documents of {show(sorted(kept)[:1])} have no shard", index)
        return num_absent

    def check_tokenizer(self) -> str:
        """One tokenizer: that of the shards, of the corpus and of the model."""
        expected = self.dataset.json("tokens/tokens.json", "openwright-tokens/1")["tokenizer_sha256"]
        for tree, path in ((self.dataset, "tokenizer/tokenizer.json"), (self.model, "tokenizer.json")):
            require(tree.sha256(path) == expected, "is not the tokenizer that made the shards", tree.place(path))
        return "the model's tokenizer.json is the one that made the shards"

    def _ledger(self, stage: Stage) -> Ledger:
        need(stage.name in self.ledgers, "not checked: the ledger could not be read")
        return self.ledgers[stage.name]

    def _recipe(self, stage: Stage) -> Json:
        return self.model.json(f"training/{stage.name}/recipe.json", "recipe")

    def check_ledger(self, stage: Stage) -> str:
        """Chain and grammar of a ledger."""
        ledger = read_ledger(self.model, f"training/{stage.name}/ledger.jsonl")
        stated = ledger.start["stage"]
        require(stated == stage.name, f"the ledger is of a stage {show(stated)}", ledger.where)
        self.ledgers[stage.name] = ledger
        is_same = listing(ledger.start["parents"], "parent") == listing(stage.manifest["parents"], "parent")
        require(is_same, "the ledger names other parents than the stage's manifest", ledger.where)
        steps = f"steps {ledger.first_step + 1:,} to {ledger.order.num_steps:,}"
        if ledger.skipped:
            steps += f" without {', '.join(f'{first:,} to {last:,}' for first, last in ledger.skipped[:5])}"
        return f"{ledger.place['num_records']:,} records, {steps}, head {ledger.place['head']}"

    def check_branch(self, stage: Stage) -> str:
        """What a run of another ledger did before this one went on from it is not in this bundle."""
        branch = self._ledger(stage).start["branch"]
        told = f"steps 1 to {branch['step']:,} ran in another run, whose ledger head is {branch['ledger_head']}"
        raise Unverifiable(f"{told}: how the state came about that this run begins with is not in this bundle")

    def check_run(self, stage: Stage) -> str:
        """`run.json` says what the ledger says."""
        ledger, path = self._ledger(stage), f"training/{stage.name}/run.json"
        run, last, scores = self.model.json(path, "openwright-run/1"), ledger.order.num_steps, ledger.scores
        ends = {"first": min(scores), "last": max(scores)} if scores else {}
        digests = {key: ledger.end[key] for key in ("weights_digest", "state_digest")}
        follows: dict[str, Json] = {
            "stage": stage.name,
            "num_steps": last,
            "num_tokens": ledger.num_tokens,
            "final": {"step": last, "path": f"checkpoints/step-{last:08d}", **digests},
            "ledger": {key: ledger.place[key] for key in ("head", "num_records")},
            "heldout": {place: {key: scores[step][key] for key in SHAPES["scores"]} for place, step in ends.items()},
        }
        for key, value in follows.items():
            said = {name: run[key][name] for name in value} if isinstance(value, dict) else run[key]
            require(said == value, f"{key} is {show(said)}; the ledger says {show(value)}", self.model.place(path))
        return f"{last:,} steps, {run['num_tokens']:,} tokens, final weights and held-out losses as in the ledger"

    def check_recipe(self, stage: Stage) -> str:
        """The ledger names this recipe, and what its start record and its order say follows from it."""
        ledger, recipe = self._ledger(stage), self._recipe(stage)
        where, digest = f"model/training/{stage.name}/recipe.json", tagged_digest("recipe/1", recipe)
        order, start = ledger.order, ledger.start
        require(recipe == stage.manifest["recipe"], "is not the recipe of the stage's manifest", where)
        require(digest == start["recipe_digest"], "the ledger's recipe_digest is of another recipe", where)
        branch = recipe.get("branch") and {key: recipe["branch"].get(key) for key in SHAPES["branch"]}
        file, pinned = recipe["data"].get("order"), None
        if file is not None:
            fit(file, "pinned", where, "order")
            pinned = {key: file[key] for key in ("dtype", "sha256", "tokens_digest")}
        # Stretches that end before a branch begins are no part of its ledger.
        skips = [stretch for stretch in recipe["skip_steps"] if stretch[-1] > ledger.first_step]
        facts = {
            "seed": (recipe["seed"], order.seed),
            "data.split": (recipe["data"]["split"], order.split),
            "data.window_tokens": (recipe["data"]["window_tokens"], order.window_tokens),
            **self._phases(recipe, order, where),
            "num_logical_replicas": (recipe["num_logical_replicas"], start["num_logical_replicas"]),
            "reduction": (recipe["reduction"], start["reduction"]),
            "branch": (branch, start.get("branch")),
            "skip_steps": (skips, ledger.skipped),
            "data.order": (pinned, order.file and {**order.file, "tokens_digest": order.tokens_digest}),
        }
        for name, (said, follows) in facts.items():
            require(said == follows, f"{name} is {show(said)} in the recipe and {show(follows)} in the ledger", where)
        last = "the file of the order" if order.file else "exact mixture counts"
        return f"recipe/1 as recorded; seed, split, window, phases and {last} follow from it"

    def _phases(self, recipe: Json, order: Order, where: str) -> dict[str, tuple[Json, Json]]:
        """What follows for the order from a recipe's phases and from what was drawn before them, and what it says."""
        need(len(recipe["phases"]) * len(order.pools) <= MAX_ORDER_WORK, "more phases than this program reads", where)
        begun = (recipe.get("branch") or {}).get("draws_before") or {"step": 0, "pools": []}
        fit(begun, "drawn", where)
        drawn = {(pool["source"], pool["window_tokens"]): pool["num_draws"] for pool in begun["pools"]}
        stated = {pool[:2]: pool.draws_before for pool in order.pools if pool.draws_before}
        phases = [self._phase(phase, order, where) for phase in recipe["phases"]]
        ends, lengths = list(accumulate(p[0] for p in phases)), list(dict.fromkeys(p[2] for p in phases))
        stated_phases = (order.num_steps, [tuple(phase) for phase in order.phases])
        is_pooled = bool(drawn) or lengths != [order.window_tokens]
        return {
            "order": (ORDER_VERSIONS[2 if recipe["data"].get("order") else is_pooled], order.version),
            "window lengths": (lengths, order.lengths),
            "draws_before": ((begun["step"], drawn), (order.first_step - 1, stated)),
            "phases": ((ends[-1], phases[bisect_right(ends, begun["step"]) :]), stated_phases),
        }

    @staticmethod
    def _phase(phase: Json, order: Order, where: str) -> tuple[int, int, int, list[int]]:
        num_steps, width = phase["num_steps"], phase["sequences_per_step"]
        length = phase.get("window_tokens") or order.window_tokens
        if order.file:
            require(phase["mixture"] == "proportional", "a mixture beside a file that gives the order", where)
            return num_steps, width, length, []
        named = {pool.name: pool.num_windows for pool in order.pools if pool.window_tokens == length}
        if phase["mixture"] != "proportional":
            fit(phase["mixture"], "weights", where)
            require(named.keys() >= phase["mixture"].keys(), "a mixture of sources that the order lacks", where)
            named = phase["mixture"]
        weights = [named.get(pool.name, 0) * (pool.window_tokens == length) for pool in order.pools]
        require(sum(weights), "a mixture without weight", where)
        return num_steps, width, length, shares(num_steps * width, weights)

    def check_windows(self, stage: Stage) -> str:
        """The order is one over the shards of the dataset: digest, sources and window counts."""
        order = self._ledger(stage).order
        split = self._split(order)
        where, sources = f"dataset/tokens: {show(split.name)}", split.sources.items()
        found = [(name, n, split.num_windows(shards, n)) for n in order.lengths for name, shards in sources]
        require(split.digest == order.tokens_digest, "the order was made for other token shards", where)
        is_whole = all(split.width in (0, length + 1) for length in order.lengths)
        require(is_whole, f"windows of {order.lengths} tokens over rows of {split.width}", where)
        require(found == [pool[:3] for pool in order.pools], "the window counts do not follow from the shards", where)
        return f"{sum(n for _, _, n in found):,} windows of {len(split.sources)} sources, as the shards give"

    def _split(self, order: Order) -> Split:
        need(self.dataset and self.splits, "not checked: tokens.json could not be read")
        require(order.split in self.splits, f"the ledger reads split {show(order.split)}, which tokens.json lacks")
        return self.splits[order.split]

    def _sampled(self, ledger: Ledger, purpose: str, most: int) -> tuple[Iterator[tuple[Json, str]], str]:
        """Step records to recompute, all of them if `most` is 0, and how they were chosen."""
        total = len(ledger.numbers)
        most = min(most, ledger.order.affordable_steps) or total
        if most >= total:
            return ledger.step_records(self.model, range(total)), f"all {total:,} steps"
        chosen = sorted(random.Random(f"{self.seed} {purpose}").sample(range(total), most))
        missed = f"a single wrong step is missed with probability {1 - most / total:.3f}"
        told = f"{most:,} of {total:,} steps drawn at random (--seed {self.seed}; {missed})"
        return ledger.step_records(self.model, chosen), told

    def check_order(self, stage: Stage) -> str:
        """Recompute the order digest and the tokens per source of every step, or of a large sample."""
        ledger, order = self._ledger(stage), self._ledger(stage).order
        if order.file:
            order.check_file(self.model)
        records, chosen = self._sampled(ledger, f"{stage.name} order", MAX_ORDER_STEPS)
        for record, where in records:
            step, windows = record["step"], order.step_windows(record["step"])
            ids = b"".join((pool.first_id + window).to_bytes(8, "little") for pool, window in windows)
            is_same = hashlib.sha256(ids).hexdigest() == record["order_digest"]
            require(is_same, f"the order_digest of step {step} does not follow from the order", where)
            read = {pool.name: n * pool.window_tokens for pool, n in Counter(pool for pool, _ in windows).items()}
            require(read == record["tokens_by_source"], f"tokens_by_source of {step} does not follow", where)
        return f"order digests of {chosen} recomputed and equal"

    def check_tokens(self, stage: Stage) -> str:
        """Recompute the token digests of some or all steps from the shards."""
        ledger, order = self._ledger(stage), self._ledger(stage).order
        split, num_left = self._split(order), 0
        is_over_these = split.digest == order.tokens_digest and {p.name for p in order.pools} <= split.sources.keys()
        need(is_over_these, "not checked: the order is not one over these shards")
        need(self.tokens != "none", "not checked: --tokens none")
        most = 0 if self.tokens == "all" else NUM_TOKEN_STEPS
        records, chosen = self._sampled(ledger, f"{stage.name} tokens", most)
        for record, where in records:
            windows = order.step_windows(record["step"])
            read = [found for window in windows if (found := split.read_window(self.dataset, *window))]
            if len(read) < len(windows):
                num_left += 1
                continue
            digest = hashlib.sha256(b"".join(ids + mask for ids, mask in read)).hexdigest()
            num_trained = sum(mask.count(1) for _, mask in read)
            require(digest == record["token_digest"], f"token_digest of step {record['step']} does not follow", where)
            require(num_trained == record["num_trained_tokens"], f"it trains {num_trained} tokens", where)
        need(not num_left, f"{chosen}: {num_left} read tokens that are not shipped, the others are equal")
        return f"token digests of {chosen} recomputed and equal"

    def check_schedule(self, stage: Stage) -> str:
        """The ledger holds exactly the checkpoints and held-out losses that the recipe orders."""
        ledger, recipe = self._ledger(stage), self._recipe(stage)
        settings, first, last = recipe["checkpoints"], ledger.first_step, ledger.order.num_steps
        published = set(settings["published_full_steps"])
        for step in ledger.steps:
            is_full = step and (step % settings["full_every_steps"] == 0 or step in (first, last))
            due = "full" if is_full else "weights" if weights_due(settings, step) else None
            if (made := ledger.kinds.get(step)) != due:
                told = f"step {step} has {made or 'no'} checkpoint in the ledger, the recipe orders {due or 'none'}"
                raise Mismatch(told, ledger.where)
            is_due = step % recipe["data"]["heldout_every_steps"] == 0 or step == last
            is_right = (step in ledger.scores) == (is_due and (step > first or step == 0))
            require(is_right, f"the held-out loss of step {step} is not as the recipe orders", ledger.where)
            is_right = made == "full" or step not in published
            require(is_right, f"published_full_steps: none was made at {step}", ledger.where)
        return f"{len(ledger.checkpoints)} checkpoints and {len(ledger.scores)} held-out losses, as the recipe orders"

    def check_checkpoints(self, stage: Stage) -> str:
        """The checkpoints that the recipe keeps are there and are those that the ledger records."""
        ledger, base, kept = self._ledger(stage), f"checkpoints/{stage.name}/", []
        recorded = {f"{base}step-{step:08d}/": step for step in ledger.checkpoints}
        for path in self.model.below(base):
            is_known = f"{base}{path.split('/')[2]}/" in recorded
            require(is_known, "a checkpoint that the ledger lacks", self.model.place(path))
        forms = self._forms(stage)
        for directory, step in recorded.items():
            kind = "nothing"
            if self.model.below(directory):
                kind = self.model.json(f"{directory}checkpoint.json", "openwright-checkpoint/1")["kind"]
            told = f"of the checkpoint of step {step} {show(kind)} is kept, expected {' or '.join(sorted(forms[step]))}"
            require(kind in forms[step], told, self.model.place(directory))
            if kind != "nothing":
                self._check_checkpoint(directory, ledger.checkpoints[step], kind)
                kept.append(kind)
        parents = {parent["content_digest"] for parent in stage.manifest["parents"]}
        for base_stage in (other for other in self.trained if other.content_digest in parents and other != stage):
            first, expected = ledger.checkpoints.get(0), self._ledger(base_stage).end["weights_digest"]
            is_same = first is None or first.record["weights_digest"] == expected
            require(is_same, f"step 0 does not have the final weights of {show(base_stage.name)}", ledger.where)
        gone = f"; {n} older ones were removed, as the recipe says" if (n := len(recorded) - len(kept)) else ""
        return f"state/1 of {len(kept)} checkpoints recomputed and equal, {kept.count('full')} with optimizer{gone}"

    def _forms(self, stage: Stage) -> dict[int, set[str]]:
        """In which forms the bundle may keep each checkpoint that the ledger records: full, weights, or nothing."""
        ledger, settings = self._ledger(stage), self._recipe(stage)["checkpoints"]
        full = [step for step, kind in sorted(ledger.kinds.items()) if kind == "full"]
        regular = [s for s in full if s % settings["full_every_steps"] == 0 and s < ledger.order.num_steps]
        newest = regular[-(settings["keep_last_full"] or len(regular)) :]
        stay = {ledger.first_step, ledger.order.num_steps, *settings["published_full_steps"], *newest}
        forms = {step: {"weights"} for step in ledger.kinds}
        for step in full:
            less = "weights" if weights_due(settings, step) else "nothing"
            forms[step] = {"full"} if step in stay else {"full", less}
        return forms

    def _check_checkpoint(self, directory: str, line: ChainLine, kind: str) -> None:
        """One checkpoint says what the ledger says, and its tensors have the recorded digests."""
        where, said = self.model.place(directory), line.record
        state = said["state_digest"] if kind == "full" else None
        expected = {"format": "openwright-checkpoint/1", "kind": kind, "step": said["step"], "ledger": line.before}
        expected |= {"weights_digest": said["weights_digest"], "state_digest": state}
        found = self.model.json(f"{directory}checkpoint.json", "openwright-checkpoint/1")
        require(found == expected, "checkpoint.json does not say what the ledger's checkpoint record says", where)
        weights = self.model.tensors(directory, "model")
        require(state_digest(weights) == said["weights_digest"], "the tensors have another weights_digest", where)
        if kind == "weights":
            require(not self.model.below(f"{directory}optimizer"), "an optimizer state beside mere weights", where)
            return
        optimizer = self.model.tensors(directory, "optimizer")
        require(state_digest(weights, optimizer) == state, "the tensors do not have the recorded state_digest", where)
        require("optimizer.step" in optimizer, "the optimizer state has no optimizer.step", where)
        known = {f"{name}.{part}" for name in weights for part in OPTIMIZER_PARTS}
        odd = sorted(optimizer.keys() - known - {"optimizer.step"})
        require(not odd, f"{show(odd[:1])} is the state of no tensor of the model", where)

    def check_ingredients(self, stage: Stage) -> str:
        """An average names checkpoints that the ledgers record, and counts them as its recipe says."""
        path = f"training/{stage.name}/average.json"
        made, where = self.model.json(path, "openwright-average/1"), self.model.place(path)
        self.average = made
        recipe, parts = self.model.json(f"training/{stage.name}/recipe.json", "averaging"), made["ingredients"]
        require(recipe == stage.manifest["recipe"], "recipe.json is not the recipe of the stage's manifest", where)
        named = [(group["stage"], step) for group in recipe["ingredients"] for step in group["steps"]]
        known = f"this program recomputes {ARITHMETIC} of up to {MAX_INGREDIENTS} checkpoints"
        need(made["arithmetic"] == ARITHMETIC and len(named) <= MAX_INGREDIENTS, known, where)
        told = [(part["stage"], part["step"]) for part in parts]
        require(told and told == named, "the recipe names other checkpoints", where)
        numerators = numerators_of(recipe, len(named))
        follows = [part["numerator"] for part in parts] == numerators and made["denominator"] == sum(numerators)
        require(follows and sum(numerators) <= DENOMINATOR, "numerators that do not follow from the recipe", where)
        stages = {trained.name: trained for trained in self.trained}
        for part in parts:
            name = f"step {part['step']} of {show(part['stage'])}"
            require(part["stage"] in stages, f"{name}: of no training stage of this bundle", where)
            line = self._ledger(stages[part["stage"]]).checkpoints.get(part["step"])
            is_recorded = line is not None and line.record["weights_digest"] == part["weights_digest"]
            require(is_recorded, f"{name}: the ledger records no checkpoint with these weights", where)
        parents = {parent["content_digest"] for parent in stage.manifest["parents"]}
        is_lineage = parents == {stages[part["stage"]].content_digest for part in parts}
        require(is_lineage, "its parents are not the stages whose checkpoints it names", stage.where)
        return f"{len(parts)} checkpoints, kind {recipe['kind']}, as the ledgers record them and the recipe counts them"

    def check_average(self, stage: Stage) -> str:
        """The average follows from its checkpoints: every element of it, or of a sample of blocks."""
        tree, expected, parts = self.model, self._made(stage), self.average["ingredients"]
        directory, numerators = f"checkpoints/{stage.name}/averaged/", [part["numerator"] for part in parts]
        sources: list[dict[str, Tensor]] = []
        for part in parts:
            place = f"checkpoints/{part['stage']}/step-{part['step']:08d}/"
            sources.append(tree.tensors(place, "model"))
            is_same = state_digest(sources[-1]) == part["weights_digest"]
            require(is_same, "the tensors have another digest than the average was made of", tree.place(place))
        average = tree.tensors(directory, "model")
        require(state_digest(average) == expected, "the tensors are not those that average.json names", directory)
        shapes = {name: ("F32", tensor.shape) for name, tensor in average.items()}
        for tensors in (average, *sources):
            is_same = shapes == {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
            require(is_same, "the checkpoints do not have the same F32 tensors", directory)
        blocks = [(name, at) for name, t in sorted(average.items()) for at in range(0, t.num_bytes, AVERAGE_BLOCK)]
        most, total, missed = max(1, MAX_PRODUCTS // (len(parts) * AVERAGE_BLOCK // 4)), len(blocks), ""
        if most < total:
            blocks = random.Random(f"{self.seed} average").sample(blocks, most)
            missed = f" (--seed {self.seed}; a single wrong one is missed with probability {1 - most / total:.3f})"
        for name, at in blocks:
            length = min(AVERAGE_BLOCK, average[name].num_bytes - at)
            recorded, *data = (tree.read(t[name].path, t[name].begin + at, length) for t in (average, *sources))
            made = weighted_sum([struct.unpack(f"<{length // 4}f", row) for row in data], numerators)
            is_same = made == recorded
            require(is_same, f"tensor {show(name)} is not the average of the checkpoints", tree.place(directory))
        return f"{len(blocks):,} of {total:,} blocks added up again and equal{missed}"

    def _made(self, stage: Stage) -> str:
        """Digest of the weights that a stage ended with."""
        if stage.name != "average":
            return str(self._ledger(stage).end["weights_digest"])
        need(self.average, "not checked: average.json could not be read")
        return str(self.average["final"]["weights_digest"])

    def check_final_weights(self) -> str:
        """The released weights are those of the last stage that made some."""
        require(self.makers, "no stage made these weights")
        stage, expected = self.makers[-1], self._made(self.makers[-1])
        is_same = state_digest(self.model.tensors("", "model")) == expected
        require(is_same, f"the released tensors are not the final ones of {show(stage.name)}")
        made = "averaged" if stage.name == "average" else f"step-{self._ledger(stage).order.num_steps:08d}"
        config = f"checkpoints/{stage.name}/{made}/config.json"
        require(self.model.sha256("config.json") == self.model.sha256(config), "is not the final one", "config.json")
        return f"state/1 {expected}, the end of {show(stage.name)}"

    def check_evaluation(self) -> str:
        """The evaluation names the weights and the corpus of this bundle."""
        record = self.model.json("evaluation/record.json", "openwright-evaluation/1")
        require(record["corpus"]["content_digest"] == self.root["dataset"]["content_digest"], "it read another corpus")
        stages = {stage.content_digest: stage for stage in self.makers}
        for model in record["models"]:
            need(model["content_digest"] in stages, f"model {show(model['name'])} is of no stage of this bundle")
            stage = stages[model["content_digest"]]
            is_same = model["weights_digest"] == self._made(stage)
            require(is_same, f"the evaluated weights are not the final ones of {show(stage.name)}")
        return f"{len(record['models'])} models, each with the final weights of its stage; scores are not recomputed"


def index_rows(tree: Tree) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Rows of the document index with the place of each."""
    paths = [path for path in tree.below("documents/index-") if path.endswith(".bin")]
    require(paths, "there is no document index", tree.place("documents/index-00000.bin"))
    for path in paths:
        require(tree.files[path] % INDEX_ROW.size == 0, "its size is not that of whole rows", tree.place(path))
        rows = (row for block in tree.blocks(path, INDEX_ROW.size * 8192) for row in INDEX_ROW.iter_unpack(block))
        yield from ((f"{tree.place(path)}: row {number}", row) for number, row in enumerate(rows))


# ---- entry points ---------------------------------------------------------------------------------------------------
def verify_bundle(
    bundle: Path, *, expect: str | None = None, tokens: str = "sample", rng_seed: int | None = None, report: Any = bool
) -> list[CheckResult]:
    """Run all checks on a bundle or a lone `model/`, and `report` each result; never raises for what it holds.

    `tokens` says of how many steps token digests are recomputed: `sample` (up to 200 of a stage), `all` or `none`.
    """
    seed = secrets.randbits(48) if rng_seed is None else rng_seed
    return Verifier(Path(bundle), expect, tokens, seed, report).run()


def overall(results: Sequence[CheckResult]) -> str:
    """FAIL if any check failed, UNVERIFIED if any is unverified or there are none, else PASS; notes do not count."""
    verdicts = {result.verdict for result in results if result.check != NOTE}
    return FAIL if FAIL in verdicts else UNVERIFIED if UNVERIFIED in verdicts or not verdicts else PASS


def print_result(result: CheckResult) -> None:
    """Print one line for people."""
    place = f" [{result.where}]" if result.where else ""
    print(f"{result.verdict:<10}  {result.check}: {result.name:<24}  {result.detail}{place}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    here = Path(__file__).resolve().parent
    here = here.parent if here.name == "model" and (here.parent / "dataset").is_dir() else here
    about = "Verify a bundle offline. Exit codes: 0 pass, 1 fail, 2 bad usage, 3 unverified."
    parser = argparse.ArgumentParser(prog="verify.py", description=about)
    add = parser.add_argument
    add("bundle", nargs="?", type=Path, default=here, help="directory that holds model/ and dataset/")
    add("--expect", metavar="DIGEST", help="sha256 of model/manifest.json from a place that you trust")
    add("--tokens", choices=("sample", "all", "none"), default="sample", help="token digests to recompute")
    add("--seed", type=int, help="seed of the samples; fresh randomness by default")
    add("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args(arguments)
    getattr(sys.stdout, "reconfigure", dict)(errors="backslashreplace")  # names from a stranger on any terminal
    if not options.bundle.is_dir():
        parser.error(f"no directory {options.bundle}")
    if options.expect is not None and not re.fullmatch("[0-9a-f]{64}", options.expect):
        parser.error("--expect takes 64 hexadecimal digits")
    given = {"expect": options.expect, "tokens": options.tokens, "rng_seed": options.seed}
    results = verify_bundle(options.bundle, report=bool if options.json else print_result, **given)
    verdict = overall(results)
    if options.json:
        document = {"format": "openwright-verify/1", "verdict": verdict, "checks": [asdict(r) for r in results]}
        print(json.dumps(document, ensure_ascii=False, indent=1))
    else:
        print(f"{verdict}  {NOT_CHECKED_HERE}")
    return {PASS: 0, FAIL: 1, UNVERIFIED: 3}[verdict]


if __name__ == "__main__":
    sys.exit(main())

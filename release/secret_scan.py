"""Finds credentials in the text files of a bundle before it is sealed (rule BND-07)."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from release.layout import TEXT_NAMES, TEXT_SUFFIXES, bundle_files

MAX_FINDINGS = 100
"""Findings of one kind in one file that are told: a stranger's file may hold nothing else."""

_BLOCK_BYTES = 2**20

_QUOTED = ("model/evaluation/tasks/", "model/evaluation/samples/", "model/openness/LICENSES/")
"""Places that quote public text, where the documentation of a library may show a made-up key."""

_PATTERNS: tuple[tuple[str, tuple[bytes, ...], re.Pattern[str]], ...] = (
    ("a private key", (b"PRIVATE KEY",), re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----")),
    ("an AWS access key", (b"AKIA", b"ASIA"), re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    (
        "a GitHub token",
        (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_"),
        re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b"),
    ),
    ("a Hugging Face token", (b"hf_",), re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")),
    ("a Slack token", (b"xox",), re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{12,}")),
    ("a Google API key", (b"AIza",), re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("a PyPI token", (b"pypi-",), re.compile(r"\bpypi-[A-Za-z0-9_-]{50,}")),
    (
        "a JSON web token",
        (b"eyJ",),
        re.compile(r"(?<![\w-])eyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    ),
    ("a password in an address", (b"://",), re.compile(r"\bhttps?://[^\s/:@\"'<>{}]+:[^\s/:@\"'<>{}]+@")),
)
"""Kinds of secrets: what a block of text must hold for the search to begin, and the search. None spans lines."""


def find_secrets(bundle: Path) -> list[str]:
    """Return one line per finding: path, line number and kind, never the secret itself."""
    found = []
    for path in bundle_files(bundle):
        relative = path.relative_to(bundle).as_posix()
        is_text = path.suffix in TEXT_SUFFIXES | {".cfg"} or path.name in TEXT_NAMES
        if is_text and not relative.startswith(_QUOTED) and path.name != "tokenizer.json":
            found += [f"{relative}:{line}: looks like {kind}" for line, kind in _secrets_of(path)]
    return sorted(found)


def _secrets_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and kind of what looks like a secret in a file, which can be a ledger larger than the memory."""
    counts: Counter[str] = Counter()
    num_lines = 0
    for block in _blocks(path):
        kinds = [(kind, pattern) for kind, marks, pattern in _PATTERNS if any(mark in block for mark in marks)]
        text = block.decode("utf-8", errors="replace") if kinds else ""
        for kind, pattern in kinds:
            for match in islice(pattern.finditer(text), MAX_FINDINGS - counts[kind]):
                counts[kind] += 1
                yield num_lines + text.count("\n", 0, match.start()) + 1, kind
        num_lines += block.count(b"\n")


def _blocks(path: Path) -> Iterator[bytes]:
    """A file in blocks of whole lines."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block if block.endswith(b"\n") else block + file.readline()

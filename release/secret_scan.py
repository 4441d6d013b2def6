"""Finds credentials in the text files of a bundle before it is sealed (rule BND-07)."""

import re
from itertools import islice
from pathlib import Path

from release.layout import TEXT_NAMES, TEXT_SUFFIXES, bundle_files

MAX_FINDINGS = 100
"""Findings of one kind in one file that are told: a stranger's file may hold nothing else."""

_QUOTED = ("model/evaluation/tasks/", "model/evaluation/samples/", "model/openness/LICENSES/")
"""Places that quote public text, where the documentation of a library may show a made-up key."""

_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a private key", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----")),
    ("an AWS access key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b")),
    ("a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")),
    ("a Slack token", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{12,}")),
    ("a Google API key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("a PyPI token", re.compile(r"\bpypi-[A-Za-z0-9_-]{50,}")),
    ("a JSON web token", re.compile(r"(?<![\w-])eyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}")),
    ("a password in an address", re.compile(r"\bhttps?://[^\s/:@\"'<>{}]+:[^\s/:@\"'<>{}]+@")),
)


def find_secrets(bundle: Path) -> list[str]:
    """Return one line per finding: path, line number and kind, never the secret itself."""
    found = []
    for path in bundle_files(bundle):
        relative = path.relative_to(bundle).as_posix()
        is_text = path.suffix in TEXT_SUFFIXES | {".cfg"} or path.name in TEXT_NAMES
        if not is_text or relative.startswith(_QUOTED) or path.name == "tokenizer.json":
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for kind, pattern in _PATTERNS:
            for match in islice(pattern.finditer(text), MAX_FINDINGS):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{relative}:{line}: looks like {kind}")
    return sorted(found)

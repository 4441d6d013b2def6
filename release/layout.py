"""The layout of a bundle (`openwright-bundle/1`): which paths exist and which role each has.

Roles: `result` (what a faultless replay reproduces, and what the provider declares), `observation` (journals,
environments, artifact manifests), `document` (generated from the others, and human statements). Only results enter
the content digest; see `docs/formats.md`.
"""

import fnmatch
import re
from collections.abc import Iterable
from pathlib import Path

from provenance.canonical import Json
from provenance.digests import FileEntry, tagged_digest
from provenance.errors import BundleError

BUNDLE_FORMAT = "openwright-bundle/1"
DATASET_FORMAT = "openwright-dataset/1"

TEXT_SUFFIXES = frozenset(
    (".css", ".html", ".j2", ".jinja", ".json", ".jsonl", ".lock", ".md", ".py", ".toml", ".txt", ".yaml", ".yml")
)
"""Suffixes of the text files that a bundle may hold."""

TEXT_NAMES = frozenset(("LICENSE", "NOTICE", "Makefile"))
"""Text files without a suffix."""

TEXT_FOLDERS = ("text", "conversations", "chats", "preferences")
"""Folders of a corpus with the text of documents and conversations, in Parquet."""

LAYOUT: tuple[tuple[str, str], ...] = (
    ("model/manifest.json", "root"),
    ("model/manifest.sig", "root"),
    ("model/attestations/**", "root"),
    ("model/README.md", "document"),
    ("model/index.html", "document"),
    ("model/verify.py", "document"),
    ("model/LICENSE", "document"),
    ("model/NOTICE", "document"),
    ("model/config.json", "result"),
    ("model/generation_config.json", "result"),
    ("model/model*.safetensors", "result"),
    ("model/model.safetensors.index.json", "result"),
    ("model/tokenizer.json", "result"),
    ("model/tokenizer_config.json", "result"),
    ("model/special_tokens_map.json", "result"),
    ("model/chat_template.jinja", "result"),
    ("model/checkpoints/*/step-*/*", "result"),
    ("model/checkpoints/average/averaged/*", "result"),
    ("model/training/*/recipe.json", "result"),
    ("model/training/*/run.json", "result"),
    ("model/training/average/average.json", "result"),
    ("model/training/*/ledger.jsonl", "result"),
    ("model/training/*/order.bin", "result"),
    ("model/training/*/journal.jsonl", "observation"),
    ("model/training/*/environment.json", "observation"),
    ("model/training/*/accelerate.yaml", "observation"),
    ("model/training/*/identity.json", "observation"),
    ("model/training/*/tolerance.json", "observation"),
    ("model/training/*/manifest.json", "observation"),
    ("model/evaluation/manifest.json", "observation"),
    ("model/evaluation/journal.jsonl", "observation"),
    ("model/evaluation/environment.json", "observation"),
    ("model/evaluation/**", "result"),
    ("model/code/**", "result"),
    ("model/openness/components.json", "result"),
    ("model/openness/rules.yaml", "document"),
    ("model/openness/verdict.json", "document"),
    ("model/openness/statements/*.yaml", "document"),
    ("model/openness/LICENSES/*.txt", "document"),
    ("dataset/manifest.json", "root"),
    ("dataset/README.md", "document"),
    ("dataset/ATTRIBUTION.txt", "document"),
    ("dataset/croissant.json", "document"),
    ("dataset/described/*.json", "document"),
    ("dataset/described/*.jsonl", "document"),
    ("dataset/tombstones.json", "document"),
    ("dataset/redacted/tokens/**", "document"),
    ("dataset/journal.jsonl", "observation"),
    ("dataset/environment.json", "observation"),
    ("dataset/corpus.json", "result"),
    ("dataset/sources.lock", "result"),
    ("dataset/documents/documents-shipped-*.parquet", "document"),
    ("dataset/documents/**", "result"),
    ("dataset/text/*-shipped-*.parquet", "document"),
    ("dataset/chats/*-shipped-*.parquet", "document"),
    ("dataset/preferences/*-shipped-*.parquet", "document"),
    ("dataset/conversations/*-shipped-*.parquet", "document"),
    ("dataset/text/*.parquet", "result"),
    ("dataset/chats/*.parquet", "result"),
    ("dataset/preferences/*.parquet", "result"),
    ("dataset/conversations/*.parquet", "result"),
    ("dataset/dropped-chats/*.parquet", "result"),
    ("dataset/tokenizer/*", "result"),
    ("dataset/taken-tokenizer/tokenizer.json", "result"),
    ("dataset/evaluation-sets/*.jsonl", "result"),
    ("dataset/tokens/**", "result"),
)
"""Patterns in order, the first match counts: `*` within one path part, a final `**` for everything below."""


def _regex(pattern: str) -> re.Pattern[str]:
    head, below = (pattern[:-2], ".+") if pattern.endswith("**") else (pattern, "")
    parts = [fnmatch.translate(part)[4:-3].replace(".*", "[^/]*") for part in head.split("/")]
    return re.compile("/".join(parts) + below)


_COMPILED = [(_regex(pattern), role) for pattern, role in LAYOUT]


def role_of(path: str) -> str:
    """Return the role of a bundle-relative path.

    Raises:
        BundleError: for a path that the layout does not know.
    """
    for pattern, role in _COMPILED:
        if pattern.fullmatch(path):
            return role
    raise BundleError("a file that the bundle layout does not know", where=path)


def layout_allows(pattern: str) -> bool:
    """Whether some path can match both a path pattern of a rule and a pattern of the layout."""
    return any(_overlap(pattern.split("/"), known.split("/")) for known, _ in LAYOUT)


def _overlap(left: list[str], right: list[str]) -> bool:
    for one, other in zip(left, right, strict=False):
        if "**" in (one, other):
            return True
        fits = fnmatch.fnmatchcase(one.replace("*", "x"), other) or fnmatch.fnmatchcase(other.replace("*", "x"), one)
        if not fits:
            return False
    return len(left) == len(right)


def bundle_files(bundle: Path, part: str = "") -> list[Path]:
    """All files of a bundle, or of its `model` or `dataset` part, sorted by path.

    Raises:
        BundleError: for links; a bundle holds plain files only.
    """
    found = []
    for path in sorted((bundle / part).rglob("*")):
        if path.is_symlink():
            raise BundleError("a link", expected="plain files only", where=str(path))
        if path.is_file():
            found.append(path)
    return found


def matching(paths: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Bundle-relative paths that match any of the patterns, in their order."""
    compiled = [_regex(pattern) for pattern in patterns]
    return [path for path in paths if any(pattern.fullmatch(path) for pattern in compiled)]


def bundle_digest(name: str, version: str, dataset_digest: str, results: Iterable[FileEntry]) -> str:
    """Content digest `bundle/1` of a release."""
    value: Json = {
        "name": name,
        "version": version,
        "dataset": dataset_digest,
        "results": [entry.as_json() for entry in sorted(results)],
    }
    return tagged_digest("bundle/1", value)

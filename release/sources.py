"""What an entry of `sources.lock` says: what pins a source, where a stranger obtains it, its class of data."""

from pathlib import Path
from typing import Any

from data_recipes.document import UNRESOLVED
from provenance.canonical import read_json


def source_locks(corpus: Path) -> dict[str, dict[str, Any]]:
    """Entries of `sources.lock` by source name."""
    return {entry["name"]: entry for entry in read_json(corpus / "sources.lock")["sources"]}


def taken_tokenizer(corpus: Path) -> dict[str, Any] | None:
    """What `sources.lock` says of a tokenizer that was made elsewhere; None where it was trained on the corpus."""
    entry = read_json(corpus / "sources.lock").get("tokenizer")
    return None if entry is None else dict(entry)


def evaluation_sets(corpus: Path) -> list[dict[str, Any]]:
    """What `sources.lock` says of the evaluation sets that documents were compared with, held-out documents aside."""
    return list(read_json(corpus / "sources.lock").get("evaluation_sets", []))


def tokenizer_licence(entry: dict[str, Any] | None) -> str:
    """Licence of such a tokenizer; NOASSERTION where none is stated, empty where it was trained on the corpus."""
    if entry is None:
        return ""
    return str(entry["licence"]["spdx"]) if entry.get("licence") else UNRESOLVED


def pin_of(entry: dict[str, Any]) -> str:
    """What fixes the bytes of a source: the commit of a data set on the Hub, else the sha256 of each file read."""
    if entry.get("revision"):
        return str(entry["revision"])
    return ", ".join(file["sha256"] for file in entry.get("files", ())) or str(entry.get("sha256", ""))


def location_of(entry: dict[str, Any]) -> str:
    """Where a stranger obtains a source: a command for package archives, a place for data sets."""
    return str(entry.get("obtain") or entry.get("obtained_from") or "")


def class_of(entry: dict[str, Any]) -> str:
    """Class of OSAID 1.0: open, public, obtainable or unshareable; empty where none is stated."""
    return str(entry.get("osaid_class") or entry.get("data_class") or "")

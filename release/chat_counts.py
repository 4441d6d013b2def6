"""What a corpus says of its conversations and pairs from files: text of evaluation sets in them, and personal data."""

from collections.abc import Iterator, Mapping
from typing import Any


def chat_findings(corpus: Mapping[str, Any]) -> list[str]:
    """Return a line for each evaluation set and kind of personal data, by split; none of corpora that do not say.

    Args:
        corpus: value of `corpus.json`.
    """
    splits: Mapping[str, Mapping[str, Any]] = corpus.get("chats", {}).get("splits", {})
    return [f"{name}: {line}" for name, found in splits.items() for line in _lines(found)]


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    for name, counts in found.get("contamination", {}).items():
        dropped, kept = counts["num_dropped"], counts["num_examples"]
        yield f"text of the evaluation set {name} in {dropped + kept:,} examples, {dropped:,} of them dropped for it"
    for kind, counts in found.get("personal_data", {}).items():
        yield f"{kind} in {counts['num_examples']:,} of the examples kept, at {counts['num_places']:,} places"
    if num_redacted := found.get("num_redacted", 0):
        yield f"{num_redacted:,} of the examples kept are redacted"

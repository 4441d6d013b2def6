"""What a corpus says of its conversations and pairs from files: text of evaluation sets in them, and personal data."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_recipes.chat_settings import DROPPED_CHATS, rows_split
from data_recipes.rule_settings import CONTAMINATED
from data_recipes.tombstones import CHAT_FOLDERS

_COUNTS = ("contamination", "personal_data", "num_redacted")


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
        yield f"examples with text of the evaluation set {name}: {dropped + kept:,}, dropped for it: {dropped:,}"
    for kind, counts in found.get("personal_data", {}).items():
        yield f"examples kept with personal data ({kind}): {counts['num_examples']:,}, places: {counts['num_places']:,}"
    if num_redacted := found.get("num_redacted", 0):
        yield f"examples kept and redacted: {num_redacted:,}"


def wrong_chat_counts(dataset: Path, stated: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what `corpus.json` says otherwise than the rows of examples, kept and dropped.

    Splits of which rows are left out of a bundle, and those of corpora that do not say, are not counted.

    Args:
        stated: `chats.splits` of `corpus.json`.
    """
    dropped = _dropped(dataset)
    for folder, name in CHAT_FOLDERS.items():
        for part in ("train", "heldout"):
            split, path = rows_split(name, part), dataset / folder / f"{part}-00000.parquet"
            if not path.is_file() or any(key not in stated.get(split, {}) for key in _COUNTS):
                continue
            for key, counted in _counted(path, dropped[split]).items():
                if stated[split][key] != counted:
                    yield f"corpus.json states {key} of the split {split!r} as {stated[split][key]}, the rows {counted}"


def _counted(path: Path, dropped: Counter[str]) -> dict[str, Any]:
    """The numbers of `_COUNTS` from the rows of examples."""
    sets: dict[str, Counter[str]] = defaultdict(Counter)
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    num_redacted = 0
    for batch in pq.ParquetFile(path).iter_batches(columns=["contamination_hits", "personal_data", "redacted_from"]):
        for row in batch.to_pylist():
            num_redacted += bool(row["redacted_from"])
            for name in {hit["set"] for hit in row["contamination_hits"]}:
                sets[name].update(num_examples=1, num_dropped=0)
            for kind, num_places in Counter(span["kind"] for span in row["personal_data"]).items():
                kinds[kind].update(num_examples=1, num_places=num_places)
    for name, number in dropped.items():
        sets[name].update(num_examples=0, num_dropped=number)
    values = ({name: dict(counts) for name, counts in found.items()} for found in (sets, kinds))
    return dict(zip(_COUNTS, (*values, num_redacted), strict=True))


def _dropped(dataset: Path) -> dict[str, Counter[str]]:
    """Examples dropped for each set, by split."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sorted((dataset / DROPPED_CHATS).glob("*.parquet")):
        for row in pq.read_table(path, columns=["split", "rule", "contamination_hits"]).to_pylist():
            if row["rule"] == CONTAMINATED:
                found[row["split"]].update({hit["set"] for hit in row["contamination_hits"]})
    return found

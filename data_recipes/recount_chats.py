"""What would stay of conversations and pairs from files under other thresholds, from their rows and no turn.

Of examples that were dropped only those are counted that rules on evaluation sets and personal data dropped: the table
of these has what they measured. What is let in may still be equal to another one, or too long for a row.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_recipes.chat_settings import DROPPED_CHATS, rows_split
from data_recipes.filters import QualityRules, broken_personal_data_limit
from data_recipes.rule_settings import CONTAMINATED, PERSONAL_DATA_LIMITS, DecontaminationRules
from data_recipes.tombstones import CHAT_FOLDERS

_COLUMNS = ("contamination", "personal_data")


@dataclass
class ChatCount:
    """What is kept of a split of rows, before and after.

    Attributes:
        num_not_compared: kept now, and dropped before they were compared with evaluation sets.
    """

    split: str
    kept_before: int = 0
    kept_after: int = 0
    dropped_after: Counter[str] = field(default_factory=Counter)
    num_not_compared: int = 0


def count_chats(
    dataset: Path, quality: QualityRules, decontamination: DecontaminationRules | None
) -> tuple[ChatCount, ...]:
    """Count the examples of a corpus again, by split; none of a corpus whose rows do not say what was found in them.

    Args:
        quality: rules, of which those that limit personal data count.
    """
    counts: dict[str, ChatCount] = {}
    for split, before, row in _rows(dataset):
        count = counts.setdefault(split, ChatCount(split))
        rules = None if split.endswith("-heldout") else decontamination
        after = _rule(before, row, quality, rules)
        count.kept_before += not before
        count.kept_after += not after
        count.dropped_after.update([after] if after else [])
        count.num_not_compared += not after and before in PERSONAL_DATA_LIMITS.values() and rules is not None
    return tuple(counts[split] for split in sorted(counts))


def _rows(dataset: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield split, rule and what was found of every example."""
    for folder, name in CHAT_FOLDERS.items():
        for path in sorted((dataset / folder).glob("*.parquet")):
            file = pq.ParquetFile(path)
            if not set(_COLUMNS) <= set(file.schema_arrow.names):
                continue
            split = rows_split(name, path.name.partition("-")[0])
            for batch in file.iter_batches(columns=list(_COLUMNS)):
                yield from ((split, "", row) for row in batch.to_pylist())
    for path in sorted((dataset / DROPPED_CHATS).glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=["split", "rule", *_COLUMNS]):
            yield from ((row["split"], row["rule"], row) for row in batch.to_pylist())


def _rule(
    before: str, row: Mapping[str, Any], quality: QualityRules, decontamination: DecontaminationRules | None
) -> str:
    """The rule that drops an example now; what no threshold decides stays as it was."""
    if broken := broken_personal_data_limit(Counter(span["kind"] for span in row["personal_data"]), quality):
        return broken
    if before not in ("", CONTAMINATED, *PERSONAL_DATA_LIMITS.values()):
        return before
    is_dropped = decontamination is not None and decontamination.drops(row["contamination"])
    return CONTAMINATED if is_dropped else ""

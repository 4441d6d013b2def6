"""What the documents of a source or split amount to, counted row by row and added up over shards."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from data_recipes.decisions import LICENCE, LICENCE_EVIDENCE
from provenance.canonical import Json

_COLUMNS = (
    *("source", "rule", "size_bytes", "num_tokens", "kind", "licence_spdx", "licence_chosen", "lines_removed"),
    "rule_not_applied",
)


@dataclass
class Totals:
    """Counts of documents; bytes, tokens, kinds and licences are of kept documents.

    Attributes:
        dropped: dropped documents by rule.
        licences: SPDX expressions; `licences_chosen`, the alternatives of an OR that the policy took.
        licences_dropped: expressions that the policy refused.
        lines_removed: lines that were taken out of kept documents, by rule.
        not_applied: documents in place by the rule that would have dropped them.
    """

    num_kept: int = 0
    size_bytes: int = 0
    num_tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    licences_chosen: Counter[str] = field(default_factory=Counter)
    licences_dropped: Counter[str] = field(default_factory=Counter)
    lines_removed: Counter[str] = field(default_factory=Counter)
    not_applied: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Json]:
        """Return the form that `corpus.json` holds."""
        return {
            "num_documents": {"kept": self.num_kept, "dropped": self.dropped.total()},
            "dropped_by_rule": _sorted(self.dropped),
            "size_bytes": self.size_bytes,
            "num_tokens": self.num_tokens,
            "kinds": _sorted(self.kinds),
            "licences": _sorted(self.licences),
            "licences_chosen": _sorted(self.licences_chosen),
            "licences_dropped": _sorted(self.licences_dropped),
            "lines_removed": _sorted(self.lines_removed),
            "rules_not_applied": _sorted(self.not_applied),
        }

    def add(self, values: Json) -> None:
        """Add what `as_json` of other documents returned."""
        self.num_kept += values["num_documents"]["kept"]
        self.size_bytes += values["size_bytes"]
        self.num_tokens += values["num_tokens"]
        self.dropped.update(values["dropped_by_rule"])
        self.kinds.update(values["kinds"])
        self.licences.update(values["licences"])
        self.licences_chosen.update(values["licences_chosen"])
        self.licences_dropped.update(values["licences_dropped"])
        self.lines_removed.update(values["lines_removed"])
        self.not_applied.update(values["rules_not_applied"])


def add_rows(totals: dict[str, Totals], table: pa.Table) -> None:
    """Count rows of the documents table, by source."""
    columns = (table.column(name).to_pylist() for name in _COLUMNS)
    for source, rule, size_bytes, num_tokens, kind, licence, chosen, removed, not_applied in zip(*columns, strict=True):
        found = totals.setdefault(source, Totals())
        if rule:
            found.dropped[rule] += 1
            if rule in (LICENCE, LICENCE_EVIDENCE):
                found.licences_dropped[licence] += 1
            continue
        found.num_kept += 1
        found.size_bytes += size_bytes
        found.num_tokens += num_tokens
        found.kinds[kind] += 1
        found.licences[licence] += 1
        found.licences_chosen[chosen] += 1
        if not_applied:
            found.not_applied[not_applied] += 1
        for taken_out in removed:
            found.lines_removed[taken_out["rule"]] += taken_out["num_lines"]


def sum_of(values: Iterable[Json]) -> Totals:
    """Return the sum of what `Totals.as_json` returned."""
    total = Totals()
    for value in values:
        total.add(value)
    return total


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))

"""What a corpus amounts to: totals per source and split, and every processing step with its counts (`corpus.json`)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from data_recipes.conversations import Conversations, EncodedRows
from data_recipes.decisions import DUPLICATE, FORGOTTEN, LICENCE, Extraction, kept_rows
from data_recipes.documents import DocumentRow
from data_recipes.filters import QUALITY_RULES
from data_recipes.settings import CorpusConfig
from data_recipes.text import READING_RULES
from provenance.canonical import Json
from provenance.config import recipe_of

CORPUS_FORMAT = "openwright-corpus/1"


def corpus_summary(
    config: CorpusConfig,
    extractions: Sequence[Extraction],
    rows: Sequence[DocumentRow],
    conversations: Conversations,
    encoded: Mapping[str, EncodedRows],
) -> Json:
    """Return the content of `corpus.json`.

    Args:
        rows: all rows, tokens counted.
        encoded: rows of the splits `sft` and `sft-heldout`.
    """
    splits = {source.name: source.split for source in config.sources}
    num_kept = sum(not row.decision.rule for row in rows)
    return {
        "format": CORPUS_FORMAT,
        "num_documents": {"kept": num_kept, "dropped": len(rows) - num_kept},
        "sources": [
            {
                "name": extraction.source,
                "split": splits[extraction.source],
                "num_files": extraction.num_files,
                "files_skipped": extraction.skipped,
                **_totals([row for row in rows if row.document.source == extraction.source]),
            }
            for extraction in extractions
        ],
        "splits": {split: _totals(kept_rows(rows, split)) for split in sorted(set(splits.values()))},
        "steps": _steps(config, extractions, rows),
        "conversations": {
            "code": "data_recipes/conversations.py",
            "parameters": recipe_of(config.conversations),
            "num_functions": conversations.num_functions,
            "num_conversations": len(conversations.kept),
            "dropped": dict(sorted(conversations.dropped.items())),
            "splits": {
                split: rows_of_split.report(config.conversations.window_tokens + 1)
                for split, rows_of_split in encoded.items()
            },
        },
    }


def _totals(rows: Sequence[DocumentRow]) -> dict[str, Json]:
    """Count documents, bytes, tokens and licences; bytes, tokens and licences are of kept documents."""
    kept = [row for row in rows if not row.decision.rule]
    return {
        "num_documents": {"kept": len(kept), "dropped": len(rows) - len(kept)},
        "dropped_by_rule": dict(sorted(Counter(row.decision.rule for row in rows if row.decision.rule).items())),
        "size_bytes": sum(len(row.document.text.encode("utf-8")) for row in kept),
        "num_tokens": sum(row.num_tokens for row in kept),
        "kinds": _counts(row.document.kind for row in kept),
        "licences": _counts(row.document.licence.spdx for row in kept),
        "licences_chosen": _counts(row.licence_chosen for row in kept),
        "licences_dropped": _counts(row.document.licence.spdx for row in rows if row.decision.rule == LICENCE),
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _steps(config: CorpusConfig, extractions: Sequence[Extraction], rows: Sequence[DocumentRow]) -> list[Json]:
    """List the steps in order; the rows that leave one enter the next."""
    num_files = sum(extraction.num_files for extraction in extractions)
    skipped: Counter[str] = Counter()
    for extraction in extractions:
        skipped.update(extraction.skipped)
    steps: list[Json] = [
        {
            "name": "extract",
            "code": "data_recipes/extract.py",
            "parameters": {},
            "rows_in": num_files,
            "rows_out": len(rows),
            "dropped": dict(sorted(skipped.items())),
        }
    ]
    by_rule = Counter(row.decision.rule for row in rows)
    remaining = len(rows)
    dropping: tuple[tuple[str, str, Json, tuple[str, ...]], ...] = (
        ("takedown", "data_recipes/decisions.py", recipe_of(config)["forget"], (FORGOTTEN,)),
        ("decode", "data_recipes/text.py", recipe_of(config.limits), READING_RULES),
        ("licence policy", "data_recipes/policy.py", recipe_of(config.policy), (LICENCE,)),
        ("quality rules", "data_recipes/filters.py", recipe_of(config.quality), QUALITY_RULES),
        ("exact de-duplication", "data_recipes/deduplicate.py", {"by": "text_sha256"}, (DUPLICATE,)),
        ("tokenizer training", "data_recipes/bpe.py", recipe_of(config.tokenizer), ()),
        ("tokenizing", "data_recipes/shards.py", {"num_shards": config.num_shards}, ()),
    )
    for name, code, parameters, rules in dropping:
        dropped = {rule: by_rule[rule] for rule in rules if by_rule[rule]}
        num_out = remaining - sum(dropped.values())
        steps.append(
            {
                "name": name,
                "code": code,
                "parameters": parameters,
                "rows_in": remaining,
                "rows_out": num_out,
                "dropped": dropped,
            }
        )
        remaining = num_out
    return steps

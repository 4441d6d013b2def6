"""What a corpus amounts to: totals per source and split, and every processing step with its counts (`corpus.json`)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from data_recipes.conversations import Conversations, EncodedRows
from data_recipes.decisions import DUPLICATE, FORGOTTEN, LICENCE, LICENCE_EVIDENCE
from data_recipes.filters import QUALITY_RULES
from data_recipes.reading import PartReport
from data_recipes.rule_settings import (
    CONTAMINATED,
    NEAR_DUPLICATE,
    REPEATED_TEXT,
    DecontaminationRules,
    LineRules,
    NearDuplicateRules,
    RepeatedTextRules,
)
from data_recipes.settings import CorpusConfig
from data_recipes.text import READING_RULES
from data_recipes.totals import Totals, sum_of
from data_recipes.warc_settings import SIGNAL_RULES, WarcSource
from provenance.canonical import Json
from provenance.config import recipe_of

CORPUS_FORMAT = "openwright-corpus/1"


@dataclass(frozen=True)
class SourceSummary:
    """A source with what was read of it and what its documents amount to."""

    name: str
    split: str
    num_files: int
    skipped: dict[str, int]
    totals: Totals


def source_summaries(
    config: CorpusConfig, reports: Mapping[str, Sequence[PartReport]], totals: Mapping[str, Sequence[Json]]
) -> list[SourceSummary]:
    """Sum up the sources, sorted by name.

    Args:
        reports: of all parts, by source.
        totals: of all shards, by source, as `Totals.as_json` returned them.
    """
    summaries = []
    for source in sorted(config.sources, key=lambda source: source.name):
        skipped: Counter[str] = Counter()
        for report in reports[source.name]:
            skipped.update(report.skipped)
        num_files = sum(report.num_files for report in reports[source.name])
        counted = sum_of(totals.get(source.name, ()))
        summaries.append(SourceSummary(source.name, source.split, num_files, dict(sorted(skipped.items())), counted))
    return summaries


def corpus_summary(
    config: CorpusConfig,
    sources: Sequence[SourceSummary],
    conversations: Conversations,
    encoded: Mapping[str, EncodedRows],
    compared: Mapping[str, Json],
) -> Json:
    """Return the content of `corpus.json`.

    Args:
        encoded: rows of the splits `sft` and `sft-heldout`.
        compared: `decontamination`, the record of the evaluation sets, `near_duplicates`, how many comparisons were
            made, `repeated_text`, how much was taken out, and `tokenizer`, what one made elsewhere keeps of the texts;
            those that the recipe asks for.
    """
    everything = sum_of(source.totals.as_json() for source in sources)
    return {
        "format": CORPUS_FORMAT,
        "num_documents": everything.as_json()["num_documents"],
        "sources": [
            {
                "name": source.name,
                "split": source.split,
                **({"in_place": True} if source.name in config.in_place else {}),
                "num_files": source.num_files,
                "files_skipped": source.skipped,
                **source.totals.as_json(),
            }
            for source in sources
        ],
        "splits": {
            split: _kept(source for source in sources if source.split == split)
            for split in sorted({source.split for source in sources})
        },
        "steps": _steps(config, sources, everything),
        **compared,
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


def _kept(sources: Iterable[SourceSummary]) -> Json:
    """Totals of the documents of a split: the kept ones of its sources."""
    total = sum_of(source.totals.as_json() for source in sources)
    total.dropped.clear()
    total.licences_dropped.clear()
    return total.as_json()


_Step = tuple[str, str, Json, tuple[str, ...]]


def _signals(config: CorpusConfig) -> Iterator[_Step]:
    rules = {source.name: recipe_of(source.signals) for source in config.sources if isinstance(source, WarcSource)}
    if rules:
        yield "signals of web sites", "data_recipes/web_signals.py", rules, SIGNAL_RULES


def _lines(rules: LineRules | None) -> Iterator[_Step]:
    if rules is not None:
        yield "line rules", "data_recipes/line_rules.py", recipe_of(rules), ()


def _decontamination(rules: DecontaminationRules | None) -> Iterator[_Step]:
    if rules is not None:
        yield "decontamination", "data_recipes/decontamination.py", recipe_of(rules), (CONTAMINATED,)


def _near_duplicates(rules: NearDuplicateRules | None) -> Iterator[_Step]:
    if rules is not None:
        yield "near-duplicates", "data_recipes/near_duplicates.py", recipe_of(rules), (NEAR_DUPLICATE,)


def _repeated_text(rules: RepeatedTextRules | None) -> Iterator[_Step]:
    if rules is not None:
        yield "repeated passages", "data_recipes/repeated_text.py", recipe_of(rules), (REPEATED_TEXT,)


def _steps(config: CorpusConfig, sources: Sequence[SourceSummary], everything: Totals) -> list[Json]:
    """List the steps in order; the rows that leave one enter the next."""
    skipped: Counter[str] = Counter()
    for source in sources:
        skipped.update(source.skipped)
    remaining = everything.num_kept + everything.dropped.total()
    steps: list[Json] = [
        {
            "name": "extract",
            "code": "data_recipes/read_step.py",
            "parameters": {},
            "rows_in": sum(source.num_files for source in sources),
            "rows_out": remaining,
            "dropped": dict(sorted(skipped.items())),
        }
    ]
    dropping: tuple[_Step, ...] = (
        ("takedown", "data_recipes/decisions.py", recipe_of(config)["forget"], (FORGOTTEN,)),
        ("decode", "data_recipes/text.py", recipe_of(config.limits), READING_RULES),
        *_signals(config),
        ("licence policy", "data_recipes/policy.py", recipe_of(config.policy), (LICENCE, LICENCE_EVIDENCE)),
        *_lines(config.lines),
        ("quality rules", "data_recipes/filters.py", recipe_of(config.quality), QUALITY_RULES),
        ("personal data", "data_recipes/personal_data.py", recipe_of(config.personal_data), ()),
        ("exact de-duplication", "data_recipes/deduplicate.py", {"by": "text_sha256"}, (DUPLICATE,)),
        *_decontamination(config.decontamination),
        *_near_duplicates(config.near_duplicates),
        *_repeated_text(config.repeated_text),
        ("tokenizer training", "data_recipes/bpe.py", recipe_of(config.tokenizer), ()),
        ("tokenizing", "data_recipes/shards.py", {"num_shards": config.num_shards}, ()),
    )
    for name, code, parameters, rules in dropping:
        dropped = {rule: everything.dropped[rule] for rule in rules if everything.dropped[rule]}
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

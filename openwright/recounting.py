"""`openwright data recount`: a corpus counted again under other thresholds, as a table or as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_recipes.recount import RECOUNT_FORMAT, Recount, recount
from data_recipes.recount_chats import ChatCount
from openwright.data_commands import dataset_of
from openwright.outcome import command
from openwright.report import print_json, printable, table_lines


def show_recount(place: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Count a corpus again and print what changes, by rule and by source."""
    counted = recount(dataset_of(place), overrides)
    if as_json:
        print_json(as_document(counted))
        return
    for line in _lines(counted):
        print(printable(line))
    again = command("data", "recount", "--in", place, "--set", "quality.RULE=VALUE")
    print(printable(f"next: {'write these thresholds into corpus.yaml' if counted.changed else again}"))


def as_document(counted: Recount) -> dict[str, Any]:
    """The form that `--json` prints."""
    return {
        "format": RECOUNT_FORMAT,
        "changed": {rule: {"before": before, "after": after} for rule, (before, after) in counted.changed.items()},
        "by_rule": [
            {"rule": rule, "before": before, "after": after} for rule, (before, after) in counted.by_rule.items()
        ],
        "by_source": [asdict(source) for source in counted.by_source],
        "num_let_in": counted.num_let_in,
        "num_not_compared": counted.num_not_compared,
        "chats": [asdict(count) for count in counted.chats],
    }


def _lines(counted: Recount) -> list[str]:
    lines = [f"{rule}: {_text(before)} -> {_text(after)}" for rule, (before, after) in counted.changed.items()]
    lines = lines or ["no threshold changes: the corpus as it was built"]
    rules = [
        (rule, f"{before:,}", f"{after:,}", f"{after - before:+,}") for rule, (before, after) in counted.by_rule.items()
    ]
    lines += ["", *table_lines(("rule", "documents before", "after", "change"), rules)]
    sources = []
    for source in counted.by_source:
        counts = (source.kept_before, source.kept_after, source.bytes_before, source.bytes_after, source.tokens_after)
        sources.append((source.name, *(f"{count:,}" for count in counts), _most(source.dropped_after)))
    header = ("source", "kept before", "after", "bytes before", "after", "tokens known", "dropped most by")
    lines += ["", *table_lines(header, sources)]
    if counted.num_let_in:
        lines += ["", f"{counted.num_let_in:,} documents are let in: they have no tokens yet"]
    if counted.num_not_compared:
        lines.append(f"{counted.num_not_compared:,} of them were not compared with others; building tells")
    return [*lines, *_chat_lines(counted.chats)]


def _chat_lines(chats: Sequence[ChatCount]) -> list[str]:
    if not chats:
        return []
    rows = [(one.split, f"{one.kept_before:,}", f"{one.kept_after:,}", _most(one.dropped_after)) for one in chats]
    lines = ["", *table_lines(("from files", "examples before", "after", "dropped most by"), rows)]
    if num_not_compared := sum(one.num_not_compared for one in chats):
        lines.append(f"{num_not_compared:,} of them were not compared with evaluation sets; building tells")
    return lines


def _text(threshold: Any) -> str:
    if isinstance(threshold, list):
        return ", ".join(map(str, threshold))
    if isinstance(threshold, str):
        return threshold
    return "off" if threshold is None else f"{threshold:g}"


def _most(dropped: Any) -> str:
    if not dropped:
        return ""
    rule, number = max(dropped.items(), key=lambda item: item[1])
    return f"{rule} ({number:,})"

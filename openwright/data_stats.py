"""`openwright data stats`: what a corpus is made of, as tables with bars and as a chart."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from data_recipes.breakdown import Breakdown, Count, read_breakdown
from openwright.data_commands import dataset_of
from openwright.outcome import command
from openwright.report import print_json, printable, table_lines, write_named
from provenance.canonical import read_json
from release.chat_counts import chat_findings

STATS_FORMAT = "openwright-stats/1"
_MAX_ROWS = 20
_BAR_CELLS = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_STYLE = "text{font:12px sans-serif;fill:#222}.head{font-weight:bold}.bar{fill:#3566a8}svg{background:#fff}"
_ROW_HEIGHT, _LABEL_WIDTH, _BAR_WIDTH, _NUMBER_WIDTH = 20, 220, 360, 200

_Bars = Sequence[tuple[str, int]]


def show_stats(place: Path, plot: Path | None, as_json: bool) -> None:
    """Print what a corpus is made of; draw it where a file is named."""
    dataset = dataset_of(place)
    breakdown = read_breakdown(dataset / "documents")
    if plot is not None:
        write_named(plot, stats_chart(breakdown))
    if as_json:
        print_json(stats_json(breakdown))
        return
    for line in [*stats_lines(breakdown), *chat_lines(read_json(dataset / "corpus.json"))]:
        print(printable(line))
    following = ["licences", "--in", place] if plot else ["stats", "--in", place, "--plot", "FILE.svg"]
    print(printable(f"next: {command('data', *following)}"))


def stats_json(breakdown: Breakdown) -> dict[str, object]:
    """The numbers as one document."""

    def records(values: Mapping[str, Count]) -> list[dict[str, object]]:
        return [{"name": name, **count._asdict()} for name, count in values.items()]

    return {
        "format": STATS_FORMAT,
        "kept": breakdown.total._asdict(),
        "by": {name: records(values) for name, values in breakdown.kept.items()},
        "dropped": records(breakdown.dropped),
        "documents_by_tokens": [
            {"from": 2**power, "below": 2 ** (power + 1), "num_documents": count}
            for power, count in breakdown.lengths.items()
        ],
    }


def stats_lines(breakdown: Breakdown) -> list[str]:
    """Tables for people: a bar is the share of tokens, of dropped documents the share of those."""
    lines = [_counted(breakdown.total)]
    for name, values in breakdown.kept.items():
        total = breakdown.total.num_tokens
        rows = [(value, _numbers(count), count.num_tokens / total if total else 0.0) for value, count in values.items()]
        lines += ["", *_table((name, "documents", "tokens", "bytes", "share of tokens"), rows)]
    total = sum(count.num_documents for count in breakdown.dropped.values())
    dropped = [
        (rule, (f"{count.num_documents:,}", f"{count.size_bytes:,}"), count.num_documents / total)
        for rule, count in breakdown.dropped.items()
    ]
    if dropped:
        lines += ["", *_table(("dropped by", "documents", "bytes", "share of the dropped"), dropped)]
    lengths = [
        (_span(power), (f"{count:,}",), count / max(1, breakdown.total.num_documents))
        for power, count in breakdown.lengths.items()
    ]
    return [*lines, "", *_table(("tokens each", "documents", "share of documents"), lengths, len(lengths))]


def chat_lines(corpus: Mapping[str, Any]) -> list[str]:
    """A table of conversations and pairs from files, by split, why some were dropped, and what rules found in them.

    Nothing where there are none.

    Args:
        corpus: value of `corpus.json`.
    """
    splits: Mapping[str, Mapping[str, Any]] = corpus.get("chats", {}).get("splits", {})
    rows = [_chat_row(name, found) for name, found in splits.items()]
    if not rows:
        return []
    header = ("from files", "examples", "rows", "dropped", "truncated", "tokens trained on", "padding")
    reasons = [
        f"dropped from {name}: {', '.join(f'{reason} ({count:,})' for reason, count in found['dropped'].items())}"
        for name, found in splits.items()
        if found["dropped"]
    ]
    return ["", *table_lines(header, rows), *reasons, *chat_findings(corpus)]


def _chat_row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    counts = (found["num_examples"], found["num_rows"], sum(found["dropped"].values()), found["num_truncated"])
    shares = (found["trained_share_ppm"], found["padding_share_ppm"])
    return (name, *(f"{count:,}" for count in counts), *(f"{ppm / 10_000:.1f} %" for ppm in shares))


def _counted(count: Count) -> str:
    return f"{count.num_documents:,} documents kept, {count.num_tokens:,} tokens, {count.size_bytes:,} bytes"


def _numbers(count: Count) -> tuple[str, ...]:
    return tuple(f"{number:,}" for number in count)


def _span(power: int) -> str:
    return f"{2**power:,} to {2 ** (power + 1) - 1:,}"


def _table(
    header: Sequence[str], rows: Sequence[tuple[str, tuple[str, ...], float]], max_rows: int = _MAX_ROWS
) -> list[str]:
    shown = [(name, *numbers, f"{_bar(share)} {100 * share:.1f} %") for name, numbers, share in rows[:max_rows]]
    more = [f"and {len(rows) - max_rows:,} more"] if len(rows) > max_rows else []
    return [*table_lines(header, shown), *more]


def _bar(share: float) -> str:
    eighths = round(8 * _BAR_CELLS * share)
    return (_EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()).ljust(_BAR_CELLS)


def stats_chart(breakdown: Breakdown) -> str:
    """The same as bars in one SVG: no script, and the same bytes for the same numbers."""
    panels: list[tuple[str, _Bars]] = [
        (f"tokens by {name}", [(value, count.num_tokens) for value, count in values.items()][:_MAX_ROWS])
        for name, values in breakdown.kept.items()
    ]
    panels.append(("documents dropped by rule", [(n, c.num_documents) for n, c in breakdown.dropped.items()]))
    panels.append(("documents by tokens", [(_span(power), count) for power, count in breakdown.lengths.items()]))
    parts, top = [], _ROW_HEIGHT
    for title, bars in panels:
        if bars:
            parts += _panel(title, bars, top)
            top += (len(bars) + 2) * _ROW_HEIGHT
    width = _LABEL_WIDTH + _BAR_WIDTH + _NUMBER_WIDTH
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" height="{top}">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


def _panel(title: str, bars: _Bars, top: int) -> list[str]:
    parts = [f'<text class="head" x="8" y="{top}">{escape(title)}</text>']
    largest = max(number for _, number in bars) or 1
    for row, (name, number) in enumerate(bars, start=1):
        y, width = top + row * _ROW_HEIGHT, max(1, round(_BAR_WIDTH * number / largest))
        label = printable(name if len(name) <= 32 else f"{name[:31]}…")
        parts.append(f'<text x="{_LABEL_WIDTH - 8}" y="{y}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect class="bar" x="{_LABEL_WIDTH}" y="{y - 12}" width="{width}" height="14"/>')
        parts.append(f'<text x="{_LABEL_WIDTH + width + 8}" y="{y}">{number:,}</text>')
    return parts

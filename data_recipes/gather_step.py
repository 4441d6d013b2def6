"""Step `gather`: the documents of one output shard from all part files, sorted by document id; texts of those kept."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_recipes.build import Build
from data_recipes.decide_step import CHANGED, CHANGES_PATH
from data_recipes.document import DocumentedFunction
from data_recipes.documents import DOCUMENTS_SCHEMA, NO_SPLIT, ROW_GROUP_ROWS, TEXT_SPLITS, text_schema
from data_recipes.function_text import summaries_in
from data_recipes.part_files import PART_SCHEMA, TableWriter, id_range, read_columns, read_range
from data_recipes.read_step import part_path
from data_recipes.repeated_text import cut_text
from data_recipes.tasks import SCRATCH, Outputs
from provenance.canonical import Json
from provenance.digests import sha256_bytes

_ROWS_SCHEMA = pa.schema([*DOCUMENTS_SCHEMA, PART_SCHEMA.field("functions")])


def num_buckets_of_shard(size_bytes: int, num_shards: int, bucket_bytes: int) -> int:
    """Into how many buckets each shard is cut, given the bytes of all texts; it is gathered bucket by bucket."""
    return max(1, -(-size_bytes // (num_shards * bucket_bytes)))


def rows_path(shard: int) -> str:
    """Path of the rows of a shard, below the build; tokens are not counted in them."""
    return f"{SCRATCH}/rows/{shard:05d}.parquet"


def text_path(split: str, shard: int) -> str:
    """Path of the texts of a split and shard in a corpus."""
    return f"text/{split}-{shard:05d}.parquet"


def texts_to_tokenize(build: Build, split: str, shard: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield rows of the texts of a split and shard, without documents in place, whose tokens are there already."""
    for table in read_columns(build.root / text_path(split, shard), ("source", *columns)):
        yield without_in_place(build, table)


def without_in_place(build: Build, table: pa.Table) -> pa.Table:
    """Return rows without those of sources in place."""
    in_place = pa.array(sorted(build.config.in_place), pa.string())
    return table.filter(pc.invert(pc.is_in(table.column("source"), in_place))) if len(in_place) else table


def gather(build: Build, value: Json, outputs: Outputs) -> Json:
    """Gather a shard; `value` is `{shard, num_parts, num_buckets}`, buckets counted per shard.

    Returns:
        `{texts: {<split>: number of documents}, size_bytes}` for each text file that was written, which shard 0 does
        for all splits; bytes of kept texts that are to be tokenized.
    """
    shard, schema = value["shard"], text_schema()
    num_texts: dict[str, int] = {}
    size_bytes = 0
    with ExitStack() as stack:
        rows_file = stack.enter_context(outputs.file(rows_path(shard)))
        rows = stack.enter_context(TableWriter(rows_file, _ROWS_SCHEMA, group_rows=ROW_GROUP_ROWS))
        texts: dict[str, TableWriter] = {}
        for table in _buckets(build, value):
            rows.write(table)
            for split in TEXT_SPLITS:
                kept = table.filter(pc.equal(table.column("split"), split))
                if split not in texts and (kept.num_rows or shard == 0):
                    path = stack.enter_context(outputs.file(text_path(split, shard)))
                    texts[split] = stack.enter_context(
                        TableWriter(path, schema, group_rows=ROW_GROUP_ROWS, sized_by="text")
                    )
                if kept.num_rows:
                    licences = kept.column("licence_chosen")
                    texts[split].write(kept.append_column("licence", licences))
                    size_bytes += pc.sum(without_in_place(build, kept).column("size_bytes")).as_py() or 0
        num_texts = {split: writer.num_rows for split, writer in texts.items()}
    return {"texts": num_texts, "size_bytes": size_bytes}


def _buckets(build: Build, value: Json) -> Iterator[pa.Table]:
    """Yield the rows of each bucket with their texts, decided, sorted by document id."""
    per_shard = value["num_buckets"]
    num_buckets = per_shard * build.config.num_shards
    for bucket in range(value["shard"] * per_shard, (value["shard"] + 1) * per_shard):
        first, end = id_range(bucket, num_buckets)
        tables = [PART_SCHEMA.empty_table()]
        for number in range(value["num_parts"]):
            tables += read_range(build.root / part_path(number), first, end)
        table = pa.concat_tables(tables)
        table = table.take(pc.sort_indices(table.column("document_id")))
        changes: dict[str, dict[str, Any]] = {}
        for found in read_range(build.root / CHANGES_PATH, first, end):
            changes.update((row["document_id"], row) for row in found.to_pylist())
        yield _changed(table, changes) if changes else table


def _changed(table: pa.Table, changes: dict[str, dict[str, Any]]) -> pa.Table:
    """Return the rows with what comparisons changed; functions of documents that are dropped by it go too."""
    ids = table.column("document_id").to_pylist()
    for name in CHANGED:
        values = [
            changes[document_id][name] if document_id in changes else value
            for document_id, value in zip(ids, table.column(name).to_pylist(), strict=True)
        ]
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    if any(change["passages_removed"] for change in changes.values()):
        table = _cut(table)
    is_kept = pc.not_equal(table.column("split"), NO_SPLIT)
    place = table.schema.get_field_index("functions")
    kept_functions = pc.if_else(is_kept, table.column("functions"), pa.scalar(None, table.schema.field(place).type))
    return table.set_column(place, table.schema.field(place), kept_functions)


def _cut(table: pa.Table) -> pa.Table:
    """Return the rows, kept documents without the passages that are taken out, nor functions that quote some."""
    names = ("text", "text_sha256", "size_bytes", "passages_removed_from", "functions")
    columns = {name: table.column(name).to_pylist() for name in names}
    passages, splits = (table.column(name).to_pylist() for name in ("passages_removed", "split"))
    for row, (taken_out, split) in enumerate(zip(passages, splits, strict=True)):
        if taken_out and split != NO_SPLIT:
            text = cut_text(columns["text"][row], [(passage["start"], passage["end"]) for passage in taken_out])
            data = text.encode("utf-8")
            columns["passages_removed_from"][row] = columns["text_sha256"][row]
            columns["text"][row], columns["text_sha256"][row] = text, sha256_bytes(data)
            columns["size_bytes"][row] = len(data)
            functions = [DocumentedFunction(**function) for function in columns["functions"][row] or ()]
            columns["functions"][row] = [vars(function) for function in summaries_in(text, functions)]
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    return table

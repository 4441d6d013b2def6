"""Step `tokenize`: the tokens of one output shard, its rows of the documents table and of the index."""

from itertools import chain

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from data_recipes.bpe import TOKENIZER_DIR, token_id, unknown_token_id
from data_recipes.build import Build
from data_recipes.documents import DOCUMENTS_SCHEMA, ROW_GROUP_ROWS, TEXT_SPLITS, index_bytes
from data_recipes.gather_step import rows_path, texts_to_tokenize
from data_recipes.part_files import TableWriter, read_columns
from data_recipes.shards import StreamShards, token_dtype
from data_recipes.tasks import Outputs
from data_recipes.tokenizer_proof import EngineChoice, encode_texts, open_engine
from data_recipes.totals import Totals, add_rows
from provenance.canonical import Json


def tokenize(build: Build, value: Json, outputs: Outputs) -> Json:
    """Tokenize a shard; `value` is `{shard, texts, codes, engine}`. Documents in place have their tokens already.

    Returns:
        `{splits: {<split>: {<source>: shard entry of tokens.json}}, sources: {<source>: totals}, num_documents,
        num_unknown_tokens}`.
    """
    shard = value["shard"]
    tokenizer = Tokenizer.from_file(str(build.root / TOKENIZER_DIR / "tokenizer.json"))
    engine = open_engine(tokenizer, EngineChoice(**value["engine"]))
    dtype = token_dtype(build.config.tokenizer.vocab_size)
    eos_id = token_id(tokenizer, build.config.tokenizer.special_tokens.end_of_text)
    unknown_id = unknown_token_id(tokenizer)
    num_tokens: dict[str, int] = {}
    num_unknown_tokens = 0
    splits: dict[str, Json] = {}
    for split in TEXT_SPLITS:
        if not value["texts"].get(split):
            continue
        with StreamShards(outputs, split, shard, dtype) as shards:
            for table in texts_to_tokenize(build, split, shard, ("document_id", "text")):
                ids, sources = (table.column(name).to_pylist() for name in ("document_id", "source"))
                texts = (text.as_py() for text in table.column("text"))
                for document_id, source, tokens in zip(ids, sources, encode_texts(engine, texts), strict=True):
                    ended = np.append(tokens, eos_id)
                    shards.add(source, ended)
                    num_tokens[document_id] = len(ended)
                    num_unknown_tokens += 0 if unknown_id is None else int(np.count_nonzero(tokens == unknown_id))
            splits[split] = shards.finish()
    totals: dict[str, Totals] = {}
    num_documents = _write_rows(build, value, outputs, num_tokens, totals)
    return {
        "splits": splits,
        "sources": {source: totals[source].as_json() for source in sorted(totals)},
        "num_documents": num_documents,
        "num_unknown_tokens": num_unknown_tokens,
    }


def _write_rows(
    build: Build, value: Json, outputs: Outputs, num_tokens: dict[str, int], totals: dict[str, Totals]
) -> int:
    """Write documents table and index of a shard that has documents (shard 0 in any case); returns how many."""
    shard = value["shard"]
    tables = read_columns(build.root / rows_path(shard), DOCUMENTS_SCHEMA.names)
    first = next(tables, None)
    if first is None and shard:
        return 0
    with (
        outputs.file(f"documents/documents-{shard:05d}.parquet") as table_path,
        outputs.file(f"documents/index-{shard:05d}.bin") as index_path,
        index_path.open("wb") as index,
        TableWriter(table_path, DOCUMENTS_SCHEMA, group_rows=ROW_GROUP_ROWS) as writer,
    ):
        for table in chain(() if first is None else (first,), tables):
            known = zip(*(table.column(name).to_pylist() for name in ("document_id", "num_tokens")), strict=True)
            counts = [num_tokens.get(document_id, in_place) for document_id, in_place in known]
            place = table.schema.get_field_index("num_tokens")
            counted = table.set_column(place, table.schema.field(place), pa.array(counts, pa.int64()))
            writer.write(counted)
            index.write(index_bytes(counted, value["codes"]))
            add_rows(totals, counted)
        return writer.num_rows

"""What of a corpus goes into a bundle: per source everything, no text, or neither text nor tokens.

A Parquet file that holds rows of sources without text is replaced by one with the other rows, under a name of its
own (`train-shipped-00000.parquet`); the original stays listed in the corpus manifest inside `dataset/manifest.json`.
So are the texts of documents that tombstones name; see `release/redaction.py` for their tokens.
"""

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_recipes.tombstones import Tombstone
from provenance.canonical import read_json
from provenance.errors import ReleaseError
from release.described import HIDDEN_COLUMNS
from release.facts import token_sources
from release.layout import TEXT_FOLDERS
from release.redaction import plan_redaction, write_redacted
from release.sources import class_of, location_of, pin_of, source_locks


def copy_corpus(
    corpus: Path,
    target: Path,
    paths: list[str],
    shipping: Mapping[str, str],
    tombstones: Sequence[Tombstone] = (),
) -> None:
    """Copy the files of a corpus artifact that its sources' shipping allows.

    Args:
        paths: files of the artifact, relative to `corpus`.
        shipping: `text`, `tokens`, `index` or `reference` by source; sources that are not named ship everything.
        tombstones: documents to leave out besides.
    """
    without_text = sorted(name for name, kind in shipping.items() if kind != "text")
    without_tokens = {name for name, kind in shipping.items() if kind in ("index", "reference")}
    source_of = token_sources(read_json(corpus / "tokens" / "tokens.json"))
    hidden = sorted(name for name, entry in source_locks(corpus).items() if class_of(entry) == "unshareable")
    shipped = [path for path in sorted(paths) if source_of.get(path) not in without_tokens]
    forgotten: Collection[str] = ()
    if tombstones:
        redaction = plan_redaction(corpus, tombstones)
        write_redacted(corpus, target, redaction, shipped, tombstones)
        shipped = [path for path in shipped if path not in redaction.ranges]
        forgotten = redaction.documents
    for path in shipped:
        parts = path.split("/")
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if parts[0] in TEXT_FOLDERS and (without_text or forgotten):
            _copy_rows(corpus / path, target / path, without_text, forgotten)
        elif hidden and parts[0] == "documents" and path.endswith(".parquet"):
            _copy_documents(corpus / path, target / path, hidden)
        else:
            shutil.copyfile(corpus / path, target / path)


def _copy_rows(source: Path, target: Path, without_text: list[str], forgotten: Collection[str]) -> None:
    """Copy a Parquet file, or its rows that ship as text; a file left without rows is not written."""
    table = pq.read_table(source)
    is_left_out = pc.is_in(table["source"], pa.array(without_text, pa.string()))
    name = "document_id" if "document_id" in table.column_names else "chat_id"
    is_forgotten = pc.is_in(table[name], pa.array(sorted(forgotten), pa.string()))
    kept = table.filter(pc.invert(pc.or_(is_left_out, is_forgotten)))
    if kept.num_rows == table.num_rows:
        shutil.copyfile(source, target)
    elif kept.num_rows:
        split, number = target.stem.rsplit("-", 1)
        pq.write_table(kept, target.with_name(f"{split}-shipped-{number}.parquet"), compression="zstd")


def check_shipping(locks: Mapping[str, dict[str, Any]], shipping: Mapping[str, str]) -> None:
    """Refuse what cannot be shipped so: unshareable data, and references to what nobody can fetch.

    Raises:
        ReleaseError: naming the source.
    """
    where = "release.yaml: shipping"
    unknown = sorted(set(shipping) - set(locks))
    if unknown:
        known = ", ".join(sorted(locks))
        raise ReleaseError(f"shipping names the source {unknown[0]!r}", expected=f"one of: {known}", where=where)
    for name, entry in sorted(locks.items()):
        kind, of_class = shipping.get(name, "text"), class_of(entry)
        if of_class == "unshareable" and kind != "index":
            raise ReleaseError(
                f"source {name!r} is unshareable and would be shipped as {kind}",
                expected=f"{name}: index, which ships digests and counts alone",
                where=where,
            )
        if kind == "reference" and not (of_class in ("open", "public") and location_of(entry) and pin_of(entry)):
            raise ReleaseError(
                f"source {name!r} by reference, and no stranger can fetch it",
                expected="a source of the class open or public with a place and a digest; else: index",
                where=where,
            )


def _copy_documents(source: Path, target: Path, hidden: list[str]) -> None:
    """Copy the table of documents with what would tell of unshareable sources emptied; every file gets a new name."""
    table = pq.read_table(source)
    is_hidden = pc.is_in(table["source"], pa.array(hidden, pa.string()))
    for column in (name for name in HIDDEN_COLUMNS if name in table.schema.names):  # older tables have no signals
        number, kind = table.schema.get_field_index(column), table.schema.field(column).type
        empty = pa.scalar([] if pa.types.is_list(kind) else "", kind)
        table = table.set_column(number, table.schema.field(column), pc.if_else(is_hidden, empty, table[column]))
    stem, number_text = target.stem.rsplit("-", 1)
    pq.write_table(table, target.with_name(f"{stem}-shipped-{number_text}.parquet"), compression="zstd")

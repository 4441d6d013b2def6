"""What of a corpus goes into a bundle: per source everything, no text, or neither text nor tokens.

A Parquet file that holds rows of sources without text is replaced by one with the other rows, under a name of its
own (`train-shipped-00000.parquet`); the original stays listed in the corpus manifest inside `dataset/manifest.json`.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from provenance.canonical import read_json
from release.facts import token_sources

_TEXT_FOLDERS = ("text", "conversations")


def copy_corpus(corpus: Path, target: Path, paths: list[str], shipping: Mapping[str, str]) -> None:
    """Copy the files of a corpus artifact that its sources' shipping allows.

    Args:
        paths: files of the artifact, relative to `corpus`.
        shipping: `text`, `tokens`, `index` or `reference` by source; sources that are not named ship everything.
    """
    without_text = sorted(name for name, kind in shipping.items() if kind != "text")
    without_tokens = {name for name, kind in shipping.items() if kind in ("index", "reference")}
    source_of = token_sources(read_json(corpus / "tokens" / "tokens.json"))
    for path in sorted(paths):
        parts = path.split("/")
        if source_of.get(path) in without_tokens:
            continue
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if parts[0] in _TEXT_FOLDERS and without_text:
            _copy_rows(corpus / path, target / path, without_text)
        else:
            shutil.copyfile(corpus / path, target / path)


def _copy_rows(source: Path, target: Path, without_text: list[str]) -> None:
    """Copy a Parquet file, or its rows of sources that ship text; a file left without rows is not written."""
    table = pq.read_table(source)
    kept = table.filter(pc.invert(pc.is_in(table["source"], pa.array(without_text, pa.string()))))
    if kept.num_rows == table.num_rows:
        shutil.copyfile(source, target)
    elif kept.num_rows:
        split, number = target.stem.rsplit("-", 1)
        pq.write_table(kept, target.with_name(f"{split}-shipped-{number}.parquet"), compression="zstd")

"""Steps that prepare comparisons: contamination by evaluation sets, and shingles of suspected near-duplicates."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_recipes.build import Build
from data_recipes.columns import contamination_path, exact_root, load_columns, near_candidates
from data_recipes.decontamination import EvaluationIndex, Hit, build_index
from data_recipes.deduplicate import hexadecimal_of
from data_recipes.documents import HIT_TYPE
from data_recipes.evaluation_sets import EvaluationItem, read_evaluation_set
from data_recipes.near_duplicates import Hashes, find_suspects, shingles
from data_recipes.part_files import TableWriter, read_columns
from data_recipes.read_step import part_path
from data_recipes.settings import CorpusConfig
from data_recipes.tasks import SCRATCH, Outputs
from data_recipes.text_kernels import segment
from provenance.canonical import Json

HELDOUT_SET = "heldout"
SUSPECTS_PATH = f"{SCRATCH}/suspects/ids.parquet"
_GROUP_ROWS = 4096
_SUSPECTS_SCHEMA = pa.schema([("document_id", pa.string())])
_CONTAMINATION_SCHEMA = pa.schema(
    [("document_id", pa.string()), ("overlap", pa.float64()), ("hits", pa.list_(HIT_TYPE))]
)
_PLACES_SCHEMA = pa.schema([("document_id", pa.string()), ("num_shingles", pa.int64())])


def find_contamination(build: Build, value: Json, outputs: Outputs) -> Json:
    """Find what training documents of a part share with evaluation sets; `value` is `{number, heldout}`.

    `heldout` are the numbers of the parts that are held out: these may be an evaluation set too.

    Returns:
        `{lock}`, the record of the sets.

    Raises:
        SourceError, DataError: as `read_evaluation_set`.
    """
    number, heldout = value["number"], tuple(value["heldout"])
    index = evaluation_index(build, heldout)
    with (
        outputs.file(contamination_path(number)) as path,
        TableWriter(path, _CONTAMINATION_SCHEMA, group_rows=_GROUP_ROWS) as writer,
    ):
        for document_id, text in () if number in heldout else texts_of_part(build.root / part_path(number)):
            found = index.find(segment(text).terms)
            if found.hits:
                row = {"document_id": document_id, "overlap": found.overlap, "hits": list(map(_hit_row, found.hits))}
                writer.write(pa.Table.from_pylist([row], schema=_CONTAMINATION_SCHEMA))
    return {"lock": index.lock}


def _hit_row(hit: Hit) -> dict[str, Json]:
    return {
        "set": hit.set_name,
        "item": hit.item_id,
        "start": hit.start,
        "end": hit.end,
        "num_runs": hit.num_runs,
    }


def evaluation_index(build: Build, heldout: Sequence[int]) -> EvaluationIndex:
    """Return the index of a recipe's sets, made once per process.

    Args:
        heldout: numbers of the parts that are held out.

    Raises:
        SourceError, DataError: as `read_evaluation_set`.
    """
    return _index(str(build.root), build.config.model_dump_json(exclude_unset=True), tuple(heldout))


@lru_cache(maxsize=1)
def _index(root: str, config_json: str, heldout: tuple[int, ...]) -> EvaluationIndex:
    """Build the index; its inputs are the recipe and part files that are finished."""
    config = CorpusConfig.model_validate_json(config_json)
    rules = config.decontamination
    assert rules is not None
    data_dir, carried = config.execution.data_dir.expanduser(), config.execution.evaluation_sets_dir
    items = [item for source in rules.sets for item in read_evaluation_set(source, data_dir, carried)]
    if rules.heldout:
        texts = sorted(found for number in heldout for found in texts_of_part(Path(root) / part_path(number)))
        items += [EvaluationItem(HELDOUT_SET, document_id, (text,)) for document_id, text in texts]
    return build_index(items, rules)


def name_suspects(build: Build, value: Json, outputs: Outputs) -> Json:
    """Name the documents whose signature says that they may be like another; `value` is `{parts}`."""
    columns = load_columns(build, value["parts"], with_signatures=True)
    assert columns.signatures is not None
    rows = near_candidates(columns, exact_root(build.config, columns))
    suspects = np.sort(rows[find_suspects(columns.signatures[rows])])
    with (
        outputs.file(SUSPECTS_PATH) as path,
        TableWriter(path, _SUSPECTS_SCHEMA, group_rows=_GROUP_ROWS) as writer,
    ):
        for start in range(0, len(suspects), _GROUP_ROWS):
            ids = [hexadecimal_of(columns.ids[row]) for row in suspects[start : start + _GROUP_ROWS]]
            writer.write(pa.table({"document_id": ids}, schema=_SUSPECTS_SCHEMA))
    return {"num_suspects": len(suspects)}


def make_shingles(build: Build, value: Json, outputs: Outputs) -> Json:
    """Write the sets of shingles of the suspects of a part; `value` is `{number}`."""
    number, rules = value["number"], build.config.near_duplicates
    assert rules is not None
    suspects = pa.concat_tables(
        [_SUSPECTS_SCHEMA.empty_table(), *read_columns(build.root / SUSPECTS_PATH, ["document_id"])]
    )
    with (
        outputs.file(_shingles_path(number, "bin")) as data_path,
        outputs.file(_shingles_path(number, "parquet")) as places_path,
        data_path.open("wb") as data,
        TableWriter(places_path, _PLACES_SCHEMA, group_rows=_GROUP_ROWS) as places,
    ):
        for document_id, text in texts_of_part(build.root / part_path(number), suspects.column("document_id")):
            found = shingles(segment(text).terms.hashes, rules.shingle_words)
            data.write(found.astype("<u8").tobytes())
            row = {"document_id": [document_id], "num_shingles": [len(found)]}
            places.write(pa.table(row, schema=_PLACES_SCHEMA))
    return {}


class StoredShingles:
    """The sets of shingles that the step `shingles` wrote, memory-mapped, by document id."""

    def __init__(self, root: Path, num_parts: int) -> None:
        self._places: dict[str, tuple[int, int, int]] = {}
        self._parts: list[npt.NDArray[np.uint64]] = []
        for number in range(num_parts):
            path = root / _shingles_path(number, "bin")
            empty = np.empty(0, np.uint64)
            self._parts.append(np.memmap(path, "<u8", "r") if path.stat().st_size else empty)
            start = 0
            for table in read_columns(root / _shingles_path(number, "parquet"), _PLACES_SCHEMA.names):
                for row in table.to_pylist():
                    self._places[row["document_id"]] = (number, start, start + row["num_shingles"])
                    start += row["num_shingles"]

    def of(self, document_id: str) -> Hashes:
        """Return the set of a suspect."""
        part, start, end = self._places[document_id]
        return np.array(self._parts[part][start:end])


def _shingles_path(number: int, suffix: str) -> str:
    return f"{SCRATCH}/shingles/{number:05d}.{suffix}"


def texts_of_part(path: Path, only: pa.ChunkedArray | None = None) -> Iterator[tuple[str, str]]:
    """Yield id and text of the documents of a part that no rule has dropped yet."""
    names: Sequence[str] = ("document_id", "text")
    for table in read_columns(path, names):
        kept = table.filter(pc.is_valid(table.column("text")))
        if only is not None:
            kept = kept.filter(pc.is_in(kept.column("document_id"), value_set=only))
        for document_id, text in zip(*(kept.column(name) for name in names), strict=True):
            yield document_id.as_py(), text.as_py()

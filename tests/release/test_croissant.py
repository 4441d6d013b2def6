"""The Croissant record, by the reference library: run where `mlcroissant` is installed (the extra `croissant`)."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_takedown import forgotten, tombstones, without  # noqa: F401 - fixtures: a release without a document

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def load(extra):
    """Read a dataset's record as the reference library does."""
    mlcroissant = extra("mlcroissant", "croissant")
    return lambda dataset: mlcroissant.Dataset(jsonld=str(dataset / "croissant.json"))


@pytest.mark.parametrize("which", ["built", "without"])
def test_the_reference_library_finds_nothing_wrong_and_reads_every_record(load, which, request, caplog):
    found = request.getfixturevalue(which)
    dataset = getattr(found, "bundle", found) / "dataset"
    record = load(dataset)
    assert record.metadata.issues.errors == set()
    assert record.metadata.issues.warnings == set()
    assert "not standard" not in caplog.text
    assert record.metadata.record_sets
    for records in record.metadata.record_sets:
        num_rows = pq.read_metadata(dataset / f"{records.uuid}.parquet").num_rows
        assert sum(1 for _ in record.records(records.uuid)) == num_rows
    assert record.metadata.data_collection
    assert len(record.metadata.data_preprocessing_protocol) == 2
    assert record.metadata.data_limitations


def test_a_changed_file_is_refused_by_its_digest(load, without, tmp_path):  # noqa: F811 - a fixture
    dataset = Path(shutil.copytree(without / "dataset", tmp_path / "dataset"))
    path = next(dataset.glob("documents/documents-*.parquet"))
    pq.write_table(pq.read_table(path).slice(1), path)
    record = load(dataset)
    name = path.relative_to(dataset).as_posix().removesuffix(".parquet")
    with pytest.raises(Exception, match="Download"):  # which compares sha256
        next(iter(record.records(name)))

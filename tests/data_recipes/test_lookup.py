from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from lookup_fixtures import WINDOW, KnownDocument, known_documents, two_epochs, write_corpus

from data_recipes.document_index import DocumentIndex
from data_recipes.lookup import Lookup
from data_recipes.split_rows import SplitRows
from data_recipes.windows import TokenWindows
from provenance.errors import DataError

DOCUMENTS = known_documents()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_corpus(root, DOCUMENTS)
    return root


@pytest.fixture(scope="module")
def lookup(corpus: Path) -> Lookup:
    return Lookup(corpus, two_epochs(corpus), "train", WINDOW)


def read_by_hand(corpus: Path, lookup: Lookup) -> dict[int, list[list[str]]]:
    """Documents of every window of every step, from the lengths of the documents alone."""
    described = TokenWindows(corpus, "train", WINDOW)
    windows: list[list[list[str]]] = []
    for source in described.sources:
        of_source = [d for d in DOCUMENTS if d.split == "train" and d.source == source.name]
        found: list[list[str]] = []
        for shard in range(3):
            of_shard = [d for d in of_source if int(d.document_id[:8], 16) * 3 >> 32 == shard]
            owners = [d.document_id for d in of_shard for _ in range(d.num_tokens)]
            for begin in range(0, len(owners) - WINDOW, WINDOW):
                found.append(list(dict.fromkeys(owners[begin : begin + WINDOW + 1])))
        windows.append(found)
    order = lookup.order
    return {
        step: [windows[draw.source][draw.window] for draw in order.step_draws(step)]
        for step in range(1, order.num_steps + 1)
    }


def test_every_step_names_its_documents_and_every_document_its_steps(corpus: Path, lookup: Lookup) -> None:
    expected = read_by_hand(corpus, lookup)
    seen: dict[str, set[int]] = defaultdict(set)
    for step, windows in expected.items():
        read = lookup.step(step)
        assert [[row.document_id for row in window.documents] for window in read] == windows
        assert [window.draw for window in read] == lookup.order.step_draws(step)
        for document_id in (document_id for window in windows for document_id in window):
            seen[document_id].add(step)
    for document in DOCUMENTS:
        row = lookup.find(document.document_id[:16])
        assert (row.document_id, row.source, row.split) == (document.document_id, document.source, document.split)
        assert lookup.steps_that_read(row) == sorted(seen.get(document.document_id, ()))


def test_the_steps_of_a_part_of_a_document_are_those_whose_windows_hold_it(lookup: Lookup) -> None:
    longest = lookup.find(max((d for d in DOCUMENTS if d.split == "train"), key=lambda d: d.num_tokens).document_id)
    parts = [set(lookup.steps_that_read(longest, (token, token + 1))) for token in range(longest.num_tokens)]
    assert set().union(*parts) == set(lookup.steps_that_read(longest))
    assert parts[0] != parts[-1]
    assert all(len(part) <= 6 for part in parts)  # a window, or two that share the token, in each of three epochs


def test_a_document_is_found_by_the_beginning_of_its_id(lookup: Lookup) -> None:
    assert lookup.index.num_documents == len(DOCUMENTS)
    for number, document in enumerate(DOCUMENTS):
        assert lookup.index.row(number).document_id == document.document_id
        assert number in lookup.index.find(document.document_id[:3])
    shared = [d for d in DOCUMENTS if d.document_id.startswith(DOCUMENTS[0].document_id[0])]
    assert len(lookup.index.find(DOCUMENTS[0].document_id[0])) == len(shared)
    with pytest.raises(DataError, match=f"{len(shared)} documents begin"):
        lookup.find(DOCUMENTS[0].document_id[0])
    with pytest.raises(DataError, match="0 documents begin"):
        lookup.find("0" * 64)


def test_row_numbers_are_the_same_from_memory_and_from_the_cache(corpus: Path, tmp_path: Path) -> None:
    index = DocumentIndex(corpus)
    by_hand = {
        source: [n for n, d in enumerate(DOCUMENTS) if d.split == "heldout" and d.source == source]
        for source in index.sources
    }
    for cache in (None, tmp_path, tmp_path):
        rows = SplitRows(index, "heldout", cache, kept_from=1)
        assert {source: rows.of_source(source).tolist() for source in index.sources} == by_hand
        assert [rows.ordinal("beta", row) for row in by_hand["beta"]] == list(range(len(by_hand["beta"])))
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(DataError, match="row 0 of source 'empty'"):
        rows.ordinal("empty", 0)
    assert list(SplitRows(index, "train", tmp_path).of_source("alpha"))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cut_file_of_the_cache_is_refused(corpus: Path, tmp_path: Path) -> None:
    index = DocumentIndex(corpus)
    SplitRows(index, "train", tmp_path, kept_from=1)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="with counts of") as refused:
        SplitRows(index, "train", tmp_path, kept_from=1)
    assert refused.value.next_command.startswith(f"rm {path}")


def test_shards_with_more_documents_than_the_index_are_refused(tmp_path: Path) -> None:
    documents = known_documents(30)
    write_corpus(tmp_path, documents)
    order = two_epochs(tmp_path)
    last = max(n for n, d in enumerate(documents) if d.split == "train" and d.source == order.sources[0].name)
    index = DocumentIndex(tmp_path)
    file, place = index.place_of(last)
    data = np.fromfile(index.paths[file], np.uint8)
    data[80 * place + 74] = 0  # its split, in the index, is now `none`
    data.tofile(index.paths[file])
    lookup = Lookup(tmp_path, order, "train", WINDOW)
    with pytest.raises(DataError, match="as the index says"):
        list(map(lookup.step, range(1, order.num_steps + 1)))


def test_an_index_that_is_no_index_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, [KnownDocument("ab" * 32, "alpha", "train", 20)], num_index_files=1)
    path = tmp_path / "documents" / "index-00000.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match="79 bytes"):
        DocumentIndex(tmp_path)
    path.write_bytes(data[:68] + b"\xff\xff" + data[70:])
    with pytest.raises(DataError, match="code 65535"):
        DocumentIndex(tmp_path).row(0)
    with pytest.raises(DataError, match="rows 1 to 1"):
        DocumentIndex(tmp_path).row(1)
    (tmp_path / "documents" / "codes.json").write_text('{"format": "openwright-codes/9"}')
    with pytest.raises(DataError, match="openwright-codes/9"):
        DocumentIndex(tmp_path)

"""Orders that a file gives (`order/3`): what they read, both ways of looking up, and every file that is refused."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lookup_fixtures import WINDOW, known_documents, two_epochs, write_corpus

from data_recipes.lookup import Lookup
from data_recipes.order import Order, OrderSource
from data_recipes.order_file import ORDER_FILE, FileOrder, keep_order, open_order, read_order
from data_recipes.order_numpy import order_digests, window_ids_numpy
from data_recipes.pools import WindowPools
from provenance.digests import sha256_file
from provenance.errors import DataError

SOURCES = (OrderSource("a", 5), OrderSource("empty", 0), OrderSource("b", 4), OrderSource("none", 0))
SHAPE = ((2, 3), (1, 4))
NUMBERS = [8, 0, 5, 0, 4, 7, 8, 8, 2, 1, 6, 3]
"""Windows 0 to 4 are those of `a`, 5 to 8 those of `b`; the last two are of no step."""


def write(folder: Path, numbers: Any = NUMBERS, dtype: str = "<u4") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.array(numbers).astype(dtype).tofile(folder / ORDER_FILE)
    return folder / ORDER_FILE


def opened(path: Path, **changes: Any) -> FileOrder:
    found = sha256_file(path) if path.is_file() else "0" * 64
    values = {"dtype": "u32", "sha256": found, "tokens_digest": "1" * 64, "seed": 3}
    return open_order(path, **{**values, "sources": SOURCES, "shape": SHAPE, **changes})


def test_every_step_reads_the_windows_that_the_file_names_in_their_order(tmp_path: Path) -> None:
    order = opened(write(tmp_path))
    assert [order.window_ids(step) for step in (1, 2, 3)] == [NUMBERS[:3], NUMBERS[3:6], NUMBERS[6:10]]
    assert [order.sources[draw.source].name for draw in order.step_draws(3)] == ["b", "b", "a", "a"]
    assert [(draw.source, draw.window) for draw in order.step_draws(1)] == [(2, 3), (0, 0), (2, 0)]
    assert order.draw_at(5) == order.step_draws(2)[2]
    assert [phase.counts for phase in order.phases] == [(3, 0, 3, 0), (2, 0, 2, 0)]
    assert [order.draws_until(step) for step in (1, 2, 3)] == [[1, 0, 2, 0], [3, 0, 3, 0], [5, 0, 5, 0]]
    digests = [hashlib.sha256(np.array(ids, "<u8")).hexdigest() for ids in (NUMBERS[:3], NUMBERS[3:6], NUMBERS[6:10])]
    assert [order.order_digest(step) for step in (1, 2, 3)] == order_digests(order, 1, 3) == digests
    assert [ids.tolist() for ids in window_ids_numpy(order, 2, 3)] == [NUMBERS[3:6], NUMBERS[6:10]]


def test_every_window_is_looked_up_to_the_steps_that_read_it_each_once(tmp_path: Path) -> None:
    order = opened(write(tmp_path, dtype="<u8"), dtype="u64")
    for number, source, window in ((0, 0, 0), (8, 2, 3), (3, 0, 3), (6, 2, 1), (7, 2, 2)):
        steps = [step for step in (1, 2, 3) if number in order.window_ids(step)]
        assert order.steps_that_read(source, window) == steps
    with pytest.raises(DataError, match="source 1, window 0"):
        order.steps_that_read(1, 0)


def test_a_ledger_states_the_file_and_the_order_is_read_beside_it(tmp_path: Path) -> None:
    order = opened(write(tmp_path))
    stated = {**order.as_json(), "split": "train", "window_tokens": 7}
    assert (stated["version"], stated["file"]) == ("order/3", {"dtype": "u32", "sha256": order.sha256})
    assert read_order(stated, tmp_path) == order
    with pytest.raises(DataError, match="order of version 'order/3'"):
        Order.from_json(stated)
    for changes in ({"file": {"dtype": "u32"}}, {"sources": [{"name": "a"}]}, {"seed": "3"}, {"file": None}):
        with pytest.raises(DataError, match=r"malformed|other types"):
            read_order({**stated, **changes}, tmp_path)
    with pytest.raises(DataError, match="no file"):
        read_order(stated, tmp_path / "elsewhere")


def test_steps_and_documents_of_a_corpus_are_looked_up_as_by_a_formula(tmp_path: Path) -> None:
    """A file that holds what `order/1` gives stands for it in every look-up."""
    write_corpus(tmp_path, known_documents())
    formula = two_epochs(tmp_path)
    ids = [i for step in range(1, formula.num_steps + 1) for i in formula.window_ids(step)]
    path = write(tmp_path / "run", ids)
    shape = [(phase.num_steps, phase.sequences_per_step) for phase in formula.phases]
    order = opened(path, tokens_digest=formula.tokens_digest, sources=formula.sources, shape=shape)
    assert [phase.counts for phase in order.phases] == [phase.counts for phase in formula.phases]
    WindowPools(tmp_path, "train", [WINDOW]).check_order(order)
    lookups = [Lookup(tmp_path, found, "train", WINDOW) for found in (order, formula)]
    for step in (1, 7, formula.num_steps):
        one, other = ([(r.source, r.draw.window, r.documents) for r in lookup.step(step)] for lookup in lookups)
        assert one == other
    for number in range(lookups[0].index.num_documents):
        row = lookups[0].index.row(number)
        assert lookups[0].steps_that_read(row) == lookups[1].steps_that_read(row)


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "good")
    np.save(tmp_path / "header.npy", np.array(NUMBERS, "<u4"), allow_pickle=False)
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (good, {"sha256": "0" * 64}, sha256_file(good)),
        (tmp_path / "gone", {}, "no file"),
        (good, {"dtype": "i32"}, "numbers of type 'i32'"),
        (good, {"dtype": "u64", "shape": ((1, 3),)}, "window 30,064,771,076 at place 2"),
        (good, {"shape": ((2, 3), (2, 4))}, "12 windows"),
        (good, {"sources": SOURCES[:2]}, "window 8 at place 0"),
        (write(tmp_path / "beyond", [*NUMBERS, 9]), {}, "window 9 at place 12"),
        (write(tmp_path / "negative", [*NUMBERS, -1], "<i4"), {}, "window 4,294,967,295 at place 12"),
        (write(tmp_path / "wide", NUMBERS, "<u8"), {}, "every second number is 0"),
        (write(tmp_path / "empty", []), {}, "0 bytes"),
        (write(tmp_path / "odd", NUMBERS, "<u2"), {"dtype": "u64", "shape": ((1, 1),)}, "place 0"),
        (write(tmp_path / "torn", [1, 2, 3], "u1"), {}, "3 bytes"),
        (tmp_path / "header.npy", {}, "a header of numpy's"),
    ]
    for path, changes, told in cases:
        with pytest.raises(DataError, match=told) as refused:
            opened(path, **changes)
        assert refused.value.where == str(path)
        assert refused.value.next_command


def test_the_file_is_copied_into_the_run_once_it_is_seen_to_be_the_pinned_one(tmp_path: Path) -> None:
    source = write(tmp_path / "data")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with pytest.raises(DataError, match=sha256_file(source)):
        keep_order(source, "0" * 64, run_dir)
    assert list(run_dir.iterdir()) == []
    kept = keep_order(source, sha256_file(source), run_dir)
    assert kept == run_dir / ORDER_FILE
    assert kept.read_bytes() == source.read_bytes()
    source.unlink()
    assert keep_order(source, sha256_file(kept), run_dir) == kept  # a run goes on without the file it was copied from

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.canonical import canonical_json
from provenance.digests import sha256_bytes
from provenance.errors import ArtifactError, OpenwrightError
from provenance.ledger import CHAIN_START, ChainPlace, ChainWriter, chain_head, read_back, read_chain

RECORDS = [{"kind": "step", "step": step, "loss": float(step).hex(), "note": "шаг"} for step in range(1, 6)]


def write(path, records=RECORDS, place=None):
    writer = ChainWriter(path, place)
    for record in records:
        writer.append(record)
    writer.close()
    return writer


def without_links(path):
    return [{key: value for key, value in record.items() if key != "previous"} for record in read_chain(path)]


def test_records_round_trip_and_the_head_is_known(tmp_path):
    writer = write(tmp_path / "ledger.jsonl")
    assert without_links(tmp_path / "ledger.jsonl") == RECORDS
    assert chain_head(tmp_path / "ledger.jsonl") == (writer.head, len(RECORDS))


def test_an_empty_chain_has_the_start_as_head(tmp_path):
    assert write(tmp_path / "a.jsonl", []).head == CHAIN_START
    assert list(read_chain(tmp_path / "a.jsonl")) == []


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 6))
def test_appending_in_two_sittings_gives_the_same_bytes(tmp_path_factory, steps, cut):
    directory = tmp_path_factory.mktemp("chain")
    records = [{"step": step} for step in steps]
    write(directory / "one.jsonl", records)
    write(directory / "two.jsonl", records[:cut])
    write(directory / "two.jsonl", records[cut:])
    assert (directory / "one.jsonl").read_bytes() == (directory / "two.jsonl").read_bytes()


@pytest.mark.parametrize("torn", [b'{"kind":"st', b"{", b"\xd0"])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    path = tmp_path / "ledger.jsonl"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert without_links(path) == RECORDS
    ChainWriter(path).close()
    assert path.read_bytes() == whole


def place_after(path, records):
    """Write records into a file and say where they end."""
    writer = write(path, records)
    return ChainPlace(writer.num_records, writer.size_bytes, writer.head)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_resumed_run_keeps_the_records_of_its_checkpoint(tmp_path, count):
    path, straight = tmp_path / "ledger.jsonl", tmp_path / "straight.jsonl"
    place = place_after(path, RECORDS[:count])
    write(path, [{"kind": "step", "step": 99}] * 2)
    writer = write(path, RECORDS[count:], place)
    write(straight)
    assert path.read_bytes() == straight.read_bytes()
    assert (writer.num_records, writer.size_bytes) == (len(RECORDS), len(straight.read_bytes()))


def test_a_replay_is_chained_to_the_record_before_it(tmp_path):
    whole, part = tmp_path / "ledger.jsonl", tmp_path / "replay.jsonl"
    place = place_after(whole, RECORDS[:2])
    write(whole, RECORDS[2:])
    write(part, RECORDS[2:], ChainPlace(head=place.head))
    assert part.read_bytes() == whole.read_bytes()[place.size_bytes :]


@pytest.mark.parametrize("shift", [-200, -1, 1, 10_000])
def test_a_place_where_no_record_ends_is_refused(tmp_path, shift):
    path = tmp_path / "ledger.jsonl"
    place = place_after(path, RECORDS[:3])
    write(path, RECORDS[3:])
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match="no record"):
        ChainWriter(path, ChainPlace(3, place.size_bytes + shift, place.head))
    assert path.read_bytes() == before


@pytest.mark.parametrize("records", [[], RECORDS[:2], [*RECORDS[:2], {**RECORDS[2], "loss": (9.0).hex()}]])
def test_a_place_in_another_chain_is_refused(tmp_path, records):
    place = place_after(tmp_path / "ours.jsonl", RECORDS[:3])
    write(tmp_path / "other.jsonl", records)
    with pytest.raises(ArtifactError, match="no record"):
        ChainWriter(tmp_path / "other.jsonl", place)


@given(st.lists(st.integers(0, 200_000), max_size=5), st.booleans())
def test_records_are_read_back_from_the_last_one(tmp_path_factory, lengths, torn):
    path = tmp_path_factory.mktemp("chain") / "journal.jsonl"
    records = [{"text": "x" * length} for length in lengths]
    write(path, records)
    if torn:
        path.write_bytes(path.read_bytes() + b'{"torn":')
    assert [record["text"] for record in read_back(path)] == [record["text"] for record in reversed(records)]


def edited(lines, number, change):
    record = json.loads(lines[number])
    change(record)
    return [*lines[:number], canonical_json(record), *lines[number + 1 :]]


def test_an_edited_record_breaks_the_link_after_it(tmp_path):
    path = tmp_path / "ledger.jsonl"
    write(path)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(edited(lines, 1, lambda record: record.update(loss="0x0p+0"))) + b"\n")
    with pytest.raises(ArtifactError, match=r"ledger\.jsonl:3"):
        list(read_chain(path))


@pytest.mark.parametrize("order", [[0, 2, 1, 3, 4], [1, 2, 3, 4], [0, 1, 3, 4], [0, 0, 1, 2, 3]])
def test_moved_removed_and_doubled_records_are_found(tmp_path, order):
    path = tmp_path / "ledger.jsonl"
    write(path)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"".join(lines[index] + b"\n" for index in order))
    with pytest.raises(ArtifactError, match="chained"):
        list(read_chain(path))


def test_a_forger_who_links_again_changes_the_head(tmp_path):
    """The chain alone does not show it; the head does, and the head is in the manifest."""
    path = tmp_path / "ledger.jsonl"
    true_head = write(path).head
    head, forged = CHAIN_START, b""
    for record in [*RECORDS[:1], {**RECORDS[1], "loss": "0x0p+0"}, *RECORDS[2:]]:
        line = canonical_json({**record, "previous": head})
        head, forged = sha256_bytes(line), forged + line + b"\n"
    path.write_bytes(forged)
    assert len(list(read_chain(path))) == len(RECORDS)
    assert chain_head(path)[0] != true_head


@pytest.mark.parametrize("line", [b"[]\n", b'"text"\n', b"{}\n", b"nonsense\n", b'{"previous":1}\n'])
def test_foreign_lines_are_refused(tmp_path, line):
    (tmp_path / "a.jsonl").write_bytes(line)
    with pytest.raises(OpenwrightError, match=r"a\.jsonl:1"):
        list(read_chain(tmp_path / "a.jsonl"))

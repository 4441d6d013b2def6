import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.canonical import canonical_json
from provenance.digests import sha256_bytes
from provenance.errors import ArtifactError, OpenwrightError
from provenance.ledger import CHAIN_START, ChainWriter, chain_head, read_chain

RECORDS = [{"kind": "step", "step": step, "loss": float(step).hex(), "note": "шаг"} for step in range(1, 6)]


def write(path, records=RECORDS, num_records=None):
    writer = ChainWriter(path, num_records)
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


def test_a_resumed_run_keeps_the_records_of_its_checkpoint(tmp_path):
    path, straight = tmp_path / "ledger.jsonl", tmp_path / "straight.jsonl"
    write(path, [*RECORDS[:3], {"kind": "step", "step": 99}])
    write(path, RECORDS[3:], num_records=3)
    write(straight)
    assert path.read_bytes() == straight.read_bytes()


def test_too_few_records_to_resume_is_an_error(tmp_path):
    write(tmp_path / "ledger.jsonl", RECORDS[:2])
    with pytest.raises(ArtifactError, match="at least 3"):
        ChainWriter(tmp_path / "ledger.jsonl", num_records=3)


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

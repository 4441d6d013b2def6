"""Lines of plain and compressed files: exact, bounded in memory, and cut into ranges that lose nothing."""

import gzip
import hashlib
import io
import tracemalloc

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_recipes import line_reader
from data_recipes.line_reader import LineRange, open_stream, read_lines, scan_lines

LINES = [b"first", b"", b"third \xff\x00 line", "четвёртая".encode(), b"last without an end"]


def compressed(path, data):
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def lines_of(path, at=None, max_bytes=100):
    return list(read_lines(open_stream(path, at), max_bytes, at.first_line if at else 0))


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "a.GZ"])
def test_lines_of_every_form(name, tmp_path):
    path = tmp_path / name
    data = b"\n".join(LINES)
    path.write_bytes(gzip.compress(data)) if name == "a.GZ" else compressed(path, data)
    assert [(line.number, line.data) for line in lines_of(path)] == list(enumerate(LINES))


def test_several_gzip_members_are_read_on(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"one\ntw") + gzip.compress(b"o\n"))
    assert [line.data for line in lines_of(path)] == [b"one", b"two"]


@given(
    st.lists(st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"-")), max_size=20),
    st.integers(min_value=1, max_value=7),
    st.integers(min_value=0, max_value=9),
)
def test_blocks_and_limits_change_no_line(lines, block_bytes, max_bytes):
    class Stream(io.BytesIO):
        def read(self, size=-1, /):
            return super().read(min(size, block_bytes))

    data = b"\n".join(lines)
    found = list(read_lines(Stream(data), max_bytes))
    expected = data.split(b"\n")
    expected = expected[:-1] if not expected[-1] else expected
    assert [line.size_bytes for line in found] == [len(line) for line in expected]
    for line, whole in zip(found, expected, strict=True):
        if len(whole) <= max_bytes:
            assert line.data == whole
        else:
            assert (line.data, line.sha256) == (None, hashlib.sha256(whole).hexdigest())


def test_a_gigantic_line_is_not_held_in_memory():
    class Endless:
        left = 200

        def read(self, size, /):
            self.left -= 1
            return b"x" * size if self.left >= 0 else b""

    tracemalloc.start()
    (line,) = read_lines(Endless(), max_line_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (line.data, line.size_bytes) == (None, 200 * 2**20)
    assert peak < 8 * 2**20


@pytest.mark.parametrize("part_bytes", [1, 3, 10, 1000])
@pytest.mark.parametrize("block_bytes", [1, 4, 1 << 20])
@pytest.mark.parametrize("data", [b"", b"\n", b"a\nbb\n\nccc", b"a\nbb\n\nccc\n", b"no line feed"])
def test_ranges_hold_all_lines_once(data, block_bytes, part_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(line_reader, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    sha256, ranges = scan_lines(path, part_bytes)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert lines_of(path) == [line for at in ranges for line in lines_of(path, at)]
    assert all(at.end_byte - at.first_byte >= part_bytes for at in ranges[:-1])
    assert [at.first_byte for at in ranges[1:]] == [at.end_byte for at in ranges[:-1]]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
@pytest.mark.parametrize("damage", ["cut", "not compressed", "garbage behind"])
def test_a_damaged_file_is_an_error_and_no_end(name, damage, tmp_path):
    path = compressed(tmp_path / name, bytes(range(256)) * 4000)
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-9], "not compressed": b"plain\n" * 9, "garbage behind": data + b"zz"}[damage])
    with pytest.raises(OSError, match=r"compress|inflate|Truncated|read"):
        lines_of(path)


def test_a_file_that_has_become_shorter_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n")
    with pytest.raises(OSError, match="missing at the end"):
        lines_of(path, LineRange(0, 8, 0))

"""Headers of safetensors files that a stranger made: refused in words before anything is believed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.verify import MAX_HEADER_BYTES, Mismatch, Tree, Unverifiable, read_tensors


def write(folder: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Tree:
    """A tree with one safetensors file."""
    size = len(header) if length is None else length
    (folder / "x.safetensors").write_bytes(size.to_bytes(8, "little") + header + data)
    return Tree(folder, "model")


def entry(begin: int, end: int, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def header_of(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


def test_an_honest_file_is_read(tmp_path: Path) -> None:
    header = header_of(a=entry(0, 8), b=entry(8, 12, (1,)), __metadata__={"format": "pt"})
    assert set(read_tensors(write(tmp_path, header, bytes(12)), "x.safetensors")) == {"a", "b"}


HOSTILE: dict[str, tuple[bytes, bytes, int | None, str]] = {
    "no header": (b"", b"", 2**63, "a header of"),
    "beyond the file": (b"{}", b"", 3, "a header of"),
    "huge": (b" " * (MAX_HEADER_BYTES + 1) + b"{}", b"", None, "a header of"),
    "no JSON": (b"\x80\x04N.", b"", None, "not strict JSON"),
    "a list": (b"[]", b"", None, "where an object belongs"),
    "deep": (b"[" * 100_000, b"", None, "not strict JSON"),
    "a name twice": (b'{"a":1,"a":2}', b"", None, "duplicate key"),
    "negative": (header_of(a=entry(-8, 0)), b"", None, "not count"),
    "float": (header_of(a=entry(0, 8.0)), bytes(8), None, "not an integer"),  # type: ignore[arg-type]
    "past 2^53": (header_of(a=entry(0, 2**60)), bytes(8), None, "safe range"),
    "overlap": (header_of(a=entry(0, 8), b=entry(4, 12)), bytes(12), None, "overlaps"),
    "same place": (header_of(a=entry(0, 8), b=entry(0, 8)), bytes(8), None, "overlaps"),
    "gap": (header_of(a=entry(0, 8), b=entry(12, 20)), bytes(20), None, "overlaps"),
    "backwards": (header_of(a=entry(8, 0)), bytes(8), None, "overlaps"),
    "three offsets": (header_of(a={**entry(0, 8), "data_offsets": [0, 8, 8]}), bytes(8), None, "overlaps"),
    "no offsets": (header_of(a={**entry(0, 8), "data_offsets": []}), bytes(8), None, "overlaps"),
    "past the end": (header_of(a=entry(0, 8)), bytes(7), None, "ends too early"),
    "left over": (header_of(a=entry(0, 8)), bytes(9), None, "of"),
    "wrong size": (header_of(a=entry(0, 8, dtype="F64")), bytes(8), None, "another size"),
    "empty": (header_of(a=entry(0, 0, (0, 2**52))), b"", None, "the shape"),
    "dimensions": (header_of(a=entry(0, 4, (1,) * 17)), bytes(4), None, "the shape"),
    "endless shape": (header_of(a=entry(0, 8, (2**52,) * 16)), bytes(8), None, "overlaps"),
    "truth": (header_of(a=entry(0, 8, (True, 2))), bytes(8), None, "not count"),
    "text": (header_of(a=entry(0, 8, ("2",))), bytes(8), None, "not count"),
    "dtype of no text": (header_of(a=entry(0, 8, dtype=["F32"])), bytes(8), None, "not text"),
    "more fields": (header_of(a={**entry(0, 8), "file": "/etc/passwd"}), bytes(8), None, "unknown fields"),
    "metadata": (header_of(__metadata__=[1]), b"", None, "where an object belongs"),
}


@pytest.mark.parametrize(("header", "data", "length", "detail"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_is_refused(
    tmp_path: Path, header: bytes, data: bytes, length: int | None, detail: str
) -> None:
    with pytest.raises(Mismatch) as raised:
        read_tensors(write(tmp_path, header, data, length), "x.safetensors")
    assert detail in raised.value.detail
    assert "x.safetensors" in raised.value.where


def test_a_type_that_nobody_knows_is_unverified(tmp_path: Path) -> None:
    with pytest.raises(Unverifiable, match="PICKLE"):
        read_tensors(write(tmp_path, header_of(a=entry(0, 8, dtype="PICKLE")), bytes(8)), "x.safetensors")


NUMBERS = st.integers(-2, 40) | st.sampled_from((2**53, 2**63, 10**30)) | st.floats() | st.text(max_size=2) | st.none()
HEADERS = st.dictionaries(
    st.sampled_from(("a", "b", "__metadata__", "\u00e9")) | st.text(max_size=3),
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(("F32", "BF16", "I64", "x", 5)),
            "shape": st.lists(NUMBERS, max_size=3),
            "data_offsets": st.lists(NUMBERS, max_size=3),
        }
    )
    | NUMBERS,
    max_size=3,
)


@given(st.binary(max_size=80) | HEADERS.map(lambda value: json.dumps(value).encode()), st.binary(max_size=24))
def test_any_header_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, header: bytes, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "headers"
    folder.mkdir(exist_ok=True)
    told = []
    for length in (None, 5):
        try:
            told.append(str(sorted(read_tensors(write(folder, header, data, length), "x.safetensors"))))
        except Mismatch as refused:
            told.append(refused.detail)
    assert all(text.isprintable() for text in told)

"""Hostile and broken archives are refused by the check that is meant for them; whole ones are read."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_recipes.archives import ArchiveLimits, ArchiveMember, read_archive
from provenance.errors import ArchiveError

FILES = {"pkg-1.0/README.rst": "Привет, мир\n".encode(), "pkg-1.0/src/a.py": b'"""Doc."""\n', "pkg-1.0/空.txt": b"x"}

PACKERS = {".tar.gz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress, ".zip": bytes}


def tar_bytes(files: dict[str, bytes], extra: Callable[[tarfile.TarFile], None] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if extra is not None:
            extra(archive)
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.linkname = target
        archive.addfile(info)

    return add


def write_tar(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "pkg-1.0.tar.gz"
    path.write_bytes(gzip.compress(data))
    return path


def write_zip(tmp_path: Path, files: dict[str, bytes], mode: int = 0) -> Path:
    path = tmp_path / "pkg-1.0.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def assert_read(members: list[ArchiveMember]) -> None:
    expected = {name.split("/", 1)[1]: data for name, data in FILES.items()}
    assert {member.path: member.data for member in members} == expected
    assert [member.path for member in members] == sorted(expected)


def test_reads_all_forms(tmp_path: Path) -> None:
    assert_read(read_archive(write_tar(tmp_path, tar_bytes(FILES))))
    assert_read(read_archive(write_zip(tmp_path, FILES)))
    bz = tmp_path / "pkg-1.0.tar.bz2"
    bz.write_bytes(bz2.compress(tar_bytes(FILES, special("pkg-1.0/empty", tarfile.DIRTYPE))))
    assert_read(read_archive(bz))
    xz = tmp_path / "pkg-1.0.tar.xz"
    xz.write_bytes(lzma.compress(tar_bytes(FILES)))
    assert_read(read_archive(xz))


def test_links_may_be_left_out_and_are_counted(tmp_path: Path) -> None:
    def add(archive: tarfile.TarFile) -> None:
        special("pkg-1.0/evil", tarfile.SYMTYPE, "/etc/passwd")(archive)
        special("pkg-1.0/hard", tarfile.LNKTYPE, "pkg-1.0/README.rst")(archive)

    links: Counter[str] = Counter()
    assert_read(read_archive(write_tar(tmp_path, tar_bytes(FILES, add)), links=links))
    assert links == {"link": 2}
    with pytest.raises(ArchiveError, match="absolute"):
        read_archive(write_tar(tmp_path, tar_bytes(FILES, special("/etc/x", tarfile.SYMTYPE, "y"))), links=Counter())
    with pytest.raises(ArchiveError, match="device"):
        read_archive(write_tar(tmp_path, tar_bytes(FILES, special("pkg-1.0/x", tarfile.CHRTYPE))), links=Counter())


def test_order_in_the_archive_does_not_matter(tmp_path: Path) -> None:
    turned = dict(reversed(FILES.items()))
    assert read_archive(write_tar(tmp_path, tar_bytes(turned))) == read_archive(write_zip(tmp_path, FILES))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("pkg-1.0/../../x", r"'\.\.' part"),
        ("../x", r"'\.\.' part"),
        ("pkg-1.0//x", "empty"),
        ("pkg-1.0/a\\..\\x", "backslash"),
        ("C:/x", "drive"),
        ("pkg-1.0/a\nb", "control characters"),
        ("pkg-1.0/a\u202eyp.txt", "control characters"),
        ("pkg-1.0/" + "a" * 2000, "too long"),
        ("other/x", "top level"),
        ("file-at-top", "top level"),
    ],
)
def test_refuses_names(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ArchiveError, match=why):
        read_archive(write_tar(tmp_path, tar_bytes({**FILES, name: b"x"})))
    if "\\" not in name:  # zipfile itself writes a backslash as it is only on POSIX
        with pytest.raises(ArchiveError, match=why):
            read_archive(write_zip(tmp_path, {**FILES, name: b"x"}))


def test_the_error_names_the_member_and_the_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"pkg-1\.0\.tar\.gz: pkg-1\.0/evil: is a symbolic link to /etc/passwd"):
        read_archive(write_tar(tmp_path, tar_bytes(FILES, special("pkg-1.0/evil", tarfile.SYMTYPE, "/etc/passwd"))))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "named pipe"),
        (b"V", "unknown type"),
    ],
)
def test_refuses_what_is_no_file(tmp_path: Path, kind: bytes, why: str) -> None:
    with pytest.raises(ArchiveError, match=why):
        read_archive(write_tar(tmp_path, tar_bytes(FILES, special("pkg-1.0/x", kind, "pkg-1.0/README.rst"))))


def test_refuses_a_link_in_a_zip(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="link"):
        read_archive(write_zip(tmp_path, {"pkg-1.0/x": b"/etc/passwd"}, mode=0o120777))


def test_refuses_an_encrypted_zip_member(tmp_path: Path) -> None:
    path = write_zip(tmp_path, {"pkg-1.0/x": b"abc"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArchiveError, match="encrypted"):
        read_archive(path)


def test_refuses_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    data = tar_bytes({"pkg-1.0/README": b"x"})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        info = tarfile.TarInfo("pkg-1.0/\xe9t\xe9")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    assert read_archive(write_tar(tmp_path, data))
    with pytest.raises(ArchiveError, match="not UTF-8"):
        read_archive(write_tar(tmp_path, buffer.getvalue()))


def test_refuses_duplicates_but_not_names_that_differ_in_case(tmp_path: Path) -> None:
    def again(archive: tarfile.TarFile) -> None:
        archive.addfile(tarfile.TarInfo("pkg-1.0/README.rst"))

    with pytest.raises(ArchiveError, match="appears twice"):
        read_archive(write_tar(tmp_path, tar_bytes(FILES, again)))
    assert len(read_archive(write_tar(tmp_path, tar_bytes({**FILES, "pkg-1.0/readme.RST": b"y"})))) == len(FILES) + 1


def test_refuses_a_path_that_is_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="a file and a directory"):
        read_archive(write_tar(tmp_path, tar_bytes({"pkg-1.0/a": b"x", "pkg-1.0/a/b": b"y"})))


def test_limits(tmp_path: Path) -> None:
    path = write_tar(tmp_path, tar_bytes(FILES))
    for limits, why in (
        (ArchiveLimits(max_members=2), "3 members"),
        (ArchiveLimits(max_member_bytes=10), "states a size of"),
        (ArchiveLimits(max_total_bytes=1000), "more than the limit"),
    ):
        with pytest.raises(ArchiveError, match=why):
            read_archive(path, limits)
    with pytest.raises(ArchiveError, match="members"):
        read_archive(write_zip(tmp_path, FILES), ArchiveLimits(max_members=2))
    with pytest.raises(ArchiveError, match="more than the limit"):
        read_archive(write_zip(tmp_path, FILES), ArchiveLimits(max_total_bytes=30))


def test_decompression_bomb_is_stopped_while_it_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path, b"\0" * (300 * 2**20))
    assert path.stat().st_size < 400_000
    with pytest.raises(ArchiveError, match="more than the limit"):
        read_archive(path)
    with pytest.raises(ArchiveError, match="more than the limit"):
        read_archive(write_zip(tmp_path, {f"pkg-1.0/{number}": bytes(30 * 2**20) for number in range(3)}))


def test_sparse_member_is_refused(tmp_path: Path) -> None:
    def sparse(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("pkg-1.0/sparse")
        info.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**40), "GNU.sparse.numblocks": "1"}
        archive.addfile(info)

    with pytest.raises(ArchiveError, match="sparse"):
        read_archive(write_tar(tmp_path, tar_bytes(FILES, sparse)))


def test_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    data = bytearray(tar_bytes({"pkg-1.0/a": b"x"}))
    data[124:136] = b"%011o\0" % (2**33 - 1)
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with pytest.raises(ArchiveError, match=r"states a size|damaged"):
        read_archive(write_tar(tmp_path, bytes(data)))


@pytest.mark.parametrize("keep", [0, 1, 20, 100, 200])
def test_truncated(tmp_path: Path, keep: int) -> None:
    path = write_tar(tmp_path, tar_bytes(FILES))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArchiveError, match="damaged or incomplete"):
        read_archive(path)


def test_damaged_header_in_the_middle_is_not_the_end(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(dict.fromkeys(["pkg-1.0/a", "pkg-1.0/b", "pkg-1.0/c"], b"x")))
    second = data.index(b"pkg-1.0/b")
    data[second] ^= 0xFF
    with pytest.raises(ArchiveError, match="damaged"):
        read_archive(write_tar(tmp_path, bytes(data)))


def test_data_behind_the_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="damaged at byte"):
        read_archive(write_tar(tmp_path, tar_bytes(FILES) + tar_bytes({"pkg-1.0/hidden": b"x"})))


def test_unknown_suffix(tmp_path: Path) -> None:
    path = tmp_path / "pkg-1.0.tar.lz"
    path.write_bytes(b"")
    with pytest.raises(ArchiveError, match="suffix"):
        read_archive(path)


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=2000),
    suffix=st.sampled_from(list(PACKERS)),
    wrap=st.booleans(),
)
def test_random_bytes_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str, wrap: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / f"random{suffix}"
    packed = PACKERS[suffix](data) if wrap else data
    path.write_bytes(packed)
    with pytest.raises(ArchiveError):
        read_archive(path)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(["tar", "zip"]))
def test_mutated_archives_give_members_or_an_archive_error(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject, form: str
) -> None:
    base = tmp_path_factory.getbasetemp()
    if form == "tar":
        raw = bytearray(tar_bytes({**FILES, "pkg-1.0/" + "é" * 120: b"long"}))
    else:
        raw = bytearray(write_zip(base, FILES).read_bytes())
    for _ in range(draw.draw(st.integers(1, 6))):
        place = draw.draw(st.integers(0, len(raw) - 1))
        raw[place] = draw.draw(st.integers(0, 255))
    path = write_tar(base, bytes(raw)) if form == "tar" else base / "pkg-1.0.zip"
    if form == "zip":
        path.write_bytes(bytes(raw))
    try:
        members = read_archive(path)
    except ArchiveError:
        return
    assert all(not member.path.startswith("/") and ".." not in member.path.split("/") for member in members)

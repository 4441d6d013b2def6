"""Read source archives that may be hostile: into memory, within limits, nothing written to disk or executed."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from provenance.errors import ArchiveError

_BLOCK_BYTES = 1 << 18
_ENCRYPTED_FLAG = 0x1
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_READ_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    IndexError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
)
"""What the standard library raises for archives that are not whole."""


@dataclass(frozen=True)
class ArchiveLimits:
    """How much an archive may hold.

    Attributes:
        max_members: files and directories together.
        max_total_bytes: uncompressed, all members together with the archive's own headers.
        max_member_bytes: uncompressed, one member.
        max_ratio: uncompressed bytes per byte of the archive; small archives may hold 1 MiB in any case.
        max_path_bytes: of a member's name in UTF-8.
    """

    max_members: int = 50_000
    max_total_bytes: int = 384 * 2**20
    max_member_bytes: int = 64 * 2**20
    max_ratio: int = 100
    max_path_bytes: int = 1_024

    def budget_bytes(self, archive_bytes: int) -> int:
        """Uncompressed bytes that an archive of this size may hold."""
        return min(self.max_total_bytes, max(2**20, self.max_ratio * archive_bytes))


DEFAULT_LIMITS = ArchiveLimits()


@dataclass(frozen=True)
class ArchiveMember:
    """One regular file: path without the top-level `<name>-<version>/` directory, and its bytes."""

    path: str
    data: bytes


def read_archive(
    path: Path, limits: ArchiveLimits = DEFAULT_LIMITS, links: Counter[str] | None = None
) -> list[ArchiveMember]:
    """Read a source archive (.tar.gz, .tgz, .tar.bz2, .tar.xz or .zip) into memory.

    Args:
        path: the archive; its suffix says what it is.
        limits: enforced while the archive is decompressed.
        links: counts links of a tar archive, which are then left out; None refuses them.

    Returns:
        Its regular files, sorted by path.

    Raises:
        ArchiveError: for anything but regular files and directories with plain, distinct paths below one top-level
            directory, for more than the limits allow, and for archives that are damaged or incomplete.
    """
    name = path.name.lower()
    try:
        if name.endswith((".tar.gz", ".tgz")):
            found = list(_tar_members(path, limits, gzip.GzipFile, links))
        elif name.endswith(".tar.bz2"):
            found = list(_tar_members(path, limits, bz2.BZ2File, links))
        elif name.endswith(".tar.xz"):
            found = list(_tar_members(path, limits, lzma.LZMAFile, links))
        elif name.endswith(".zip"):
            found = list(_zip_members(path, limits))
        else:
            raise _refuse(path, "the suffix names no archive that is read", ".tar.gz, .tgz, .tar.bz2, .tar.xz or .zip")
    except _READ_ERRORS as error:
        raise _refuse(path, f"damaged or incomplete ({error})", "a whole source archive") from error
    return _without_top_directory(path, found)


def _refuse(path: Path, found: str, expected: str, member: str | None = None) -> ArchiveError:
    place = path.name if member is None else f"{path.name}: {_printable(member)}"
    return ArchiveError(
        found, expected=expected, where=place, next_command="choose another archive of this project, or leave it out"
    )


def _printable(name: str) -> str:
    return ascii(name[:200])[1:-1]


_Opener = Callable[[Path], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]


def _tar_members(
    path: Path, limits: ArchiveLimits, opener: _Opener, links: Counter[str] | None
) -> Iterator[tuple[str, bytes | None]]:
    data = _decompress(path, limits, opener)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        count = 0
        for member in archive:
            count += 1
            _check_count(path, limits, count)
            _check_name(path, limits, member.name)
            if links is not None and (member.issym() or member.islnk()):
                links["link"] += 1
                continue
            if member.issparse() or not (member.isreg() or member.isdir()):
                raise _refuse(path, f"is {_tar_kind(member)}", "a regular file or a directory", member.name)
            if member.isdir():
                yield member.name.rstrip("/"), None
                continue
            _check_size(path, limits, member.name, member.size)
            file = archive.extractfile(member)
            content = b"" if file is None else file.read()
            if len(content) != member.size:
                raise _refuse(path, "is cut short", f"{member.size} bytes", member.name)
            yield member.name, content
        # tarfile takes a damaged header for the end of the archive; what follows the true end is only zeros.
        if archive.offset > len(data) or data.count(0, archive.offset) != len(data) - archive.offset:
            raise _refuse(path, f"damaged at byte {archive.offset} of the tar", "a member, or zeros to the end")


def _decompress(path: Path, limits: ArchiveLimits, opener: _Opener) -> bytes:
    budget = limits.budget_bytes(path.stat().st_size)
    data = bytearray()
    with opener(path) as stream:
        while block := stream.read(_BLOCK_BYTES):
            data += block
            if len(data) > budget:
                raise _refuse(path, "decompresses to more than the limit", f"at most {budget} bytes")
    return bytes(data)


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.issym():
        return f"a symbolic link to {_printable(member.linkname)}"
    if member.islnk():
        return f"a hard link to {_printable(member.linkname)}"
    if member.ischr() or member.isblk():
        return "a device"
    if member.isfifo():
        return "a named pipe"
    return "a sparse file" if member.issparse() else f"of unknown type {member.type!r}"


def _zip_members(path: Path, limits: ArchiveLimits) -> Iterator[tuple[str, bytes | None]]:
    budget = limits.budget_bytes(path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        _check_count(path, limits, len(archive.infolist()))
        for info in archive.infolist():
            name = info.orig_filename
            _check_name(path, limits, name)
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refuse(path, "is a link or a device", "a regular file or a directory", name)
            if info.flag_bits & _ENCRYPTED_FLAG:
                raise _refuse(path, "is encrypted", "a plain file", name)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _refuse(path, f"is compressed by method {info.compress_type}", "stored or deflated", name)
            if not name.isascii() and not info.flag_bits & 0x800:
                raise _refuse(path, "has a name that is not UTF-8", "a name in UTF-8", name)
            if info.is_dir():
                yield name.rstrip("/"), None
                continue
            _check_size(path, limits, name, info.file_size)
            budget -= info.file_size
            if budget < 0:
                raise _refuse(path, "decompresses to more than the limit", "a smaller archive", name)
            with archive.open(info) as file:
                content = file.read(info.file_size + 1)
            if len(content) != info.file_size:
                raise _refuse(path, "does not have the size it states", f"{info.file_size} bytes", name)
            yield name, content


def _check_count(path: Path, limits: ArchiveLimits, count: int) -> None:
    if count > limits.max_members:
        raise _refuse(path, f"holds {count} members or more", f"at most {limits.max_members}")


def _check_size(path: Path, limits: ArchiveLimits, name: str, size_bytes: int) -> None:
    if not 0 <= size_bytes <= limits.max_member_bytes:
        raise _refuse(path, f"states a size of {size_bytes} bytes", f"at most {limits.max_member_bytes}", name)


def _check_name(path: Path, limits: ArchiveLimits, name: str) -> None:
    """Refuse names that could mean another place, or that a person could not read as they are."""
    if any("\udc80" <= letter <= "\udcff" for letter in name):
        raise _refuse(path, "has a name that is not UTF-8", "a name in UTF-8", name)
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _BIDI_CONTROLS for letter in name):
        raise _refuse(path, "has control characters in its name", "printable characters", name)
    if len(name.encode("utf-8")) > limits.max_path_bytes:
        raise _refuse(path, "has too long a name", f"at most {limits.max_path_bytes} bytes", name)
    if name.startswith("/"):
        raise _refuse(path, "is an absolute path", "a relative path", name)
    if "\\" in name or name[1:2] == ":":
        raise _refuse(path, "has a backslash or a drive letter", "a POSIX path", name)
    if any(part in ("", ".", "..") for part in name.rstrip("/").split("/")):
        raise _refuse(path, "has an empty, '.' or '..' part", "a plain path", name)


def _without_top_directory(path: Path, found: list[tuple[str, bytes | None]]) -> list[ArchiveMember]:
    members: dict[str, bytes] = {}
    directories: set[str] = set()
    tops = {name.split("/", 1)[0] for name, _ in found}
    if len(tops) != 1:
        raise _refuse(path, f"{len(tops)} entries at the top level", "one directory, <name>-<version>/")
    for name, data in found:
        directories.update(name[:at] for at, letter in enumerate(name) if letter == "/")
        if data is None:
            directories.add(name)
            continue
        if "/" not in name:
            raise _refuse(path, "is a file at the top level", "one directory, <name>-<version>/", name)
        inner = name.split("/", 1)[1]
        if inner in members:
            raise _refuse(path, "appears twice", "each path once", name)
        members[inner] = data
    top = tops.pop()
    for inner in members:
        if f"{top}/{inner}" in directories:
            raise _refuse(path, "is a file and a directory", "each path once", f"{top}/{inner}")
    return [ArchiveMember(inner, members[inner]) for inner in sorted(members)]

"""Fetching pinned archives from an index on loopback, and what is read from them."""

import gzip
import hashlib
import io
import json
import multiprocessing
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError

from data_recipes import downloads
from data_recipes.licence_match import TEXTS_DIRECTORY
from data_recipes.pypi import fetch_sdist, read_pypi_source
from data_recipes.pypi_settings import PypiSource
from provenance.canonical import canonical_json
from provenance.errors import ArchiveError, SourceError

MIT = (TEXTS_DIRECTORY / "MIT.txt").read_text().replace("<year> <copyright holders>", "2020 Анна")
METADATA = "Metadata-Version: 2.4\nName: pkg\nVersion: 1.0\nLicense-Expression: MIT\nAuthor: Анна\n\nText.\n"


def sdist(licence: str = MIT, **more: str) -> bytes:
    files = {
        "LICENSE": licence,
        "PKG-INFO": METADATA,
        "docs/intro.rst": "Введение\n",
        "pkg/a.py": '"""Doc."""\n',
        **more,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"pkg-1.0/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return gzip.compress(buffer.getvalue(), mtime=0)


BODY = sdist()


def source(body: bytes = BODY, **changes: object) -> PypiSource:
    values: dict[str, object] = {
        "type": "pypi",
        "project": "pkg",
        "version": "1.0",
        "filename": "pkg-1.0.tar.gz",
        "sha256": hashlib.sha256(body).hexdigest(),
        "size_bytes": len(body),
        "as_of": "2026-01-02",
    }
    return PypiSource.model_validate({**values, **changes})


@dataclass
class Index:
    """A simple repository; `faults` is used up one per download: truncate, 503, or nothing."""

    url: str = ""
    body: bytes = BODY
    digests: dict[str, str] = field(default_factory=dict)
    yanked: bool | str = False
    html: bool = False
    faults: list[str] = field(default_factory=list)
    downloads: int = 0

    def page(self) -> tuple[str, bytes]:
        if self.html:
            return "text/html", b'<html><body><a href="/files/pkg-1.0.tar.gz">pkg-1.0.tar.gz</a></body></html>'
        entry = {
            "filename": "pkg-1.0.tar.gz",
            "url": "/files/pkg-1.0.tar.gz",
            "hashes": self.digests,
            "yanked": self.yanked,
        }
        page = {"meta": {"api-version": "1.0"}, "name": "pkg", "files": [entry]}
        return "application/vnd.pypi.simple.v1+json", json.dumps(page).encode()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    state = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/simple/pkg/":
                kind, body = state.page()
                self.answer(200, body, kind)
            elif self.path == "/files/pkg-1.0.tar.gz":
                state.downloads += 1
                fault = state.faults.pop(0) if state.faults else ""
                if fault == "503":
                    self.answer(503, b"busy")
                else:
                    self.answer(200, state.body, cut=len(state.body) // 2 if fault == "truncate" else None)
            else:
                self.answer(404, b"none")

        def answer(self, status: int, body: bytes, kind: str = "text/plain", cut: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/simple/"
    monkeypatch.setattr(downloads, "_BACKOFF_SECONDS", 0.01)
    yield state
    server.shutdown()
    server.server_close()


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("html", [False, True])
def test_fetches_once_then_uses_the_cache(index: Index, tmp_path: Path, html: bool) -> None:
    index.html = html
    path = fetch_sdist(source(), tmp_path, index.url)
    assert path == tmp_path / source().sha256 / "pkg-1.0.tar.gz"
    assert path.read_bytes() == BODY
    assert fetch_sdist(source(), tmp_path, "http://127.0.0.1:9/simple/") == path
    assert index.downloads == 1
    assert files_in(tmp_path) == ["pkg-1.0.tar.gz"]


def test_truncated_and_busy_downloads_are_tried_again(index: Index, tmp_path: Path) -> None:
    index.faults = ["truncate", "503"]
    assert fetch_sdist(source(), tmp_path, index.url).read_bytes() == BODY
    assert index.downloads == 3


def test_a_download_that_stays_truncated_leaves_nothing(index: Index, tmp_path: Path) -> None:
    index.faults = ["truncate"] * 20
    with pytest.raises(SourceError, match="not fetched after 4 attempts"):
        fetch_sdist(source(), tmp_path, index.url)
    assert index.downloads == downloads.ATTEMPTS
    assert files_in(tmp_path) == []


def test_body_that_ends_early_but_consistently_is_not_whole(index: Index, tmp_path: Path) -> None:
    index.body = BODY[:-10]
    with pytest.raises(SourceError, match="bytes came"):
        fetch_sdist(source(), tmp_path, index.url)
    assert files_in(tmp_path) == []


def test_wrong_sha256_names_both_and_leaves_nothing(index: Index, tmp_path: Path) -> None:
    index.body = bytes([*BODY[:-1], BODY[-1] ^ 1])
    with pytest.raises(SourceError) as caught:
        fetch_sdist(source(), tmp_path, index.url)
    assert hashlib.sha256(index.body).hexdigest() in str(caught.value)
    assert source().sha256 in str(caught.value)
    assert index.downloads == 1
    assert files_in(tmp_path) == []


def test_wrong_sha256_on_the_page_costs_no_download(index: Index, tmp_path: Path) -> None:
    index.digests = {"sha256": "0" * 64}
    with pytest.raises(SourceError, match="0" * 64):
        fetch_sdist(source(), tmp_path, index.url)
    assert index.downloads == 0


def test_longer_than_pinned_is_stopped(index: Index, tmp_path: Path) -> None:
    index.body = BODY + bytes(1000)
    with pytest.raises(SourceError, match="larger than pinned"):
        fetch_sdist(source(), tmp_path, index.url)
    assert files_in(tmp_path) == []


def test_changed_cache_file_is_fetched_again(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fetch_sdist(source(), tmp_path, index.url)
    path.write_bytes(b"changed")
    assert fetch_sdist(source(), tmp_path, index.url).read_bytes() == BODY
    assert "was changed" in capsys.readouterr().err
    assert index.downloads == 2


def test_missing_project_version_and_file(index: Index, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such project"):
        fetch_sdist(source(project="absent"), tmp_path, index.url)
    with pytest.raises(SourceError, match="no source archive of that version"):
        fetch_sdist(source(version="2.0", filename="pkg-2.0.tar.gz"), tmp_path, index.url)
    with pytest.raises(SourceError, match=r"files of that version: pkg-1\.0\.tar\.gz"):
        fetch_sdist(source(filename="pkg-1.0.zip"), tmp_path, index.url)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_BACKOFF_SECONDS", 0.01)
    with pytest.raises(SourceError, match=r"ConnectionError(.|\n)*next: check the network"):
        fetch_sdist(source(), tmp_path, "http://127.0.0.1:9/simple/")


def test_yanked_is_noted(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index.yanked = "broken build"
    fetch_sdist(source(), tmp_path, index.url)
    assert "yanked by its publisher: broken build" in capsys.readouterr().err


def test_place_that_cannot_be_written(index: Index, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    with pytest.raises(SourceError, match="cannot write the download"):
        fetch_sdist(source(), tmp_path / "cache", index.url)


def test_full_disk(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SourceError, match=r"No space left on device(.|\n)*next: free some space"):
        fetch_sdist(source(), tmp_path, index.url)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "abc"},
        {"filename": "../pkg-1.0.tar.gz"},
        {"filename": "pkg-1.0.whl"},
        {"project": "../x"},
        {"size_bytes": 0},
        {"as_of": "today"},
        {"split": "test"},
        {"unknown": 1},
    ],
)
def test_bad_pins_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        source(**change)


def write(tmp_path: Path, body: bytes = BODY) -> Path:
    path = tmp_path / "pkg-1.0.tar.gz"
    path.write_bytes(body)
    return path


def test_reads_contents_and_lock(tmp_path: Path) -> None:
    contents = read_pypi_source(source(), write(tmp_path))
    assert [member.path for member in contents.members] == ["LICENSE", "PKG-INFO", "docs/intro.rst", "pkg/a.py"]
    assert contents.source_digest == source().sha256
    assert contents.lock["osaid_class"] == "open"
    assert contents.lock["authors"] == ["Анна"]
    assert contents.lock["obtain"] == "pip download --no-deps --no-binary :all: pkg==1.0"
    licence = contents.lock["licence"]
    assert (licence["spdx"], licence["evidence_locator"]) == ("MIT", "LICENSE")
    assert licence["evidence_sha256"] == hashlib.sha256(MIT.encode()).hexdigest()
    assert licence["texts"] == [{"path": "LICENSE", "sha256": licence["evidence_sha256"], "spdx": "MIT"}]
    assert licence["copyright"] == ["Copyright (c) 2020 Анна"]


def test_notice_files_at_the_root_are_in_the_lock(tmp_path: Path) -> None:
    more = {"NOTICE": "Made by Ж.  \r\nAnd others.\n", "docs/NOTICE": "elsewhere", "notices.py": "x = 1"}
    body = sdist(**more)
    lock = read_pypi_source(source(body), write(tmp_path, body)).lock
    assert [(notice["path"], notice["text"]) for notice in lock["notices"]] == [("NOTICE", "Made by Ж.\nAnd others.")]


def test_unresolved_archive_is_public_not_open(tmp_path: Path) -> None:
    body = sdist("Ask the author.")
    contents = read_pypi_source(source(body), write(tmp_path, body))
    assert contents.lock["osaid_class"] == "public"
    assert contents.lock["licence"]["spdx"] == "NOASSERTION"
    assert "not a known licence text" in contents.lock["licence"]["reason"]


def test_globs(tmp_path: Path) -> None:
    path = write(tmp_path)
    kept = read_pypi_source(source(keep=["docs/*", "*.py"]), path)
    assert [member.path for member in kept.members] == ["docs/intro.rst", "pkg/a.py"]
    assert kept.resolver.resolve("pkg/a.py", b"").spdx == "MIT"
    skipped = read_pypi_source(source(skip=["docs/*"]), path)
    assert "docs/intro.rst" not in [member.path for member in skipped.members]


def test_same_result_in_another_process(tmp_path: Path) -> None:
    path = write(tmp_path)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        far = pool.submit(read_pypi_source, source(), path).result()
    near = read_pypi_source(source(), path)
    assert canonical_json(far.lock) == canonical_json(near.lock)
    assert far.members == near.members
    assert far.resolver.resolve("pkg/a.py", b"x") == near.resolver.resolve("pkg/a.py", b"x")


def test_broken_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="damaged or incomplete"):
        read_pypi_source(source(), write(tmp_path, BODY[:100]))


@pytest.mark.network
def test_real_index(tmp_path: Path) -> None:
    pinned = source(
        project="zope.interface",
        version="8.7",
        filename="zope_interface-8.7.tar.gz",
        sha256="0b47b62e8d0d99b24bcdd32f4f2120425e5019c3bee2ad69a0e1d75737487a96",
        size_bytes=266343,
    )
    contents = read_pypi_source(pinned, fetch_sdist(pinned, tmp_path))
    assert contents.lock["licence"]["spdx"] == "ZPL-2.1"

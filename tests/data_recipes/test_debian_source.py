"""Sources of type `debian`: source packages with a licence per file, from an archive on loopback."""

import fnmatch
import json
import lzma
import time

import pytest
from debian_fixtures import COPYRIGHT, debian_archive, description, package, source_values, tar
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_recipes import downloads
from data_recipes.debian_copyright import PackageLicences, PathGlob
from data_recipes.debian_licences import spdx_of_synopsis
from data_recipes.debian_settings import DebianSource
from data_recipes.debian_source import DebianReader
from data_recipes.licence_match import TEXTS_DIRECTORY
from data_recipes.reading import PartReport, ReadingContext, ReadingLimits, SourcePart
from provenance.digests import sha256_bytes
from provenance.errors import ArchiveError, SourceError

UPSTREAM = {
    "README.md": b"# Tiny\n\nIt is small.\n",
    "docs/guide.rst": "Guide\n=====\n\nПривет.\n".encode(),
    "docs/vendored/theirs.md": b"# Theirs\n",
    "docs/tagged.md": b"<!-- SPDX-License-Identifier: Apache-2.0 -->\n\nText.\n",
    "src/tiny.py": b'"""The module."""\n',
    "src/tiny.c": b"int main;\n",
}


def read(files, cache_dir, archive=None, **changes):
    source = DebianSource.model_validate(source_values(files, **changes))
    reader = DebianReader(source, ReadingContext(ReadingLimits(), cache_dir, cache_dir, debian_archive=archive))
    (part,) = reader.parts()
    report = PartReport()
    as_sent = SourcePart(**json.loads(json.dumps(part.as_json())))
    documents = {item.document.path: item.document for item in reader.read(as_sent, report)}
    return documents, report, reader.lock([report])


def lay(files, cache_dir):
    """Put the files of a package where the cache has them."""
    for name, data in files.items():
        place = cache_dir / sha256_bytes(data)
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return files


@pytest.mark.parametrize(("suffix", "native"), [(".xz", False), (".gz", False), (".bz2", False), (".xz", True)])
def test_every_file_has_the_licence_of_its_last_stanza(suffix, native, tmp_path):
    files = package(UPSTREAM, suffix=suffix, native=native)
    with debian_archive(files) as (archive, asked):
        documents, report, lock = read(files, tmp_path, archive)
        assert "tiny_1.0.orig.tar.gz.asc" not in asked
        asked.clear()
        assert read(files, tmp_path, archive)[0] == documents
        assert asked == []
    licences = {path: document.licence.spdx for path, document in documents.items()}
    assert licences == {
        "README.md": "MIT OR CC-BY-SA-4.0",
        "debian/README.md": "MIT",
        "docs/guide.rst": "MIT OR CC-BY-SA-4.0",
        "docs/tagged.md": "NOASSERTION",
        "docs/vendored/theirs.md": "NOASSERTION",
        "src/tiny.py#docstrings": "GPL-2.0-or-later",
    }
    guide = documents["docs/guide.rst"].licence
    assert (guide.evidence_kind, guide.declared) == ("dep5-stanza", "Expat or CC-BY-SA-4.0")
    assert guide.evidence_locator == "debian/copyright#2 Files: docs/* README.md"
    assert guide.evidence_sha256 == sha256_bytes(COPYRIGHT.encode())
    assert guide.copyright == ("2022 Cem Writer",)
    assert documents["src/tiny.py#docstrings"].licence.copyright == (
        "2020 Ann Author", "2021 Bob Builder <bob@example.org>",
    )  # fmt: skip
    assert "odd-terms" in documents["docs/vendored/theirs.md"].licence.reason
    assert "Apache-2.0" in documents["docs/tagged.md"].licence.reason
    assert report.skipped["link"] == 1
    (dsc,) = (name for name in files if name.endswith(".dsc"))
    assert documents["README.md"].source_digest == sha256_bytes(files[dsc])
    pins = {file["path"]: file["sha256"] for file in lock["files"]}
    assert pins == {name: sha256_bytes(data) for name, data in files.items() if not name.endswith(".asc")}
    assert lock["licence"]["names"]["odd-terms"] == "NOASSERTION"
    assert lock["obtain"].startswith("apt-get source")


def test_the_recipe_says_what_a_name_means_and_which_files_are_read(tmp_path):
    files = lay(package(UPSTREAM), tmp_path)
    changes = {"licence_names": {"odd-terms": "0BSD"}, "keep": ["docs/*"], "skip": ["*/tagged*"]}
    documents, _, _ = read(files, tmp_path, **changes)
    assert {path: document.licence.spdx for path, document in documents.items()} == {
        "docs/guide.rst": "MIT OR CC-BY-SA-4.0",
        "docs/vendored/theirs.md": "0BSD",
    }


@pytest.mark.parametrize(
    "text",
    [
        None,
        "This package was debianised by hand.\n\nIt is under the GPL.\n",
        "",
        COPYRIGHT.replace("docs/* README.md", "docs/\\x"),
        COPYRIGHT.replace("Files: *", "Files: [a-"),
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n",
    ],
)
def test_without_a_readable_copyright_file_nothing_is_resolved(text, tmp_path):
    files = lay(package(UPSTREAM, text), tmp_path)
    documents, _, lock = read(files, tmp_path)
    guide = documents["docs/guide.rst"].licence
    if text is not None and "[a-" in text:  # a bracket is an ordinary letter in these globs
        assert guide.spdx == "MIT OR CC-BY-SA-4.0"
        assert documents["src/tiny.py#docstrings"].licence.spdx == "NOASSERTION"
        return
    assert {document.licence.spdx for document in documents.values()} == {"NOASSERTION"}
    assert "debian/copyright" in guide.reason
    assert lock["licence"]["sha256"] == ("" if text is None else sha256_bytes(text.encode()))


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("*", ["", "a", "a/b\n"], []),
        ("docs/*", ["docs/", "docs/a/b.md"], ["docs", "xdocs/a"]),
        ("*.md", [".md", "a/b.md"], ["a.md2", "amd"]),
        ("a?c*e", ["abce", "a/cde", "abc-e-e"], ["ace", "abc", "abcex"]),
        ("a*a", ["aa", "aba"], ["a"]),
        ("*ab*ab*", ["abab", "xabyabz"], ["ab", "aab"]),
        ("a\\*\\?\\\\b", ["a*?\\b"], ["ax?\\b"]),
        ("[a]+", ["[a]+"], ["a", "aa"]),
        ("./a", ["a"], ["./a"]),
        ("*\\*", ["a*", "*"], ["a", ""]),
    ],
)
def test_globs_of_paths(glob, matching, others):
    found = PathGlob(glob)
    assert [path for path in matching if not found.matches(path)] == []
    assert [path for path in others if found.matches(path)] == []


def test_a_glob_of_many_stars_takes_no_longer():
    started = time.process_time()
    assert not PathGlob("*a" * 40 + "*b").matches("a" * 1000)
    assert time.process_time() - started < 1


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_globs_agree_with_those_of_shells(glob, path):
    assert PathGlob(glob).matches(path) == fnmatch.fnmatchcase(path, glob)


def test_bytes_that_are_no_text_resolve_nothing():
    licences = PackageLicences(COPYRIGHT.encode() + b"\xff", {}, "2026-11-25")
    assert licences.resolve("a.md", b"").spdx == "NOASSERTION"


MIT = (TEXTS_DIRECTORY / "MIT.txt").read_text()
ISC = (TEXTS_DIRECTORY / "ISC.txt").read_text()


@pytest.mark.parametrize(
    ("synopsis", "spdx"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-3", "GPL-3.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("GFDL-NIV-1.2+", "GFDL-1.2-no-invariants-or-later"),
        ("BSD-3-clause and Expat", "BSD-3-Clause AND MIT"),
        ("GPL-2+ and ISC or Expat", "(GPL-2.0-or-later AND ISC) OR MIT"),
        ("GPL-2+ or Expat, and ISC", "(GPL-2.0-or-later OR MIT) AND ISC"),
        ("MIT", "MIT"),
    ],
)
def test_names_become_spdx(synopsis, spdx):
    assert spdx_of_synopsis(synopsis, {"MIT": MIT}, {}) == (spdx, "")


@pytest.mark.parametrize(
    ("synopsis", "texts"),
    [
        ("MIT", {}),
        ("MIT/X11", {}),
        ("Expat", {"Expat": ISC}),
        ("GPL", {}),
        ("GPL-2+ with OpenSSL exception", {}),
        ("Artistic or GPL-1+", {}),
        ("public-domain", {}),
        ("", {}),
        ("Expat and", {}),
        ("Expat or Expat or", {}),
        ("(Expat", {}),
        ("Expat) OR (ISC", {}),
        ("ISC AND " * 100, {}),
    ],
)
def test_other_names_resolve_nothing_and_say_why(synopsis, texts):
    spdx, problem = spdx_of_synopsis(synopsis, texts, {})
    assert spdx == "NOASSERTION"
    assert problem


def test_the_text_beside_a_name_must_agree():
    assert "ISC" in spdx_of_synopsis("Expat", {"Expat": ISC}, {})[1]


def test_what_is_not_the_pinned_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_BACKOFF_SECONDS", 0.0)
    files = package(UPSTREAM)
    for name in files:
        if name.endswith(".asc"):
            continue
        served = {**files, name: files[name][:-1] + b"!"}
        with debian_archive(served) as (archive, _), pytest.raises(SourceError, match="sha256") as caught:
            read(files, tmp_path / name, archive)
        assert name in str(caught.value)
        with (
            debian_archive({**files, name: files[name][:-1]}) as (archive, _),
            pytest.raises(SourceError, match="bytes came"),
        ):
            read(files, tmp_path / name, archive)


def test_without_an_archive_nothing_is_fetched(tmp_path):
    with pytest.raises(SourceError, match="no Debian archive is named") as caught:
        read(package(UPSTREAM), tmp_path)
    assert "debian_archive" in caught.value.next_command


def test_a_missing_file_is_named(tmp_path):
    files = package(UPSTREAM)
    served = {name: data for name, data in files.items() if "orig" not in name}
    with debian_archive(served) as (archive, _), pytest.raises(SourceError, match="404"):
        read(files, tmp_path, archive)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Source": "other"}, "describes other"),
        ({"Version": "2.0-1"}, "describes tiny 2.0-1"),
        ({"Format": "1.0"}, "format is '1.0'"),
        ({"Checksums-Sha256": ""}, "names no archive"),
        ({"Checksums-Sha256": "\n " + "0" * 64 + " 9 ../../etc/passwd"}, "names a file"),
        ({"Checksums-Sha256": "\n " + "0" * 64 + " -9 a.tar.gz"}, "names a file"),
    ],
)
def test_descriptions_that_are_refused(changes, message, tmp_path):
    files = package(UPSTREAM)
    archives = {name: data for name, data in files.items() if name.endswith(".xz")}
    broken = lay({**archives, "tiny_1.0-1.dsc": description(archives, **changes)}, tmp_path)
    with pytest.raises(SourceError, match=message):
        read(broken, tmp_path)


def test_a_hostile_archive_is_refused(tmp_path):
    upstream = {"tiny_1.0.orig.tar.xz": lzma.compress(tar({"tiny-1.0/../../x": b"x"}))}
    files = lay({**upstream, "tiny_1.0-1.dsc": description(upstream)}, tmp_path)
    with pytest.raises(ArchiveError, match=r"'\.\.' part"):
        read(files, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"package": "Tiny"},
        {"version": "latest"},
        {"directory": "../pool"},
        {"directory": "/pool/main"},
        {"directory": "pool/../x"},
        {"dsc": {"filename": "../tiny_1.0-1.dsc", "sha256": "0" * 64, "size_bytes": 1}},
        {"dsc": {"filename": "tiny_1.0-1.dsc", "sha256": "0", "size_bytes": 1}},
        {"licence_names": {"odd": "no licence"}},
    ],
)
def test_recipes_that_pin_too_little_are_refused(changes):
    with pytest.raises(ValidationError):
        DebianSource.model_validate(source_values(package(UPSTREAM), **changes))

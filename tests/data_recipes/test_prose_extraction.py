"""Extraction: which files give documents, what the text becomes, and that nothing is ever executed."""

import unicodedata

import pytest
from corpus_fixtures import AS_OF
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.document import LicenceFinding
from data_recipes.extract import classify, extract_files, module_name
from data_recipes.reading import PartReport, ReadingLimits
from data_recipes.text import normalise

MIT = LicenceFinding("MIT", "MIT", "declared-metadata", "PKG-INFO", "0" * 64, AS_OF)


LIMITS = ReadingLimits(max_document_bytes=5000)


def extract(files, report=None):
    report = report or PartReport()
    return list(extract_files("demo", "d" * 64, sorted(files.items()), lambda path, data: MIT, LIMITS, report))


@pytest.mark.parametrize("path", ["docs/a.rst", "doc/source/b.txt", "README.md", "CHANGES.txt", "pkg/guide.rst"])
def test_documentation_is_prose(path):
    assert classify(path) == ("prose", "")


@pytest.mark.parametrize("path", ["pkg/a.py", "src/pkg/_private.py", "docs/conf.py", "pkg/testing/helpers.py"])
def test_modules_give_docstrings(path):
    assert classify(path) == ("docstrings", "")


@pytest.mark.parametrize(
    "path",
    [
        *("tests/docs.rst", "pkg/tests/test_a.py", "pkg/test_a.py", "conftest.py", "LICENSE.rst"),
        *("docs/requirements.txt", "requirements-dev.txt", "docs/api/generated/x.rst", "pkg.egg-info/SOURCES.txt"),
        *("data/words.txt", "pkg/a.c", "logo.png", "docs/licenses/MIT.txt", "docs/locale/de/a.rst"),
    ],
)  # fmt: skip
def test_other_files_give_nothing_and_say_why(path):
    kind, reason = classify(path)
    assert kind == ""
    assert reason


def test_module_documents_have_names_as_headings_and_dedented_docstrings():
    source = b'''"""Top of the module.

    Indented on purpose.
"""
raise SystemExit("never executed")

class Box:
    """A box."""

    def open(self, key: str = "k") -> bool:
        """Open the box.

        With a key.
        """

    def _hidden(self):
        """Not public."""
'''
    (document,) = extract({"src/pkg/box.py": source})
    assert document.document.path == "src/pkg/box.py#docstrings"
    assert document.document.kind == "docstrings"
    assert document.document.text.split("\n\n") == [
        "pkg.box",
        "Top of the module.",
        "Indented on purpose.",
        "pkg.box.Box",
        "A box.",
        "pkg.box.Box.open",
        "Open the box.",
        "With a key.",
        "pkg.box.Box._hidden",
        "Not public.",
    ]
    (function,) = document.functions
    assert function.qualified_name == "pkg.box.Box.open"
    assert function.signature == "(self, key: str='k') -> bool"
    assert function.summary == "Open the box."


def test_undecodable_unparsable_and_oversized_files_are_rows_with_their_rule():
    found = {
        extracted.document.path: extracted.broken
        for extracted in extract(
            {
                "docs/latin1.rst": "caf\xe9 au lait".encode("latin-1"),
                "pkg/broken.py": b"def (:\n",
                "pkg/bad.py": b'"""\xff"""',
                "pkg/nul.py": b'"""x"""\0',
                "pkg/deep.py": b"(" * 4_999,
                "docs/long.md": b"a" * 5_001,
                "pkg/long.py": b"#" * 5_001,
                "docs/good.md": "Добрый день".encode(),
            }
        )
    }
    assert found == {
        "docs/latin1.rst": "undecodable",
        "docs/long.md": "oversized",
        "pkg/long.py#docstrings": "oversized",
        "pkg/bad.py#docstrings": "undecodable",
        "pkg/broken.py#docstrings": "unparsable",
        "pkg/deep.py#docstrings": "unparsable",
        "pkg/nul.py#docstrings": "unparsable",
        "docs/good.md": "",
    }


def test_modules_without_docstrings_are_counted():
    report = PartReport()
    assert extract({"pkg/a.py": b"x = 1\n", "pkg/b.c": b"int x;"}, report) == []
    assert report.num_files == 2
    assert sum(report.skipped.values()) == 2


def test_lone_surrogates_in_docstrings_do_not_reach_the_text():
    (document,) = extract({"pkg/a.py": b'"""Half a pair \\ud800 here."""'})
    assert document.document.text == "pkg.a\n\nHalf a pair  here."


def test_normalisation_by_example():
    assert normalise("\ufeffa\r\nb\rc\x00\x1b\td  \n\n\n\ne\u2028f\n") == "a\nb\nc   d\n\ne\nf"
    assert normalise("cafe\u0301") == "caf\u00e9"
    assert normalise("日本語、ไทย हिन्दी \u200d") == "日本語、ไทย हिन्दी \u200d"


@given(st.text())
def test_normalised_text_is_clean_and_stays_as_it_is(text):
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(character) in ("Cc", "Cs") and character != "\n" for character in once)
    assert all(line == line.rstrip() for line in once.split("\n"))
    once.encode("utf-8")


@given(st.text(alphabet=st.characters(categories=("L", "N", "P"))))
def test_letters_of_all_scripts_survive(text):
    assert normalise(text) == unicodedata.normalize("NFC", text)


def test_module_names():
    assert module_name("src/pkg/sub/__init__.py") == "pkg.sub"
    assert module_name("pkg/mod.py") == "pkg.mod"
    assert module_name("lib.py") == "lib"

"""All statistics of one pass over a text, against a plain Python reading of their descriptions."""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from corpus_fixtures import prose
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plain_statistics import plain_statistics, term_of, terms_of

from data_recipes import text_kernels
from data_recipes.filters import measure
from data_recipes.text_reading import identify_language, read_text

PIECES = [
    "the", "be", "that", "of", "Use", "uses", "cookies", "terms", "privacy", "policy", "cookie", "Lorem", "ipsum",
    "JavaScript", "a", "b", "c", " ", " ", " ", "\n", "\n\n", "...", "....", "…", ".", "!", ":", "::", ".. ", ":x:",
    "- ", "• ", "#", "{", "+", "don't", "É", "e\u0301", "İ", "中", "文", "。", "か", "ไ", "\t", "\u00a0", "\x1c", "½",
    "٣", '"', "a word that is longer than all the others of this list",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=120).map("".join)
FEW_WORDS = st.lists(st.sampled_from(["x", "yy", "zzz", "\n", "\n\n", "w."]), max_size=150).map(" ".join)
FEW_CHARACTERS = st.text("中文字\n。", max_size=150)


@settings(deadline=None, max_examples=150)
@given(TEXTS | FEW_WORDS | FEW_CHARACTERS | st.text(max_size=40))
@example("")
@example("\n\n \n")
@example(".. a.b::")
@example(".. a-b:: c\n:opt: x\n:opt:x\n.. :: \n.. a:b c::")
@example("terms of use\nterms of\nuse\nuse -- cookies\nuse of cookies.")
@example("\ud800 lone")
def test_every_statistic_is_that_of_plain_python(text):
    fast = asdict(measure(text))
    for name, value in plain_statistics(text).items():
        assert fast[name] == value, name


@settings(deadline=None)
@given(TEXTS)
def test_terms_lie_where_they_are_said_to(text):
    terms = text_kernels.segment(text).terms
    found = [text[start:end] for start, end in zip(terms.starts.tolist(), terms.ends.tolist(), strict=True)]
    assert [term_of(term) for term in found] == terms_of(text)
    assert len(set(terms.hashes.tolist())) == len(set(terms_of(text)))


def test_the_tables_hold_every_code_point():
    flags, lower = text_kernels.tables()[:2]
    for code in (*range(0x20000), *range(0x20000, sys.maxunicode + 1, 97)):
        character = chr(code)
        lowered = character.lower()
        assert bool(flags[code] & text_kernels.SPACE) == character.isspace()
        assert bool(flags[code] & text_kernels.WORD) == (character.isalnum() or character == "_")
        assert lower[code] == (ord(lowered) if len(lowered) == 1 else code)


def test_a_long_text_is_read_like_a_short_one():
    """Beyond the sizes that property tests reach, tables grow and hashes meet."""
    text = "\n\n".join(prose(seed % 7, script="cyrillic" if seed % 3 == 0 else "latin") for seed in range(40))
    fast = asdict(measure(text))
    for name, value in plain_statistics(text).items():
        assert fast[name] == value, name


def test_special_tokens_are_counted():
    assert measure("a <|end|> b <|end|>", ("<|end|>", "<|pad|>")).num_special_tokens == 2


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The licence of each document is recorded with the evidence for it, and every decision is a row.", "en"),
        (
            "Die Lizenz jedes Dokuments wird mit ihrem Nachweis festgehalten, und jede Entscheidung ist eine Zeile.",
            "de",
        ),
        ("Для каждого документа записывается лицензия и её подтверждение.", "ru"),
        ("每个文件都有自己的许可证与证据，所有决定都被记录下来。", "zh"),
        ("すべての文書には、その許諾と証拠が記録されています。", "ja"),
        ("เอกสารทุกฉบับมีใบอนุญาตและหลักฐานของตัวเอง", "th"),
        ("", ""),
        ("x", ""),
        ("\x00\x01\ud800", ""),
    ],
)
def test_the_language_is_told_offline(text, language):
    code, share = identify_language(text)
    assert code == language
    assert (share > 0.8) == bool(language)


def test_reading_gives_segments_for_what_comes_after():
    reading = read_text("one two three")
    assert reading.segments.terms.hashes.dtype == np.uint64
    assert reading.statistics == measure("one two three")


KERNEL = "from data_recipes.text_kernels import compiled\n@compiled\ndef twice(x):\n    return 2 * x\n"
ASKED = """
import runpy, sys
for path in sys.argv[1:]:
    twice = runpy.run_path(path)["twice"]
    twice(3)
    print(sum(twice.stats.cache_hits.values()), sum(twice.stats.cache_misses.values()))
"""


def test_copies_of_a_source_share_its_compiled_code_and_a_changed_one_has_its_own(tmp_path):
    sources = [("here", KERNEL), ("there", KERNEL), ("changed", KERNEL.replace("2 * x", "3 * x"))]
    paths = [tmp_path / name / "kernel.py" for name, _ in sources]
    for path, (_, source) in zip(paths, sources, strict=True):
        path.parent.mkdir()
        path.write_text(source)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    asked = [sys.executable, "-c", ASKED, *map(str, paths)]
    done = subprocess.run(asked, check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["0 1", "1 0", "0 1"]


@pytest.mark.parametrize("is_kept", [True, False])
def test_compiled_code_is_kept_in_the_users_cache_and_never_beside_the_source(tmp_path, is_kept):
    source = "from data_recipes.text_kernels import compiled\n@compiled\ndef twice(x):\n    return 2 * x\ntwice(3)"
    code, home = tmp_path / "code", tmp_path / "home"
    code.mkdir()
    (code / "kernel.py").write_text(source)
    if is_kept:
        home.mkdir()
    else:
        home.touch()  # no directory can be made below it
    path = os.pathsep.join([str(code), str(Path(text_kernels.__file__).parent.parent)])
    environment = {"PYTHONPATH": path, "PATH": "", "HOME": str(home)}
    subprocess.run([sys.executable, "-B", "-c", "import kernel"], check=True, cwd=code, env=environment)
    assert sorted(code.iterdir()) == [code / "kernel.py"]
    assert len(list(home.rglob("*.nbi"))) == is_kept

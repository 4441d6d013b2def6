import hashlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from data_recipes.bpe import save_tokenizer, token_id, train_tokenizer
from data_recipes.settings import TokenizerConfig
from data_recipes.shards import TokenSequence, write_split, write_tokens_json
from data_recipes.text_index import TextIndex, open_text_index
from data_recipes.token_texts import TokenTexts, read_token_texts
from data_recipes.tokenizer_engine import LibraryEngine
from data_recipes.windows import TokenWindows
from provenance.errors import ConfigError, DataError

WORDS = ("abab", "ab", "река", "学习", "aaa", "été", "\n")
Texts = dict[str, list[tuple[str, str]]]


@pytest.fixture(scope="module")
def texts() -> Texts:
    """Key and text of the documents of each source, in key order."""
    rng = random.Random(3)
    found: Texts = {}
    for source, count in (("one", 25), ("two", 9)):
        members = [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(count)]
        found[source] = sorted((hashlib.sha256(f"{source}{n}".encode()).hexdigest(), t) for n, t in enumerate(members))
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, texts: Texts) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    every = [text for members in texts.values() for _, text in members]
    config = TokenizerConfig(vocab_size=275)
    tokenizer = train_tokenizer(every, len(every), config)
    save_tokenizer(tokenizer, config, root / "tokenizer")
    eos = token_id(tokenizer, config.special_tokens.end_of_text)
    engine = LibraryEngine(tokenizer)
    sequences = [
        TokenSequence(key, source, np.append(engine.encode([text])[0], eos))
        for source, members in texts.items()
        for key, text in members
    ]
    rows = [TokenSequence(key, "one", np.zeros(4), np.ones(4, np.uint8)) for key, _ in texts["one"]]
    splits = {
        "train": write_split(root, "train", sequences, layout="stream", width=0, dtype="u16", num_shards=2),
        "sft": write_split(root, "sft", rows, layout="rows", width=4, dtype="u16", num_shards=1),
    }
    write_tokens_json(root, splits, vocab_size=275, eos_id=eos, pad_id=1, tokenizer_sha256="0" * 64)
    return root


def built(corpus: Path, directory: Path, chunk_bytes: int = 10**6) -> TextIndex:
    windows = TokenWindows(corpus, "train", 8)
    return open_text_index(windows, texts_of(corpus), directory, chunk_bytes)


def texts_of(corpus: Path) -> TokenTexts:
    return read_token_texts(corpus / "tokenizer" / "tokenizer.json")


def places(data: bytes, wanted: bytes) -> list[int]:
    return [begin for begin in range(len(data)) if data.startswith(wanted, begin)]


@pytest.mark.parametrize("chunk_bytes", [10**6, 200, 1])
def test_every_place_is_found_and_no_other(corpus: Path, texts: Texts, tmp_path: Path, chunk_bytes: int) -> None:
    index = built(corpus, tmp_path / "index", chunk_bytes)
    assert index.size_bytes == sum(len(text.encode()) + 1 for members in texts.values() for _, text in members)
    for passage in ("ab", "aa", "река", "学", "习 été", "\n", "ab ab", "abab abab abab", "nowhere", texts["two"][0][1]):
        wanted = passage.encode()
        expected = [
            (source, number, begin)
            for source, members in texts.items()
            for number, (_, text) in enumerate(members)
            for begin in places(text.encode(), wanted)
        ]
        total, found = index.find(passage.encode(), 10**6, 5)
        assert total == len(expected)
        assert sorted((match.source, match.document, match.begin) for match in found) == sorted(expected)
        for match in found:
            text = texts[match.source][match.document][1].encode()
            assert match.before == text[max(0, match.begin - 5) : match.begin]
            assert match.after == text[match.begin + len(wanted) :][:5]
        assert index.find(passage.encode(), 2, 5)[0] == total
        assert len(index.find(passage.encode(), 2, 5)[1]) == min(2, total)


def test_an_index_is_made_once(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = built(corpus, tmp_path / "index").find("река".encode(), 3, 5)
    monkeypatch.setitem(sys.modules, "pydivsufsort", None)
    assert built(corpus, tmp_path / "index").find("река".encode(), 3, 5) == first
    with pytest.raises(ConfigError, match="pydivsufsort is not installed") as refused:
        built(corpus, tmp_path / "other")
    assert "openwright[search]" in refused.value.next_command
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_what_cannot_be_searched_is_refused(corpus: Path, tmp_path: Path) -> None:
    built(corpus, tmp_path / "index")
    with pytest.raises(DataError, match="layout 'rows'"):
        open_text_index(TokenWindows(corpus, "sft", 3), texts_of(corpus), tmp_path / "rows")
    (tmp_path / "index" / "index.json").write_text('{"format": "openwright-text-index/9", "chunks": []}')
    with pytest.raises(DataError, match="openwright-text-index/9"):
        TextIndex(tmp_path / "index")

"""What tokens stand for, for tokenizers of every kind: the text that they decode to, byte for byte."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_fixtures import ENGLISH, KEEP_ALL, KINDS, TEXTS, tokenizer_json, tokenizer_values
from tokenizers import AddedToken, Tokenizer

from data_recipes.token_texts import UNKNOWN, TokenTexts, read_token_texts
from data_recipes.tokenizer_file import unknown_id
from provenance.errors import ConfigError, DataError


def made(kind: str) -> tuple[Tokenizer, TokenTexts]:
    return Tokenizer.from_str(tokenizer_json(kind)), TokenTexts(tokenizer_values(kind))


MADE = {kind: made(kind) for kind in KINDS}
UNKNOWN_IDS = {kind: unknown_id(tokenizer_values(kind)) for kind in KINDS}


def ids_of(kind: str, text: str) -> list[int]:
    ids: list[int] = MADE[kind][0].encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("kind", KINDS)
@given(st.one_of(st.sampled_from(TEXTS), st.text(max_size=12), st.text(alphabet="ab d.\n'▁é漢", max_size=12)))
@settings(max_examples=30)
def test_texts_of_tokens_are_what_the_library_decodes(kind: str, text: str) -> None:
    tokenizer, texts = MADE[kind]
    ids = ids_of(kind, text)
    found = texts.document(ids)
    assert sum(texts.lengths(ids)) == len(found)
    if kind in KEEP_ALL:
        kept = text.replace("\u2581", " ") if kind.startswith("byte fallback") else text
        assert found == (kept.removeprefix(" ") if kind == "byte-level with a space" else kept).encode()
        return
    if kind == "byte-level with word ends":
        # Its decoder leaves the ends of words where they are; the space stands for each of them.
        decoded = tokenizer.decode(ids, skip_special_tokens=False).replace("</w>", " ")
        assert found.decode() == decoded
        return
    known = [token for token in ids if token != UNKNOWN_IDS[kind]]
    decoded = tokenizer.decode(known, skip_special_tokens=False)
    assert b"".join(found.replace(UNKNOWN, b"").split()) == "".join(decoded.split()).encode()
    if len(known) == len(ids):
        assert found.strip() == decoded.strip().encode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_passage_is_looked_for_in_the_form_that_tokens_have(kind: str) -> None:
    _, texts = MADE[kind]
    document = texts.document(ids_of(kind, ENGLISH))
    for passage in ("the documents", "don't stop", "model reads the", "spaces."):
        assert document.count(texts.normal_form(passage)) == 1, passage
    if kind != "whole words":
        assert document.count(texts.normal_form("ocuments, an")) == 1, "a passage may begin and end within words"
    with pytest.raises(ConfigError, match="an empty text"):
        texts.normal_form("")


def test_a_passage_in_other_letters_is_brought_into_the_form_of_the_tokens() -> None:
    assert MADE["word pieces"][1].normal_form("THE Model") == b"the model"
    assert MADE["unigram"][1].normal_form("Two  spaces") == b"Two spaces"
    assert MADE["byte fallback"][1].normal_form(" Two  spaces ") == b" Two  spaces "


@pytest.mark.parametrize("kind", ["word pieces", "word ends", "whole words"])
def test_what_the_vocabulary_lacks_is_never_found(kind: str) -> None:
    _, texts = MADE[kind]
    document = texts.document(ids_of(kind, "the 漢 model"))
    assert document.count(UNKNOWN) == 1
    with pytest.raises(ConfigError, match="does not know"):
        texts.normal_form("the 漢 model")


def test_special_tokens_have_no_text_and_those_that_are_spelt_are_looked_for_as_text() -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json("byte fallback"))
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens([AddedToken("漢字漢字", normalized=False)])
    texts = TokenTexts(json.loads(tokenizer.to_str()))
    assert texts.of_id[tokenizer.token_to_id("<|end|>")] == b""
    assert texts.num_bytes()[tokenizer.token_to_id("漢字漢字")] == 12
    assert texts.document(tokenizer.encode("the<|end|>model 漢字漢字").ids) == "the model 漢字漢字".encode()
    assert texts.normal_form("the<|end|>model") == b"the<|end|>model"


def test_a_decoder_that_looks_at_neighbours_is_refused() -> None:
    values = tokenizer_values("byte fallback")
    values["decoder"] = {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": False}
    with pytest.raises(DataError, match="a decoder that makes"):
        TokenTexts(values)


def test_a_tokenizer_that_leaves_nothing_of_letters_has_texts_of_tokens_all_the_same() -> None:
    values = tokenizer_values("byte-level")
    values["normalizer"] = {"type": "Replace", "pattern": {"Regex": "[a-z]"}, "content": ""}
    texts = TokenTexts(values)
    assert not texts.adds_space
    assert texts.normal_form("a B") == b" B"


def test_bytes_behind_token_ids_add_up_to_the_text(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import tiny_runs
    from transformers import AutoTokenizer

    tiny_runs.write_corpus(tmp_path)
    num_bytes = read_token_texts(tmp_path / "tokenizer" / "tokenizer.json").num_bytes()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for text in ("plain words", "学习 语言 поезд\n  καλημέρα", "🙂 tab\tend"):
        assert num_bytes[tokenizer.encode(text)].sum() == len(text.encode())
    assert num_bytes[tokenizer.convert_tokens_to_ids("<|endoftext|>")] == 0

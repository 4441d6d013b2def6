import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_recipes import tokenizer_engine, tokenizer_proof
from data_recipes.tokenizer_engine import COMPILED_NAME, LIBRARY_NAME, CompiledEngine, LibraryEngine, NotCompiled
from data_recipes.tokenizer_proof import choose_engine, difficult_texts, encode_texts, first_difference, open_engine

SPECIAL = ["<|endoftext|>", "<|pad|>", "<|user|>"]
CL100K_REGEX = next(iter(tokenizer_engine._CL100K_DIGITS))
SENTENCE = "the window reads of 123 été наука данные 学习 don't WE'LL it's foo_bar == -- (x) […] http://a.b/c?d=1&e"
WORDS = SENTENCE.split()


def texts(seed: int, count: int = 60) -> list[str]:
    rng = random.Random(seed)
    separators = (" ", " ", " ", "\n", "  ", "\n\n    ", "\t")
    return [
        "".join(rng.choice(WORDS) + rng.choice(separators) for _ in range(rng.randint(5, 80))) for _ in range(count)
    ]


def trained(pattern: str = "gpt2", *, vocab_size: int = 420, **model: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern == "cl100k":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(CL100K_REGEX), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(0), trainer)
    return tokenizer


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return trained()


@pytest.fixture(scope="module")
def cl100k() -> Tokenizer:
    """Another pattern, a normalizer, whole words before merges, and added tokens of white space."""
    tokenizer = trained("cl100k", ignore_merges=True)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in range(2, 9)])
    return tokenizer


@pytest.mark.parametrize("name", ["gpt2", "cl100k"])
def test_the_compiled_engine_is_chosen_where_all_ids_are_equal(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    corpus = texts(5)
    size_bytes = sum(len(text.encode()) for text in corpus)
    engine, choice = choose_engine(tokenizer, corpus, size_bytes, min_corpus_bytes=1, proof_bytes=10**9)
    assert (choice.engine, choice.reason) == (COMPILED_NAME, "")
    assert (choice.num_documents, choice.size_bytes) == (len(corpus), size_bytes)
    assert choice.num_cases == len(difficult_texts(tokenizer)) > 20_000
    for used in (engine, open_engine(tokenizer, choice)):
        assert used.name == COMPILED_NAME
        for text, ids in zip(corpus, encode_texts(used, corpus, batch_size=7), strict=True):
            assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids


_ENGINES: dict[str, tuple[LibraryEngine, CompiledEngine]] = {}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text() | st.text(alphabet=" \n\tab'sſ1²é漢.<|pad>"), max_size=4))
def test_any_text_has_equal_ids(some: list[str]) -> None:
    if not _ENGINES:
        tokenizer = trained("cl100k", vocab_size=300)
        _ENGINES["x"] = LibraryEngine(tokenizer), CompiledEngine(tokenizer)
    library, engine = _ENGINES["x"]
    assert first_difference(library, engine, some) is None


def test_words_that_are_too_long_go_to_the_library(gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_engine, "MAX_WORD_BYTES", 20)
    engine = CompiledEngine(gpt2)
    some = ["short <|pad|> words", "x" * 21, f"a {'b' * 19} c", f"<|pad|>{'=' * 50} it <|user|> on", "", "it's"]
    assert first_difference(LibraryEngine(gpt2), engine, some) is None


def test_a_full_table_of_words_changes_nothing(gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("_WORD_SLOTS", 16), ("_WORD_TEXT_BYTES", 40), ("_WORD_IDS", 40)):
        with monkeypatch.context() as patched:
            patched.setattr(tokenizer_engine, name, size)
            assert first_difference(LibraryEngine(gpt2), CompiledEngine(gpt2), texts(2)) is None


def other_class(engine: CompiledEngine) -> None:
    classes = engine._rules.classes.copy()
    classes[ord("é")] = tokenizer_engine.OTHER
    engine._rules = engine._rules._replace(classes=classes)


def other_rank(engine: CompiledEngine) -> None:
    used = np.flatnonzero(engine._rules.pair_keys >= 0)
    first, second = used[np.argsort(engine._rules.pair_ranks[used])][:2]
    ranks = engine._rules.pair_ranks
    ranks[first], ranks[second] = int(ranks[second]) + 10**6, int(ranks[first])


def no_added_token(engine: CompiledEngine) -> None:
    engine._heads = []


def other_pattern(engine: CompiledEngine) -> None:
    engine._rules = engine._rules._replace(pattern=tokenizer_engine.CL100K, max_digits=3)


@pytest.mark.parametrize("change", [other_class, other_rank, no_added_token, other_pattern])
def test_an_engine_that_differs_in_one_place_is_refused(
    gpt2: Tokenizer, change: Callable[[CompiledEngine], None]
) -> None:
    def changed(tokenizer: Tokenizer) -> CompiledEngine:
        engine = CompiledEngine(tokenizer)
        change(engine)
        return engine

    corpus = texts(6)
    engine, choice = choose_engine(gpt2, corpus, 10**4, min_corpus_bytes=1, make_engine=changed)
    assert engine.name == choice.engine == LIBRARY_NAME
    assert choice.reason.startswith("other ids for ")


def test_a_difference_in_one_document_of_the_corpus_is_enough(gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    class WrongOnce(CompiledEngine):
        def encode(self, some: Sequence[str]) -> list[Any]:
            return [
                ids[:-1] if text == corpus[300] else ids for text, ids in zip(some, super().encode(some), strict=True)
            ]

    monkeypatch.setattr(tokenizer_proof, "difficult_texts", lambda tokenizer: ["one case"])
    corpus = [f"document {number}" for number in range(400)]
    arguments = {"corpus_bytes": 10**4, "min_corpus_bytes": 1, "make_engine": WrongOnce}
    _, choice = choose_engine(gpt2, corpus, **arguments, proof_bytes=10**4)
    assert (choice.engine, choice.reason) == (LIBRARY_NAME, "other ids for document 300 of the corpus")
    _, choice = choose_engine(gpt2, corpus, **arguments, proof_bytes=1000)
    assert (choice.engine, choice.num_documents) == (COMPILED_NAME, 256)


def unknown_tokenizers() -> list[tuple[str, Callable[[Tokenizer], None]]]:
    def lower(tokenizer: Tokenizer) -> None:
        tokenizer.normalizer = normalizers.Lowercase()

    def prefix(tokenizer: Tokenizer) -> None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)

    def words(tokenizer: Tokenizer) -> None:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(r"\w+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )

    def whitespace(tokenizer: Tokenizer) -> None:
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    def stripping(tokenizer: Tokenizer) -> None:
        tokenizer.add_tokens([AddedToken("<mask>", lstrip=True)])

    def cut(tokenizer: Tokenizer) -> None:
        tokenizer.enable_truncation(10)

    def model(tokenizer: Tokenizer) -> None:
        tokenizer.model = models.WordLevel({"a": 0}, unk_token="a")

    return [
        ("normalizer 'Lowercase'", lower),
        ("a space before the first word", prefix),
        (r"the words of '\\\\w\+'", words),
        ("words cut by", whitespace),
        ("added tokens that take in spaces", stripping),
        ("truncation or padding", cut),
        ("a model other than BPE", model),
    ]


@pytest.mark.parametrize(("reason", "change"), unknown_tokenizers())
def test_what_the_compiled_engine_does_not_know_is_left_to_the_library(
    reason: str, change: Callable[[Tokenizer], None]
) -> None:
    tokenizer = trained(vocab_size=300)
    change(tokenizer)
    with pytest.raises(NotCompiled, match=reason):
        CompiledEngine(tokenizer)
    engine, choice = choose_engine(tokenizer, [], 10**9)
    assert engine.name == LIBRARY_NAME
    assert choice.reason.startswith("not known to the compiled engine: ")


def test_a_small_corpus_needs_no_proof(gpt2: Tokenizer) -> None:
    engine, choice = choose_engine(gpt2, texts(1), 10**6)
    assert (engine.name, choice.num_cases) == (LIBRARY_NAME, 0)
    assert "not worth a proof" in choice.reason

"""Which engine tokenizes a corpus: a faster one only where it is shown to give the same ids on the corpus itself.

What is compared: texts made to be difficult (added tokens in every place, white space, code points at the borders of
their classes, long words), and documents of the corpus up to `PROOF_BYTES`. One different id, and the library does all
of it. The choice follows from the corpus and the code, so it is the same each time; it is an observation all the same,
written to the journal: the ids are those of the library wherever they were compared.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, product

import numpy as np
from tokenizers import Tokenizer

from data_recipes.tokenizer_engine import (
    COMPILED_NAME,
    MAX_WORD_BYTES,
    CompiledEngine,
    Engine,
    LibraryEngine,
    NotCompiled,
    TokenArray,
)
from provenance.canonical import Json

PROOF_BYTES = 20_000_000
"""Text that is compared, in UTF-8 bytes; all of it where a corpus has less."""

MIN_CORPUS_BYTES = 2 * PROOF_BYTES
"""Of a smaller corpus the proof would be most of the work, which the library then does alone."""

ROUND_TRIP_BYTES = 4_000_000
"""Text that is decoded again to see whether a tokenizer made elsewhere keeps texts as they are."""

_BATCH_TEXTS = 256
_MAX_PAIRED_TOKENS = 48
_DENSE_CODE_POINTS = 0x3400
_SPARSE_STEP = 64
_CODE_POINTS = 0x110000


@dataclass(frozen=True)
class EngineChoice:
    """Which engine was chosen, and on what evidence.

    Attributes:
        engine: name of the engine.
        reason: why it is the library; empty for a faster engine.
        num_documents: documents whose ids were compared and equal.
        size_bytes: their UTF-8 bytes.
        num_cases: difficult texts whose ids were compared and equal.
    """

    engine: str
    reason: str
    num_documents: int = 0
    size_bytes: int = 0
    num_cases: int = 0

    def as_json(self) -> dict[str, Json]:
        """The fields of the journal's note."""
        return asdict(self)


def choose_engine(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    corpus_bytes: int,
    *,
    min_corpus_bytes: int = MIN_CORPUS_BYTES,
    proof_bytes: int = PROOF_BYTES,
    make_engine: Callable[[Tokenizer], Engine] = CompiledEngine,
) -> tuple[Engine, EngineChoice]:
    """Choose the engine for a corpus.

    Args:
        tokenizer: the tokenizer.
        texts: kept documents in document id order, which is a random one; as many are taken as the proof needs.
        corpus_bytes: UTF-8 bytes of all kept documents.
        min_corpus_bytes: corpora below are left to the library.
        proof_bytes: text to compare.
        make_engine: makes the faster engine.
    """
    library = LibraryEngine(tokenizer)
    if corpus_bytes < min_corpus_bytes:
        return library, EngineChoice(library.name, f"a corpus below {min_corpus_bytes:,} bytes is not worth a proof")
    try:
        engine = make_engine(tokenizer)
    except NotCompiled as error:
        return library, EngineChoice(library.name, f"not known to the compiled engine: {error}")
    cases = difficult_texts(tokenizer)
    difference = first_difference(library, engine, cases)
    if difference is not None:
        return library, EngineChoice(library.name, f"other ids for {cases[difference]!r}")
    num_documents = size_bytes = 0
    remaining = iter(texts)
    while size_bytes < proof_bytes and (batch := list(islice(remaining, _BATCH_TEXTS))):
        difference = first_difference(library, engine, batch)
        if difference is not None:
            reason = f"other ids for document {num_documents + difference} of the corpus"
            return library, EngineChoice(library.name, reason, num_documents, size_bytes, len(cases))
        num_documents += len(batch)
        size_bytes += sum(len(text.encode()) for text in batch)
    assert size_bytes >= min(proof_bytes, corpus_bytes), "fewer texts than the corpus has"
    return engine, EngineChoice(engine.name, "", num_documents, size_bytes, len(cases))


def round_trip(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, Json]:
    """How much of the first texts, up to `ROUND_TRIP_BYTES`, comes back from their tokens as it was.

    Returns:
        `{num_documents, num_equal, size_bytes, num_tokens}`.
    """
    counts = {"num_documents": 0, "num_equal": 0, "size_bytes": 0, "num_tokens": 0}
    library, remaining = LibraryEngine(tokenizer), iter(texts)
    while counts["size_bytes"] < ROUND_TRIP_BYTES and (batch := list(islice(remaining, _BATCH_TEXTS))):
        encoded = [ids.tolist() for ids in library.encode(batch)]
        decoded = tokenizer.decode_batch(encoded, skip_special_tokens=False)
        counts["num_documents"] += len(batch)
        counts["num_equal"] += sum(map(str.__eq__, batch, decoded))
        counts["size_bytes"] += sum(len(text.encode()) for text in batch)
        counts["num_tokens"] += sum(map(len, encoded))
    return {**counts}


def open_engine(tokenizer: Tokenizer, choice: EngineChoice) -> Engine:
    """The chosen engine again, as in another process of the same build; the proof is not repeated."""
    return CompiledEngine(tokenizer) if choice.engine == COMPILED_NAME else LibraryEngine(tokenizer)


def first_difference(library: Engine, engine: Engine, texts: Sequence[str]) -> int | None:
    """Number of the first text of which an engine gives other ids than the library, or None."""
    for begin in range(0, len(texts), _BATCH_TEXTS):
        batch = texts[begin : begin + _BATCH_TEXTS]
        for number, (expected, found) in enumerate(zip(library.encode(batch), engine.encode(batch), strict=True)):
            if not np.array_equal(expected, found):
                return begin + number
    return None


def encode_texts(engine: Engine, texts: Iterable[str], batch_size: int = _BATCH_TEXTS) -> Iterator[TokenArray]:
    """Yield the token ids of each text, in order, without special tokens added."""
    remaining = iter(texts)
    while batch := list(islice(remaining, batch_size)):
        yield from engine.encode(batch)


def difficult_texts(tokenizer: Tokenizer) -> list[str]:
    """Texts in which engines are likely to differ, added tokens of this tokenizer among them."""
    added = sorted(token.content for token in tokenizer.get_added_tokens_decoder().values())
    texts = [*_added_token_texts(added), *_space_texts(), *_word_texts()]
    codes = [*range(_DENSE_CODE_POINTS), *range(_DENSE_CODE_POINTS, _CODE_POINTS, _SPARSE_STEP), *_category_borders()]
    for code in dict.fromkeys(codes):
        if not 0xD800 <= code < 0xE000:
            texts.append(f"a{chr(code)}a {chr(code)}1'{chr(code)} \n{chr(code)}{chr(code)}.")
    return texts


def _added_token_texts(added: Sequence[str]) -> Iterator[str]:
    for token in added:
        for before, after in product(("", "a", " ", "\n", "é", "'"), ("", "a", " ", "\n", "s", ".")):
            yield f"{before}{token}{after}"
        yield f"one{token}{token} {token}two {token[:-1]} {token[1:]}{token[:-1]}{token}{token[-1]}"
    for left, right in product(added[:_MAX_PAIRED_TOKENS], repeat=2):
        yield f"{left}{right}x{left} {right}"


def _space_texts() -> Iterator[str]:
    spaces = (" ", "\n", "\t", "\r\n", "\u00a0", "\u2028", "\u3000")
    for count in range(1, 40):
        for space in spaces:
            yield f"{space * count}"
            yield f"a{space * count}b{space * count}1{space * count}.{space * count}"
    for first, second, third in product(spaces, repeat=3):
        yield f"x{first}{second}{third}y {first}{second}{third}7{first}{second}{third}!{first}{second}{third}"


def _word_texts() -> Iterator[str]:
    for ending, before in product(
        ("s", "t", "re", "ve", "m", "ll", "d", "l", "r", "x", "\u017f"), ("it", "", " ", "1")
    ):
        for written in (ending, ending.upper(), ending.title()):
            yield f"{before}'{written} {before}\u2019{written}{before}'{written}a ''{written}"
    for count in range(1, 12):
        yield f"{'1' * count} {'٣' * count}a{'²' * count} a{'1' * count}b -{'9' * count}.{'!' * count}\n"
    for size in (60, 64, 65, 255, 1000, MAX_WORD_BYTES - 1, MAX_WORD_BYTES, MAX_WORD_BYTES + 1, 3 * MAX_WORD_BYTES):
        yield f"x {'ab' * (size // 2)} y {'=' * size} {'漢' * (size // 3)} {'z' * size}"
    for form in ("NFC", "NFD"):
        yield unicodedata.normalize(form, "café Ångström ệ 각 ﬁ Ω K")
    yield "👩‍👩‍👧‍👦 🇩🇪 e\u0301\u0323 \u0000 \ufeff \ufffd \U0010ffff"


def _category_borders() -> Iterator[int]:
    """Code points where Unicode's major category changes, on both sides."""
    last = ""
    for code in range(_DENSE_CODE_POINTS, _CODE_POINTS):
        category = unicodedata.category(chr(code))[0]
        if category != last:
            yield from (code - 1, code)
            last = category

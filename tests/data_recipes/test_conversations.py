"""Conversations from documented functions, and the labels of their rows."""

import pytest
from corpus_fixtures import prose
from transformers import AutoTokenizer

from data_recipes.bpe import save_tokenizer, train_tokenizer
from data_recipes.conversations import (
    QUESTIONS,
    Conversation,
    check_labels,
    encode_conversations,
    is_sentence,
    make_conversations,
    unfit_reason,
)
from data_recipes.document import DocumentedFunction
from data_recipes.documents import KeptDocument
from data_recipes.settings import ConversationConfig, SpecialTokens, TokenizerConfig
from provenance.errors import DataError

CONFIG = ConversationConfig(window_tokens=63)
SPECIAL = SpecialTokens()
TEXTS = [prose(1), prose(2, script="cyrillic")]


def document(number, split="train"):
    return KeptDocument(f"{number:064x}", "src", "MIT", split)


def function(name="pkg.f", summary="Return the answer to everything.", signature="(x)"):
    return DocumentedFunction(name, signature, summary)


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    config = TokenizerConfig(vocab_size=330)
    save_tokenizer(train_tokenizer(TEXTS, len(TEXTS), config), config, directory)
    return directory


@pytest.fixture
def tokenizer(tokenizer_dir):
    return AutoTokenizer.from_pretrained(tokenizer_dir)


def conversations(*functions):
    return make_conversations([(document(0), functions)], CONFIG, SPECIAL).kept


@pytest.mark.parametrize(
    "text", ["Return the sum of all.", "Открывает файл для чтения.", "打开一个文件供读取。", "Is it open?"]
)
def test_sentences(text):
    assert is_sentence(text)


@pytest.mark.parametrize(
    "text", ["", "return x.", "Return the sum", ">>> f(1).", "f(x) -> y", "Example::", ":param x: y.", "The code::."]
)
def test_what_is_not_a_sentence(text):
    assert not is_sentence(text)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (function(summary="returns nothing much at all"), "not a sentence"),
        (function(summary="Too short."), "too short"),
        (function(summary="Very long. " * 60 + "End."), "too long"),
        (function(signature="(" + "x" * 200 + ")"), "signature too long"),
        (function(signature="(stop='<|end|>')"), "special token"),
    ],
)
def test_unfit_functions_say_why(bad, reason):
    assert reason in unfit_reason(bad, CONFIG, SPECIAL)
    made = make_conversations([(document(0), [bad, function()])], CONFIG, SPECIAL)
    assert len(made.kept) == 1
    assert sum(made.dropped.values()) == 1
    assert made.num_functions == 2


def test_a_conversation_asks_about_the_function_and_answers_with_its_summary():
    (made,) = conversations(function("pkg.mod.f", "Return the whole answer.", "(a, *, b=1) -> int"))
    asked, answered = made.messages
    assert asked["content"] in [text.format(name="pkg.mod.f", signature="(a, *, b=1) -> int") for text in QUESTIONS]
    assert answered == {"role": "assistant", "content": "Return the whole answer."}
    assert made.licence == "MIT"


def test_all_wordings_occur():
    made = conversations(*(function(f"pkg.f{number}", f"Return the answer number {number}.") for number in range(60)))
    starts = {conversation.messages[0]["content"].split("`")[0] for conversation in made}
    assert starts == {text.split("`")[0] for text in QUESTIONS}


def test_one_summary_gives_one_conversation_and_held_out_comes_first():
    pairs = [
        (document(0), [function("a.f")]),
        (document(1, "heldout"), [function("b.g")]),
        (document(2), [function("c.h")]),
    ]
    made = make_conversations(pairs, CONFIG, SPECIAL)
    assert [conversation.split for conversation in made.kept] == ["heldout"]
    assert made.dropped == {"same summary as another function": 2}
    assert make_conversations(pairs[::-1], CONFIG, SPECIAL).kept == made.kept


def test_labels_cover_the_answer_and_its_end_alone(tokenizer):
    made = conversations(function("pkg.é", "Renvoie déjà le résultat attendu.", "()"))
    (encoded,) = encode_conversations(made, tokenizer, SPECIAL, 128).rows
    trained = encoded.ids[encoded.mask == 1]
    assert tokenizer.decode(trained.tolist()) == "Renvoie déjà le résultat attendu.<|end|>"
    assert len(encoded.ids) == len(encoded.mask) == 128
    assert encoded.mask[0] == 0
    padding = encoded.ids == tokenizer.pad_token_id
    assert not encoded.mask[padding].any()
    assert padding.any()


def test_too_long_conversations_are_dropped_and_counted(tokenizer):
    short, long = function("a.f"), function("b.f", "Return " + "very " * 60 + "much.")
    encoded = encode_conversations(conversations(short, long), tokenizer, SPECIAL, 80)
    report = encoded.report(80)
    assert report["num_rows"] == 1
    assert report["num_dropped_too_long"] == 1
    assert report["num_trained_tokens"] == int(encoded.rows[0].mask.sum())
    assert report["trained_share_ppm"] == 1_000_000 * report["num_trained_tokens"] // 80


def test_a_template_without_generation_markers_is_refused(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"
    with pytest.raises(DataError, match="marks no generated text"):
        encode_conversations(conversations(function()), tokenizer, SPECIAL, 80)


def test_a_template_whose_answer_does_not_stop_is_refused(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}<|user|>{% generation %}{{ m['content'] }}{% endgeneration %}<|end|>{% endfor %}"
    )
    with pytest.raises(DataError, match="stop token"):
        encode_conversations(conversations(function()), tokenizer, SPECIAL, 80)


def test_a_stop_token_that_pads_is_refused(tokenizer):
    same = SPECIAL.model_copy(update={"pad": SPECIAL.end})
    with pytest.raises(DataError, match="padding"):
        encode_conversations(conversations(function()), tokenizer, same, 80)


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0], [0, 1, 0, 1]])
def test_wrong_labels_are_refused(labels):
    check_labels([2, 5, 6, 4], [0, 1, 1, 1], 4, "here")
    with pytest.raises(DataError):
        check_labels([2, 5, 6, 4], labels, 4, "here")


def test_ids_name_document_and_function():
    first = Conversation("d", "s", "MIT", "train", function())
    others = [
        Conversation("e", "s", "MIT", "train", function()),
        Conversation("d", "s", "MIT", "train", function(name="pkg.g")),
        Conversation("d", "s", "MIT", "train", function(signature="()")),
        Conversation("d", "s", "MIT", "train", function(summary="Another answer it is.")),
    ]
    assert len({first.conversation_id, *(other.conversation_id for other in others)}) == 5


def test_packed_rows_hold_the_same_conversations_with_less_padding(tokenizer):
    found = conversations(*(function(f"pkg.f{n}", f"Return the answer number {n} to everything.") for n in range(12)))
    width = CONFIG.window_tokens * 4 + 1
    alone = encode_conversations(found, tokenizer, SPECIAL, width)
    packed = encode_conversations(found, tokenizer, SPECIAL, width, "best-fit")
    assert packed.row_keys.keys() == alone.row_keys.keys() == {c.conversation_id for c in found}
    assert set(packed.row_keys.values()) == {row.key for row in packed.rows}
    assert len(packed.rows) < len(alone.rows)
    assert packed.num_trained_tokens == alone.num_trained_tokens
    assert packed.num_padding_tokens < alone.num_padding_tokens / 2
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    whole = {tuple(row.ids[row.ids != pad].tolist()) for row in alone.rows}
    parts = [part for row in packed.rows for part in _parts(row.ids[row.ids != pad].tolist(), eos)]
    assert sorted(parts) == sorted(whole)


def _parts(ids, eos):
    """The pieces that end with a token, without it."""
    found, begin = [], 0
    for place, token in enumerate(ids):
        if token == eos:
            found.append(tuple(ids[begin:place]))
            begin = place + 1
    return found

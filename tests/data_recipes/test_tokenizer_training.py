"""The tokenizer: the same bytes on every run and thread count, and files that `AutoTokenizer` loads."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpus_fixtures import module, prose
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data_recipes.bpe import chat_template, encode_texts, save_tokenizer, token_id, train_tokenizer
from data_recipes.settings import SpecialTokens, TokenizerConfig
from provenance.errors import DataError

CONFIG = TokenizerConfig(vocab_size=400)
TEXTS = [prose(1), prose(2, script="cyrillic"), module(3), "模型的权重和数据都是公开的。" * 4]
TALK = [
    {"role": "user", "content": "What does `f` do?"},
    {"role": "assistant", "content": "It répond à tout.\n\n好"},
    {"role": "user", "content": " And g? "},
    {"role": "assistant", "content": "Nothing."},
]

TRAIN_IN_SUBPROCESS = """
import random, sys
from pathlib import Path
from data_recipes.bpe import save_tokenizer, train_tokenizer
from data_recipes.settings import TokenizerConfig
rng = random.Random(5)
alphabet = "abcdefgh дежз 模型 \\n"
texts = ["".join(rng.choice(alphabet) for _ in range(400)) for _ in range(400)]
config = TokenizerConfig(vocab_size=1500)
save_tokenizer(train_tokenizer(texts, len(texts), config), config, Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, len(TEXTS), CONFIG)


@pytest.fixture(scope="module")
def loaded(tokenizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, CONFIG, directory)
    return AutoTokenizer.from_pretrained(directory)


def digests(directory):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def test_bytes_do_not_depend_on_threads_or_hash_seed(tmp_path):
    settings = [
        {"RAYON_NUM_THREADS": "1"},
        {"RAYON_NUM_THREADS": "2", "PYTHONHASHSEED": "1"},
        {"RAYON_NUM_THREADS": "5", "PYTHONHASHSEED": "2"},
        {"TOKENIZERS_PARALLELISM": "false"},
    ]
    root = Path(__file__).resolve().parent.parent.parent
    found = []
    for number, variables in enumerate(settings):
        target = tmp_path / str(number)
        environment = {**os.environ, **variables, "PYTHONPATH": str(root)}
        subprocess.run([sys.executable, "-c", TRAIN_IN_SUBPROCESS, str(target)], env=environment, check=True)
        found.append(digests(target))
    assert set(found[0]) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert all(other == found[0] for other in found)


def test_other_texts_give_another_tokenizer(tokenizer):
    assert train_tokenizer([prose(9), *TEXTS[1:]], len(TEXTS), CONFIG).to_str() != tokenizer.to_str()


@given(st.text())
def test_any_text_survives_encoding(text):
    tokenizer = test_any_text_survives_encoding.tokenizer
    (ids,) = encode_texts(tokenizer, [text])
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


test_any_text_survives_encoding.tokenizer = train_tokenizer(TEXTS, len(TEXTS), CONFIG)


def test_batches_do_not_change_ids(tokenizer):
    assert list(encode_texts(tokenizer, TEXTS * 3, batch_size=2)) == list(encode_texts(tokenizer, TEXTS * 3))


def test_special_tokens_come_first_and_are_single(tokenizer):
    special = SpecialTokens().in_order()
    assert [token_id(tokenizer, token) for token in special] == [0, 1, 2, 3, 4]
    assert list(encode_texts(tokenizer, ["".join(special)])) == [[0, 1, 2, 3, 4]]


def test_auto_tokenizer_agrees_and_adds_nothing(tokenizer, loaded):
    for text in TEXTS:
        assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
    assert loaded.eos_token == "<|endoftext|>"
    assert loaded.pad_token == "<|pad|>"
    assert loaded.bos_token is None
    assert len(loaded) == CONFIG.vocab_size


def test_chat_template_marks_what_the_assistant_says(loaded):
    assert loaded.apply_chat_template(TALK, tokenize=False) == (
        "<|user|>What does `f` do?<|end|><|assistant|>It répond à tout.\n\n好<|end|>"
        "<|user|> And g? <|end|><|assistant|>Nothing.<|end|>"
    )
    rendered = loaded.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    labels = rendered["assistant_masks"]
    trained = [token for token, label in zip(rendered["input_ids"], labels, strict=True) if label]
    assert loaded.decode(trained) == "It répond à tout.\n\n好<|end|>Nothing.<|end|>"


def test_generation_prompt_opens_the_answer(loaded):
    text = loaded.apply_chat_template(TALK[:1], tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|end|><|assistant|>")


def test_template_knows_no_clock_and_no_other_role(loaded):
    assert "strftime" not in chat_template(CONFIG)
    assert "date" not in chat_template(CONFIG)
    with pytest.raises(Exception, match="roles user and assistant"):
        loaded.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


def test_a_vocabulary_that_the_text_cannot_fill_is_refused():
    with pytest.raises(DataError, match="vocabulary of"):
        train_tokenizer(["short text"], 1, TokenizerConfig(vocab_size=50_000))

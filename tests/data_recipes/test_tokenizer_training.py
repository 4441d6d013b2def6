"""The tokenizer: the same bytes on every run and thread count, and files that `AutoTokenizer` loads."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpus_fixtures import module, prose
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizer_fixtures import KINDS, tokenizer_json
from tokenizer_fixtures import TEXTS as ALL_KINDS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from data_recipes.bpe import (
    chat_template,
    num_ids,
    save_tokenizer,
    special_tokens_of,
    take_tokenizer,
    token_id,
    train_tokenizer,
    unknown_token_id,
)
from data_recipes.settings import ExecutionConfig, SpecialTokens, TokenizerConfig
from data_recipes.tokenizer_engine import LibraryEngine
from data_recipes.tokenizer_proof import encode_texts
from provenance.digests import sha256_file
from provenance.errors import DataError, SourceError

CONFIG = TokenizerConfig(vocab_size=400)
TEXTS = [prose(1), prose(2, script="cyrillic"), module(3), "模型的权重和数据都是公开的。" * 4]
TALK = [
    {"role": "user", "content": "What does `f` do?"},
    {"role": "assistant", "content": "It répond à tout.\n\n好"},
    {"role": "user", "content": " And g? "},
    {"role": "assistant", "content": "Nothing."},
]

PADDING = {
    "strategy": "BatchLongest",
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<s>",
}

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
    (ids,) = encode_texts(LibraryEngine(tokenizer), [text])
    assert tokenizer.decode(ids.tolist(), skip_special_tokens=False) == text


test_any_text_survives_encoding.tokenizer = train_tokenizer(TEXTS, len(TEXTS), CONFIG)


def test_batches_do_not_change_ids(tokenizer):
    engine = LibraryEngine(tokenizer)
    batches = [list(encode_texts(engine, TEXTS * 3, batch_size=size)) for size in (2, 256)]
    assert [ids.tolist() for ids in batches[0]] == [ids.tolist() for ids in batches[1]]


def test_special_tokens_come_first_and_are_single(tokenizer):
    special = SpecialTokens().in_order()
    assert [token_id(tokenizer, token) for token in special] == [0, 1, 2, 3, 4]
    assert tokenizer.encode("".join(special)).ids == [0, 1, 2, 3, 4]


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


def foreign_file(directory, change=lambda values: None):
    """A tokenizer made elsewhere: a template that adds a token, other special tokens; returns its config."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    values = json.loads(tokenizer.to_str())
    change(values)
    path = directory / "elsewhere.json"
    path.write_text(json.dumps(values))
    return {"file": {"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}, "vocab_size": 304}


def test_a_tokenizer_made_elsewhere_is_taken(tmp_path):
    config = TokenizerConfig.model_validate(foreign_file(tmp_path))
    taken = take_tokenizer(config, ExecutionConfig(data_dir=tmp_path))
    assert num_ids(taken) == taken.get_vocab_size() == 304
    assert special_tokens_of(taken) == ("<s>", "<|assistant|>", "<|endoftext|>", "<|end|>", "<|pad|>", "<|user|>")
    assert token_id(taken, "<|endoftext|>") == 1
    given = Tokenizer.from_file(str(tmp_path / "elsewhere.json"))
    assert given.encode(TEXTS[0]).ids == [0, *taken.encode(TEXTS[0]).ids]
    save_tokenizer(taken, config, tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(TEXTS[0])["input_ids"] == taken.encode(TEXTS[0]).ids


def set_key(*keys, value):
    def change(values):
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


def without_letter(letter):
    """Take the piece of one byte out of the vocabulary: texts would lose it unseen."""

    def change(values):
        model = values["model"]
        model["vocab"][letter + "\u0120\u0120"] = model["vocab"].pop(letter)
        model["merges"] = [merge for merge in model["merges"] if letter not in "".join(merge)]

    return change


def only_written_as_bytes(values):
    """Nothing turns texts into the bytes that the vocabulary holds: spaces are lost."""
    values["decoder"], values["pre_tokenizer"] = json.loads(decoders.ByteLevel().__getstate__()), None


def with_gaps(values):
    """Ids from 10 on: the library would give the special tokens of the recipe the ids of pieces."""
    vocab = values["model"]["vocab"]
    values["model"]["vocab"] = {piece: number + 10 for piece, number in vocab.items()}
    values["added_tokens"] = [token | {"id": token["id"] + 10} for token in values["added_tokens"]]


def unknown_as_end(values):
    without_letter("\u0120")(values)
    values["model"]["unk_token"] = "<|endoftext|>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_key("model", "type", value="Tables"), "no tokenizer that is known"),
        (set_key("model", value=None), "no tokenizer that is known"),
        (set_key("model", "merges", value=[["x", "no such piece"]]), "no tokenizer: "),
        (set_key("padding", value=PADDING), "truncation or padding"),
        (set_key("model", "dropout", value=0.1), "other tokens each time"),
        (set_key("model", "vocab", value=None), "no tokenizer: "),
        (set_key("model", "vocab", value=[1, 2]), "no tokenizer: "),
        (without_letter("\u0120"), "no unknown token: what the vocabulary lacks"),
        (only_written_as_bytes, "no unknown token: what the vocabulary lacks"),
        (set_key("model", "vocab", "x", value=2**32 - 100), f"has {2**32 - 99} ids"),  # no table of that size is made
        (with_gaps, "share the id 30"),
        (unknown_as_end, "is also the unknown token"),
    ],
)
def test_a_tokenizer_that_loses_texts_is_refused(tmp_path, change, message):
    config = TokenizerConfig.model_validate(foreign_file(tmp_path, change))
    with pytest.raises(DataError, match=message):
        take_tokenizer(config, ExecutionConfig(data_dir=tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_of_every_kind_are_taken_and_loaded_as_they_are(tmp_path, kind):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(kind))
    given = Tokenizer.from_str(tokenizer_json(kind))
    values = {"path": "tokenizer.json", "sha256": sha256_file(tmp_path / "tokenizer.json")}
    config = TokenizerConfig.model_validate({"file": values, "vocab_size": given.get_vocab_size() + 5})
    taken = take_tokenizer(config, ExecutionConfig(data_dir=tmp_path))
    save_tokenizer(taken, config, tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    unknown = unknown_token_id(taken)
    assert (unknown is None) == kind.startswith("byte")
    assert loaded.unk_token_id == unknown
    for text in (*ALL_KINDS, " two  spaces ", "a<|end|>b"):
        ids = taken.encode(text).ids
        assert loaded(text)["input_ids"] == ids
        assert loaded.decode(ids) == taken.decode(ids, skip_special_tokens=False)
    rendered = loaded.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    spans = "".join(map(str, rendered["assistant_masks"])).split("0")
    ended = [span for span in spans if span]
    assert [len(span) > 1 for span in ended] == [True, True], "both answers are trained"
    ends = [at for at, token in enumerate(rendered["input_ids"]) if token == loaded.convert_tokens_to_ids("<|end|>")]
    assert [rendered["assistant_masks"][at] for at in ends] == [0, 1, 0, 1]


def test_a_trained_vocabulary_holds_all_bytes_and_a_taken_one_may_be_smaller():
    with pytest.raises(ValidationError, match="at least 261"):
        TokenizerConfig(vocab_size=260)
    assert (
        TokenizerConfig.model_validate({"vocab_size": 30, "file": {"path": "a", "sha256": "0" * 64}}).vocab_size == 30
    )


def test_a_tokenizer_file_is_the_pinned_one_and_of_the_size_that_the_recipe_says(tmp_path):
    values, execution = foreign_file(tmp_path), ExecutionConfig(data_dir=tmp_path)
    with pytest.raises(DataError, match="304 ids") as refused:
        take_tokenizer(TokenizerConfig.model_validate(values | {"vocab_size": 300}), execution)
    assert refused.value.next_command == "set tokenizer.vocab_size to 304"
    with pytest.raises(SourceError, match="no file"):
        take_tokenizer(TokenizerConfig.model_validate(values), ExecutionConfig(data_dir=tmp_path / "nowhere"))
    (tmp_path / "elsewhere.json").write_text("{}")
    with pytest.raises(SourceError, match="sha256"):
        take_tokenizer(TokenizerConfig.model_validate(values), execution)

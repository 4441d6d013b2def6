"""The tokenizer: trained on the corpus, byte-level BPE, or any from a file, in the form that `AutoTokenizer` loads."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_recipes.local_files import pinned_file
from data_recipes.settings import ExecutionConfig, TakenTokenizer, TokenizerConfig
from data_recipes.token_texts import TokenTexts
from data_recipes.tokenizer_file import check_keeps_texts, check_tokenizer_kind, unknown_id
from provenance.canonical import Json, read_json, write_json
from provenance.errors import DataError

TOKENIZER_DIR = "tokenizer"
MIN_PAIR_FREQUENCY = 2

# The loss of fine-tuning covers what stands between the generation markers: the answer and its end token.
_TURNS = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- '@user@' + message['content'] + '@end@' -}}
{%- elif message['role'] == 'assistant' -%}
{{- '@assistant@' -}}
{%- generation -%}
{{- message['content'] + '@end@' -}}
{%- endgeneration -%}
{%- else -%}
{{- raise_exception('this template knows the roles user and assistant, not ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '@assistant@' -}}
{%- endif -%}
"""
CHAT_TEMPLATES = {"turns": _TURNS}
"""Chat templates by name; `@user@`, `@assistant@` and `@end@` stand for the special tokens."""


def train_tokenizer(texts: Iterable[str], num_texts: int, config: TokenizerConfig) -> Tokenizer:
    """Train a byte-level BPE tokenizer; the same texts give the same tokenizer at any number of threads.

    Args:
        texts: training texts.
        num_texts: how many there are.
        config: vocabulary size and special tokens.

    Raises:
        DataError: when the texts hold too few different pairs for the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=MIN_PAIR_FREQUENCY,
        special_tokens=list(config.special_tokens.in_order()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=config.max_token_length,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer, length=num_texts)
    found = tokenizer.get_vocab_size()
    if found != config.vocab_size:
        raise DataError(
            f"the corpus gives a vocabulary of {found} tokens",
            expected=f"tokenizer.vocab_size {config.vocab_size}",
            next_command=f"set tokenizer.vocab_size to {found} or less, or add sources",
        )
    return tokenizer


def taken_path(file: TakenTokenizer, execution: ExecutionConfig) -> Path:
    """Return where the tokenizer of a recipe lies, once it is seen to be the pinned one.

    Raises:
        SourceError: when the file is missing, or another one.
    """
    place = execution.tokenizer_file or execution.data_dir / file.path
    return pinned_file(place.expanduser(), file.sha256, "tokenizer.file", "a tokenizer.json")


def take_tokenizer(config: TokenizerConfig, execution: ExecutionConfig) -> Tokenizer:
    """Take the tokenizer of a file: with special tokens that it lacks, without what would add tokens to a text.

    Args:
        config: names the file, by path and digest.
        execution: says where it lies.

    Raises:
        SourceError: when the file is missing, or another one.
        DataError: when it would lose text unseen, cannot be read, or has another size than the config says.
    """
    assert config.file is not None
    path = taken_path(config.file, execution)
    values = read_json(path)
    check_tokenizer_kind(values, path)
    tokenizer = _without_template(values, path)
    check_keeps_texts(values, path)
    special = set(special_tokens_of(tokenizer))
    tokenizer.add_special_tokens([token for token in config.special_tokens.in_order() if token not in special])
    _check_ids_differ(tokenizer, path)
    size = num_ids(tokenizer)
    if size != config.vocab_size:
        raise DataError(
            f"the tokenizer has {size} ids, special tokens included",
            expected=f"tokenizer.vocab_size {config.vocab_size}",
            where=str(path),
            next_command=f"set tokenizer.vocab_size to {size}",
        )
    if unknown_id(values) == token_id(tokenizer, config.special_tokens.end_of_text):
        raise DataError(
            f"{config.special_tokens.end_of_text!r} is also the unknown token",
            expected="an end of text that no character of a text becomes",
            where=str(path),
            next_command="name another token as tokenizer.special_tokens.end_of_text",
        )
    return tokenizer


def check_tokenizer(config: TokenizerConfig, execution: ExecutionConfig) -> None:
    """See, once for a build, that the tokenizer of a file can be taken and that every token has a text.

    Raises:
        SourceError, DataError: as `take_tokenizer`; DataError for a decoder that puts no texts of tokens together.
    """
    take_tokenizer(config, execution)
    assert config.file is not None
    TokenTexts(read_json(taken_path(config.file, execution)))


def _check_ids_differ(tokenizer: Tokenizer, path: Path) -> None:
    """Refuse tokens that share an id: the library numbers new ones from the number of pieces, gaps in ids or not."""
    tokens: dict[int, str] = {}
    for token, number in sorted(tokenizer.get_vocab().items()):
        other = tokens.setdefault(number, token)
        if other != token:
            raise DataError(
                f"{other!r} and {token!r} share the id {number}",
                expected="an id for each token, and none left out where the special tokens of the recipe are added",
                where=str(path),
                next_command="put the special tokens into model.vocab of the file, with ids that nothing else has",
            )


def _without_template(values: Json, path: Path) -> Tokenizer:
    """The tokenizer of a file, less a template that would put tokens before each text, which shards hold as it is."""
    try:
        return Tokenizer.from_str(json.dumps({**values, "post_processor": None}))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"no tokenizer: {error}", expected="a tokenizer.json", where=str(path)) from None


def special_tokens_of(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Every string that a tokenizer reads as a control token, sorted."""
    added = tokenizer.get_added_tokens_decoder().values()
    return tuple(sorted(token.content for token in added if token.special))


def unknown_token_id(tokenizer: Tokenizer) -> int | None:
    """The id that stands for whatever the vocabulary lacks; None where it lacks nothing."""
    return unknown_id(json.loads(tokenizer.to_str()))


def num_ids(tokenizer: Tokenizer) -> int:
    """One more than the largest id: ids may have gaps."""
    return int(max(tokenizer.get_vocab().values())) + 1


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token that the vocabulary is known to hold."""
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return int(found)


def chat_template(config: TokenizerConfig) -> str:
    """Return the Jinja chat template that a config names, with its special tokens filled in."""
    special = config.special_tokens
    template = CHAT_TEMPLATES[config.chat_template]
    for name in ("user", "assistant", "end"):
        template = template.replace(f"@{name}@", _jinja_string(getattr(special, name)))
    return template


def _jinja_string(token: str) -> str:
    return token.replace("\\", "\\\\").replace("'", "\\'")


def save_tokenizer(tokenizer: Tokenizer, config: TokenizerConfig, directory: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`."""
    directory.mkdir(parents=True, exist_ok=True)
    special, unknown = config.special_tokens, unknown_token_id(tokenizer)
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(chat_template(config), encoding="utf-8")
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": special.end_of_text,
            **({} if unknown is None else {"unk_token": tokenizer.id_to_token(unknown)}),
            "pad_token": special.pad,
            "extra_special_tokens": [special.user, special.assistant, special.end],
            "clean_up_tokenization_spaces": False,
            "add_bos_token": False,
            "add_eos_token": False,
        },
    )

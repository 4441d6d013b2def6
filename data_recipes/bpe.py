"""The tokenizer: byte-level BPE, trained on the corpus itself, with the files that `AutoTokenizer` loads."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_recipes.settings import TokenizerConfig
from provenance.canonical import write_json
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
    special = config.special_tokens
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(chat_template(config), encoding="utf-8")
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": special.end_of_text,
            "pad_token": special.pad,
            "extra_special_tokens": [special.user, special.assistant, special.end],
            "clean_up_tokenization_spaces": False,
            "add_bos_token": False,
            "add_eos_token": False,
        },
    )


def encode_texts(tokenizer: Tokenizer, texts: Iterable[str], batch_size: int = 256) -> Iterator[list[int]]:
    """Yield the token ids of each text, in order, without special tokens added."""
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == batch_size:
            yield from (encoding.ids for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False))
            batch = []
    if batch:
        yield from (encoding.ids for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False))

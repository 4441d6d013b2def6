"""Small tokenizers of every kind that is in use, made as the programs that are known for them make theirs."""

import json
from functools import lru_cache
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ENGLISH = (
    "The model reads the documents, and it's the tokenizer's work: don't stop at 42!  Two spaces.\nA line\tand a tab."
)
TEXTS = [
    ENGLISH,
    "Привет мир, это проверка. 漢字とかな を 読む。 Ünïcödé ﬁne ½",
    "def foo(x):\n    return x + 1  # comment\n",
]
SPACE = "\u2581"
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(*, prefix_space: bool = False, suffix: str = "") -> Tokenizer:
    """As GPT-2; with a suffix at the end of each word as CLIP."""
    ending = {"end_of_word_suffix": suffix} if suffix else {}
    tokenizer = Tokenizer(models.BPE(**ending))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, **ending, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    values = json.loads(tokenizer.to_str())
    for letter in letters if suffix else ():
        values["model"]["vocab"].setdefault(f"{letter}{suffix}", len(values["model"]["vocab"]))
    return Tokenizer.from_str(json.dumps(values))


def byte_fallback(*, prefix_space: bool = True) -> Tokenizer:
    """As Llama 2 and Mistral; without the space before a text as Gemma."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend(SPACE)] if prefix_space else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    ends = [decoders.Strip(" ", 1, 0)] if prefix_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=["<unk>", *BYTE_PIECES], limit_alphabet=50, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = values["added_tokens"][:1]  # bytes are plain pieces
    return Tokenizer.from_str(json.dumps(values))


def unigram() -> Tokenizer:
    """As T5: other characters for some, one space for many."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def word_pieces() -> Tokenizer:
    """As BERT: lower case, and words cut into pieces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS[:1], trainer)
    return tokenizer


def word_ends() -> Tokenizer:
    """As the first GPT: a sign at the end of each word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS[:1], trainer)
    return tokenizer


def whole_words() -> Tokenizer:
    """Words and signs, and nothing that says how they are put together."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS[:1], trainer)
    return tokenizer


_MAKERS = {
    "byte-level": byte_level,
    "byte-level with a space": lambda: byte_level(prefix_space=True),
    "byte-level with word ends": lambda: byte_level(suffix="</w>"),
    "byte fallback": byte_fallback,
    "byte fallback without a space": lambda: byte_fallback(prefix_space=False),
    "unigram": unigram,
    "word pieces": word_pieces,
    "word ends": word_ends,
    "whole words": whole_words,
}
KINDS = tuple(_MAKERS)
KEEP_ALL = ("byte-level", "byte-level with a space", "byte fallback", "byte fallback without a space")
"""Those that keep a text as it is, but for a space that it begins with and a sign that stands for a space."""


@lru_cache
def tokenizer_json(kind: str) -> str:
    """The content of a `tokenizer.json` of a kind."""
    return str(_MAKERS[kind]().to_str())


def tokenizer_values(kind: str) -> dict[str, Any]:
    """The same, parsed: a new copy each time."""
    values: dict[str, Any] = json.loads(tokenizer_json(kind))
    return values

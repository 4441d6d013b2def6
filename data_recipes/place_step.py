"""Step `place`: a file of tokens made elsewhere becomes a token shard as it is, with the ends of its documents.

The file is not read into another one: where the file system can, the shard is a hard link to it. Nothing here or
elsewhere opens a shard to write into it, so that a link changes no byte of what others own.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from data_recipes.bpe import TOKENIZER_DIR, take_tokenizer, token_id, unknown_token_id
from data_recipes.build import Build
from data_recipes.readers import reading_context
from data_recipes.settings import CorpusConfig
from data_recipes.shards import shard_path, token_dtype
from data_recipes.tasks import Outputs
from data_recipes.token_files import Span
from data_recipes.token_settings import TokensSource
from data_recipes.token_source import TokensReader
from data_recipes.windows import TOKEN_DTYPES
from provenance.canonical import Json
from provenance.digests import sha256_file
from provenance.errors import DataError, SourceError

_NO_LINK = {
    errno.EXDEV: "it lies on another file system",
    errno.EPERM: "the file system makes no link to it",
    errno.EACCES: "no link to it may be made",
    errno.EMLINK: "it has too many links",
    errno.ENOTSUP: "the file system has no links",
}
"""What the number of an OSError says of a hard link that cannot be made."""
_BLOCK = 1 << 16
_PIECE_TOKENS = 1 << 24


def place(build: Build, value: Json, outputs: Outputs) -> Json:
    """Take a file as it is; `value` is `{source, shard, sha256}`.

    Returns:
        `{source, split, entry, copied, num_unknown_tokens}`: the entry of the shard in `tokens.json`, and why the file
        was copied; empty where it is a link.

    Raises:
        SourceError: for a file that is missing or is not the pinned one any more.
        DataError: as `TokensReader.spans`.
    """
    (source,) = (source for source in build.config.sources_in_place if source.name == value["source"])
    number = value["shard"]
    reader = TokensReader(source, reading_context(build.config))
    tokens, spans = reader.spans(number)
    file = _tokens_file(build.config, source, number)
    places = {role: shard_path(role, source.split, source.name, number) for role in ("tokens", "ends")}
    with outputs.file(places["tokens"]) as path:
        copied = link_or_copy(file, path)
        found = sha256_file(path)
        if found != value["sha256"]:
            raise SourceError(
                f"source {source.name!r}: {found}",
                expected=f"the file with sha256 {value['sha256']} that the recipe pins, as it was when it was read",
                where=str(file),
                next_command="put the pinned file there and run the same command again",
            )
    with outputs.file(places["ends"]) as ends_path:
        num_documents = _write_ends(ends_path, spans)
        ends_sha256 = sha256_file(ends_path)
    digests = {"tokens": found, "ends": ends_sha256}
    files = {role: {"path": places[role], "sha256": digests[role]} for role in places}
    entry = {"num_tokens": len(tokens), "num_documents": num_documents, "files": files}
    return {
        "source": source.name,
        "split": source.split,
        "entry": entry,
        "copied": copied,
        "num_unknown_tokens": _num_unknown_tokens(build, tokens),
    }


def check_files(config: CorpusConfig) -> None:
    """Refuse files whose ids are of another type than the corpus's, or end documents with another token.

    Args:
        config: a recipe whose files of tokens and tokenizer were seen to be the pinned ones.

    Raises:
        DataError: naming the file or the token.
    """
    wanted = TOKEN_DTYPES[token_dtype(config.tokenizer.vocab_size)]
    sources = config.sources_in_place
    eos = config.tokenizer.special_tokens.end_of_text
    eos_id = token_id(take_tokenizer(config.tokenizer, config.execution), eos) if sources else None
    for source in sources:
        if source.eos_id != eos_id:
            raise DataError(
                f"eos_id {source.eos_id} of source {source.name!r}, and {eos!r} is {eos_id}",
                expected="one token that ends documents, in all shards of a corpus",
                next_command="name it as tokenizer.special_tokens.end_of_text, or in_place: false",
            )
        reader = TokensReader(source, reading_context(config))
        for number in range(len(source.shards)):
            dtype = reader.spans(number)[0].dtype
            # Ids that fit i32, and are none below 0, are the same bytes as u32.
            if dtype.itemsize != wanted.itemsize:
                raise DataError(
                    f"ids of {dtype.itemsize} bytes",
                    expected=f"{wanted.itemsize}, as of all token files at a tokenizer.vocab_size of "
                    f"{config.tokenizer.vocab_size:,}",
                    where=str(_tokens_file(config, source, number)),
                    next_command="in_place: false, which tokenizes the documents once more",
                )


def link_or_copy(file: Path, path: Path) -> str:
    """Make a hard link at `path`, or a copy where none can be made; returns why, empty for a link."""
    try:
        os.link(file.resolve(), path)  # of a symbolic link, what it leads to
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(file, path)
        return _NO_LINK[error.errno]
    return ""


def _tokens_file(config: CorpusConfig, source: TokensSource, number: int) -> Path:
    return config.execution.data_dir.expanduser() / source.shards[number].tokens.path


def _num_unknown_tokens(build: Build, tokens: npt.NDArray[Any]) -> int:
    """How often the unknown token stands in a file, which is read in pieces."""
    unknown_id = unknown_token_id(Tokenizer.from_file(str(build.root / TOKENIZER_DIR / "tokenizer.json")))
    if unknown_id is None:
        return 0
    pieces = (tokens[begin : begin + _PIECE_TOKENS] for begin in range(0, len(tokens), _PIECE_TOKENS))
    return sum(int(np.count_nonzero(piece == unknown_id)) for piece in pieces)


def _write_ends(path: Path, spans: Iterator[Span]) -> int:
    """Write the end of each document that has a token, u64; returns how many have."""
    num_documents = 0
    with path.open("wb") as file:
        while block := list(islice(spans, _BLOCK)):
            ends = np.array([span.end for span in block if span.end > span.first], "<u8")
            file.write(ends.tobytes())
            num_documents += len(ends)
    return num_documents

"""Writing token shards (`openwright-tokens/1`): raw little-endian token files per split, source and shard."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from data_recipes.tasks import Outputs
from data_recipes.windows import TOKEN_DTYPES, TOKENS_FORMAT, tokens_digest_of
from provenance.canonical import Json, write_json
from provenance.digests import sha256_bytes, sha256_file

MAX_U16_VOCAB = 65536
_WAITING_BYTES = 2**25


@dataclass(frozen=True)
class TokenSequence:
    """One document of a stream (its end-of-text token included) or one row of fixed width.

    Attributes:
        key: document or conversation id, 64 hexadecimal digits; decides shard and place.
        ids: token ids, shape (num_tokens,).
        mask: 1 where the token is a trained target, same shape, u8; only in rows.
    """

    key: str
    source: str
    ids: npt.NDArray[Any]
    mask: npt.NDArray[np.uint8] | None = None


def safe_name(name: str) -> str:
    """Return a directory name for a source: itself if harmless, else cleaned and marked with a digest."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if cleaned == name and not name.startswith(".") and len(name) <= 80:
        return name
    return f"{cleaned.lstrip('.')[:60]}-{sha256_bytes(name.encode())[:8]}"


def token_dtype(vocab_size: int) -> Literal["u16", "u32"]:
    """Return the narrowest type of a token file that holds every id."""
    return "u16" if vocab_size <= MAX_U16_VOCAB else "u32"


def shard_path(role: str, split: str, source: str, number: int) -> str:
    """Path of a file of a shard in a corpus; roles as in `tokens.json`."""
    return f"tokens/{split}/{safe_name(source)}/{role}-{number:03d}.bin"


def write_split(
    root: Path,
    split: str,
    sequences: Iterable[TokenSequence],
    *,
    layout: Literal["stream", "rows"],
    width: int,
    dtype: Literal["u16", "u32"],
    num_shards: int,
) -> Json:
    """Write the token shards of one split and return its entry of `tokens.json`.

    Bytes depend on the set of sequences alone: each goes to the shard that the first digits of its key name, and
    shards are sorted by key. A shard that no sequence falls into is not written.

    Args:
        root: the corpus directory.
        width: tokens per row; 0 for a stream.
    """
    by_source: dict[str, dict[int, list[TokenSequence]]] = defaultdict(lambda: defaultdict(list))
    for sequence in sequences:
        by_source[sequence.source][shard_of(sequence.key, num_shards)].append(sequence)
    shards_by_source = {}
    for name in sorted(by_source):
        directory = root / "tokens" / split / safe_name(name)
        directory.mkdir(parents=True, exist_ok=True)
        shards_by_source[name] = [
            _write_shard(root, directory, number, sorted(members, key=lambda sequence: sequence.key), layout, dtype)
            for number, members in sorted(by_source[name].items())
        ]
    return split_entry(shards_by_source, layout=layout, width=width, dtype=dtype)


class StreamShards:
    """Writes one shard of a split of documents, source by source, as the documents come in document id order.

    Args:
        outputs: where the files go.
    """

    def __init__(self, outputs: Outputs, split: str, number: int, dtype: Literal["u16", "u32"]) -> None:
        self._outputs, self._split, self._number, self._dtype = outputs, split, number, dtype
        self._stack = ExitStack()
        self._paths: dict[str, Path] = {}
        self._waiting: dict[str, list[bytes]] = defaultdict(list)
        self._num_waiting_bytes = 0
        self._lengths: dict[str, list[int]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, source: str, ids: npt.NDArray[Any]) -> None:
        """Add the tokens of a document, its end-of-text token included."""
        data = ids.astype(TOKEN_DTYPES[self._dtype]).tobytes()
        self._waiting[source].append(data)
        self._lengths[source].append(len(ids))
        self._num_waiting_bytes += len(data)
        if self._num_waiting_bytes >= _WAITING_BYTES:
            self._flush()

    def finish(self) -> dict[str, Json]:
        """Write what is left and return the entry of the shard in `tokens.json` by source."""
        self._flush()
        entries: dict[str, Json] = {}
        for source, lengths in sorted(self._lengths.items()):
            ends_path = self._stack.enter_context(self._outputs.file(self._place("ends", source)))
            ends_path.write_bytes(np.cumsum(lengths).astype("<u8").tobytes())
            paths = {"tokens": self._paths[source], "ends": ends_path}
            entries[source] = {
                "num_tokens": sum(lengths),
                "num_documents": len(lengths),
                "files": {
                    role: {"path": self._place(role, source), "sha256": sha256_file(path)}
                    for role, path in paths.items()
                },
            }
        return entries

    def _place(self, role: str, source: str) -> str:
        return shard_path(role, self._split, source, self._number)

    def _flush(self) -> None:
        for source, pieces in self._waiting.items():
            if source not in self._paths:
                self._paths[source] = self._stack.enter_context(self._outputs.file(self._place("tokens", source)))
            with self._paths[source].open("ab") as file:
                file.writelines(pieces)
        self._waiting.clear()
        self._num_waiting_bytes = 0


def split_entry(shards_by_source: Mapping[str, Sequence[Json]], *, layout: str, width: int, dtype: str) -> Json:
    """Return the entry of a split in `tokens.json`, given the entries of its shards in order."""
    sources = [
        {
            "name": name,
            "num_tokens": sum(shard["num_tokens"] for shard in shards),
            "num_documents": sum(shard["num_documents"] for shard in shards),
            "shards": list(shards),
        }
        for name, shards in sorted(shards_by_source.items())
    ]
    description = {"layout": layout, "dtype": dtype, "width": width, "sources": sources}
    return {**description, "digest": tokens_digest_of(description)}


def shard_of(key: str, num_shards: int) -> int:
    """Number of the shard of a 64-digit hexadecimal key: equal ranges of its first 32 bits, in key order."""
    return int(key[:8], 16) * num_shards >> 32


def write_tokens_json(
    root: Path, splits: dict[str, Json], *, vocab_size: int, eos_id: int, pad_id: int, tokenizer_sha256: str
) -> None:
    """Write `tokens/tokens.json`."""
    write_json(
        root / "tokens" / "tokens.json",
        {
            "format": TOKENS_FORMAT,
            "vocab_size": vocab_size,
            "eos_id": eos_id,
            "pad_id": pad_id,
            "tokenizer_sha256": tokenizer_sha256,
            "splits": splits,
        },
    )


def _write_shard(
    root: Path, directory: Path, number: int, members: Sequence[TokenSequence], layout: str, dtype: str
) -> dict[str, Json]:
    ids = np.concatenate([member.ids for member in members]).astype(TOKEN_DTYPES[dtype])
    parts = {"tokens": ids.tobytes()}
    if layout == "stream":
        parts["ends"] = np.cumsum([len(member.ids) for member in members]).astype("<u8").tobytes()
    else:
        parts["mask"] = b"".join(member.mask.tobytes() for member in members if member.mask is not None)
        assert len(parts["mask"]) == len(ids)
    files = {}
    for role, data in parts.items():
        path = directory / f"{role}-{number:03d}.bin"
        path.write_bytes(data)
        files[role] = {"path": path.relative_to(root).as_posix(), "sha256": sha256_file(path)}
    return {"num_tokens": len(ids), "num_documents": len(members), "files": files}

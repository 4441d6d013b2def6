"""Writing token shards (`openwright-tokens/1`): raw little-endian token files per split, source and shard."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_recipes.windows import TOKENS_FORMAT, tokens_digest_of
from provenance.canonical import Json, write_json
from provenance.digests import sha256_bytes, sha256_file

MAX_U16_VOCAB = 65536


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
    sources = []
    for name in sorted(by_source):
        shards = []
        for number, members in sorted(by_source[name].items()):
            directory = root / "tokens" / split / safe_name(name)
            directory.mkdir(parents=True, exist_ok=True)
            members.sort(key=lambda sequence: sequence.key)
            shards.append(_write_shard(root, directory, number, members, layout, dtype))
        sources.append(
            {
                "name": name,
                "num_tokens": sum(shard["num_tokens"] for shard in shards),
                "num_documents": sum(shard["num_documents"] for shard in shards),
                "shards": shards,
            }
        )
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
    ids = np.concatenate([member.ids for member in members]).astype("<u2" if dtype == "u16" else "<u4")
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

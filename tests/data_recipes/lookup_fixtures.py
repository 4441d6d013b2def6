"""A small corpus with an index in several files, made without the corpus stage."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_recipes.document_index import CODES_FORMAT, INDEX_DTYPE
from data_recipes.order import Order, OrderSource, Phase
from data_recipes.shards import TokenSequence, write_split, write_tokens_json
from data_recipes.windows import TokenWindows
from provenance.canonical import write_json

SOURCES = ("alpha", "beta", "empty", "gamma")
WINDOW = 5


@dataclass(frozen=True)
class KnownDocument:
    document_id: str
    source: str
    split: str
    num_tokens: int


def known_documents(num_documents: int = 90) -> list[KnownDocument]:
    """Documents in id order: kept ones of two splits and dropped ones, of 1 to 17 tokens."""
    documents = []
    for number in range(num_documents):
        digest = hashlib.sha256(b"document %d" % number).hexdigest()
        split = ("train", "train", "none", "heldout", "train")[number % 5]
        source = ("alpha", "beta", "gamma")[number % 3]
        documents.append(KnownDocument(digest, source, split, 0 if split == "none" else 1 + number % 17))
    return sorted(documents, key=lambda document: document.document_id)


def write_corpus(root: Path, documents: list[KnownDocument], num_index_files: int = 3) -> None:
    """Write index, codes, token shards and a manifest; the tokens of a document count on from its number."""
    rows = np.zeros(len(documents), INDEX_DTYPE)
    splits = ["none", "train", "heldout"]
    for row, document in zip(rows, documents, strict=True):
        row["document_id"] = np.void(bytes.fromhex(document.document_id))
        row["text_sha256"] = np.void(hashlib.sha256(document.document_id.encode()).digest())
        row["num_tokens"], row["source"] = document.num_tokens, SOURCES.index(document.source)
        row["licence"], row["decision"] = 1, int(document.split == "none")
        row["split"] = splits.index(document.split)
    folder = root / "documents"
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(rows, num_index_files)):
        part.tofile(folder / f"index-{number:05d}.bin")
    codes = {"sources": list(SOURCES), "licences": ["ISC", "MIT"], "decisions": ["kept", "licence"], "splits": splits}
    write_json(folder / "codes.json", {"format": CODES_FORMAT, **codes})
    described = {}
    for split in ("train", "heldout"):
        sequences = [
            TokenSequence(document.document_id, document.source, np.arange(document.num_tokens))
            for document in documents
            if document.split == split
        ]
        described[split] = write_split(
            root, split, sequences, layout="stream", width=0, dtype="u16", num_shards=3
        )  # fmt: skip
    write_tokens_json(root, described, vocab_size=400, eos_id=0, pad_id=1, tokenizer_sha256="0" * 64)
    write_json(root / "manifest.json", {"documents": len(documents)})


def two_epochs(root: Path, window_tokens: int = WINDOW) -> Order:
    """An order in two phases that reads every window twice, and a little more."""
    windows = TokenWindows(root, "train", window_tokens)
    counts = tuple(source.num_windows for source in windows.sources)
    phases = (Phase(sum(counts), 1, counts), Phase(sum(counts), 2, tuple(2 * count for count in counts)))
    sources = tuple(OrderSource(source.name, source.num_windows) for source in windows.sources)
    return Order(windows.tokens_digest, 7, sources, phases)

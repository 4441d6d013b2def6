"""Tiny artifacts of all stages, made by the formats page without running the stages: what a release is built from."""

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fake_evaluation import write_evaluation
from fake_runs import ROW, FakeRun, initial_weights, make_run
from fake_store import finish_stage, start_stage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data_recipes.document import Document, LicenceFinding
from provenance.artifacts import Artifact
from provenance.canonical import write_json
from provenance.digests import sha256_bytes, sha256_file, tagged_digest
from provenance.fingerprint import PACKAGES, CodeIdentity, sources_digest
from provenance.stage import StageContext

NAME = "tiny"
SPECIAL = ("<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class FakeSource:
    """A source with its texts; `decision` is the rule that drops its documents, or empty."""

    name: str
    split: str
    licence: str
    copyright: str
    texts: tuple[str, ...]
    rule: str = ""


def _texts(topic: str, count: int) -> tuple[str, ...]:
    return tuple(
        f"{topic} number {n}: the function returns the value that was stored under key {n}. "
        f"Κάθε συνάρτηση επιστρέφει την τιμή {n}; 関数は値を返す。 " * 3
        for n in range(count)
    )


HIDDEN = {
    "reason": "contract",
    "schema": {"text": ["string"], "year": ["number"]},
    "statistics": {"num_rows": 6},
}
"""What `sources.lock` says of a source that cannot be shared."""

SOURCES = (
    FakeSource("alpha", "train", "MIT", "Copyright (c) 2020 Άλφα <Developers>", _texts("Alpha", 9)),
    FakeSource("beta", "heldout", "Apache-2.0", "Copyright 2021 Beta & Co", _texts("Beta", 3)),
    FakeSource("gamma", "train", "BSD-3-Clause", "Copyright (c) 2019, 伽马 authors", _texts("Gamma", 6)),
    FakeSource("omega", "none", "NOASSERTION", "", _texts("Omega", 2), rule="licence"),
)


def make_code() -> CodeIdentity:
    """The identity of the running packages, as a clean checkout would have it."""
    return CodeIdentity("ab" * 20, False, sources_digest(PACKAGES))


def make_artifacts(
    store: Path,
    code: CodeIdentity,
    *,
    dev: bool = False,
    pretraining: FakeRun = FakeRun("pretrain", "train", seed=1),  # noqa: B008 - frozen
    hidden: Collection[str] = (),
) -> tuple[StageContext, dict[str, Artifact]]:
    """Make the artifacts `corpus`, `pretrain`, `sft` and `eval` in a store; the hidden sources are unshareable."""
    context = StageContext(NAME, store, code, dev)
    corpus = _make_corpus(context, hidden)
    pretrain, weights = make_run(context, pretraining, corpus, [corpus.as_parent("corpus")], initial_weights(300))
    parents = [corpus.as_parent("corpus"), pretrain.as_parent("base")]
    sft, _ = make_run(context, FakeRun("sft", "sft", seed=2, num_steps=2), corpus, parents, weights)
    evaluation = make_evaluation(context, corpus, {"pretrain": pretrain, "sft": sft})
    return context, {"corpus": corpus, "pretrain": pretrain, "sft": sft, "eval": evaluation}


# -------------------------------------------------------------------------------- corpus


def _documents() -> list[tuple[FakeSource, Document]]:
    found = []
    for source in SOURCES:
        for number, text in enumerate(source.texts):
            finding = LicenceFinding(
                source.licence, source.licence, "licence-text", "LICENSE", "1" * 64, "2026-11-20",
                (source.copyright,) if source.copyright else (),
            )  # fmt: skip
            digest = sha256_bytes(source.name.encode())
            document = Document(
                source.name, digest, f"docs/{number}.md", "prose", text, "2" * 64, sha256_bytes(text.encode()), finding
            )
            found.append((source, document))
    return sorted(found, key=lambda item: item[1].document_id)


def _make_corpus(context: StageContext, hidden: Collection[str]) -> Artifact:
    work = start_stage(context, "corpus")
    documents = _documents()
    tokenizer = _make_tokenizer([d.text for s, d in documents if s.split == "train" and not s.rule], work / "tokenizer")
    splits: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for split in ("train", "heldout"):
        of_split = [(s, d) for s, d in documents if s.split == split]
        splits[split] = _write_stream(work, split, of_split, tokenizer, counts)
    splits |= _write_conversations(work, documents, tokenizer)
    _write_documents(work, documents, counts)
    for split in ("train", "heldout"):
        rows = [_text_row(s, d) for s, d in documents if s.split == split]
        (work / "text").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), work / "text" / f"{split}-00000.parquet")
    write_json(
        work / "tokens" / "tokens.json",
        {
            "format": "openwright-tokens/1",
            "vocab_size": tokenizer.get_vocab_size(),
            "eos_id": 0,
            "pad_id": 1,
            "tokenizer_sha256": sha256_file(work / "tokenizer" / "tokenizer.json"),
            "splits": splits,
        },
    )
    _write_lock(work, hidden)
    _write_summary(work, documents, counts)
    return finish_stage(context, work, "corpus", [], {"seed": 1, "sources": [source.name for source in SOURCES]})


def _make_tokenizer(texts: Sequence[str], target: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[1])
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(target)
    return tokenizer


def _write_stream(
    work: Path,
    split: str,
    documents: Sequence[tuple[FakeSource, Document]],
    tokenizer: Tokenizer,
    counts: dict[str, int],
) -> dict[str, Any]:
    sources = []
    for name in sorted({source.name for source, _ in documents}):
        tokens: list[int] = []
        ends = []
        for _, document in [item for item in documents if item[0].name == name]:
            ids = [*tokenizer.encode(document.text).ids, 0]
            counts[document.document_id] = len(ids)
            tokens += ids
            ends.append(len(tokens))
        folder = f"tokens/{split}/{name}"
        arrays = {"tokens": np.array(tokens, "<u2"), "ends": np.array(ends, "<u8")}
        sources.append(_write_shard(work, folder, name, len(tokens), len(ends), arrays))
    return _with_digest({"layout": "stream", "dtype": "u16", "width": 0, "sources": sources})


def _write_shard(
    work: Path, folder: str, name: str, num_tokens: int, num_documents: int, arrays: Mapping[str, Any]
) -> dict[str, Any]:
    files = {}
    for role, array in arrays.items():
        path = work / folder / f"{role}-000.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(array.tobytes())
        files[role] = {"path": f"{folder}/{role}-000.bin", "sha256": sha256_file(path)}
    shard = {"num_tokens": num_tokens, "num_documents": num_documents, "files": files}
    return {"name": name, "num_tokens": num_tokens, "num_documents": num_documents, "shards": [shard]}


def _with_digest(split: dict[str, Any]) -> dict[str, Any]:
    sources = []
    for source in split["sources"]:
        shards = [
            {"num_tokens": s["num_tokens"], "files": {role: f["sha256"] for role, f in s["files"].items()}}
            for s in source["shards"]
        ]
        sources.append({"name": source["name"], "shards": shards})
    value = {key: split[key] for key in ("layout", "dtype", "width")} | {"sources": sources}
    return {**split, "digest": tagged_digest("tokens/1", value)}


def _write_conversations(
    work: Path, documents: Sequence[tuple[FakeSource, Document]], tokenizer: Tokenizer
) -> dict[str, Any]:
    splits = {}
    for split, token_split in (("train", "sft"), ("heldout", "sft-heldout")):
        rows, tokens, masks = [], {}, {}
        for source, document in [item for item in documents if item[0].split == split]:
            question, answer = f"What does {source.name} return?", "It returns the value: τιμή."
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            rows.append(
                {
                    "conversation_id": sha256_bytes(document.document_id.encode()),
                    "document_id": document.document_id,
                    "source": source.name,
                    "licence": source.licence,
                    "qualified_name": "m.f",
                    "signature": "f()",
                    "summary": answer,
                    "messages": messages,
                }
            )
            asked = tokenizer.encode(f"<|user|>{question}<|end|><|assistant|>").ids
            ids = (asked + tokenizer.encode(f"{answer}<|end|>").ids)[:ROW]
            mask = ([0] * len(asked) + [1] * ROW)[: len(ids)]
            tokens.setdefault(source.name, []).append(ids + [1] * (ROW - len(ids)))
            masks.setdefault(source.name, []).append(mask + [0] * (ROW - len(ids)))
        (work / "conversations").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), work / "conversations" / f"{split}-00000.parquet")
        sources = [
            _write_shard(
                work,
                f"tokens/{token_split}/{name}",
                name,
                len(tokens[name]) * ROW,
                len(tokens[name]),
                {"tokens": np.array(tokens[name], "<u2"), "mask": np.array(masks[name], "u1")},
            )
            for name in sorted(tokens)
        ]
        splits[token_split] = _with_digest({"layout": "rows", "dtype": "u16", "width": ROW, "sources": sources})
    return splits


def _text_row(source: FakeSource, document: Document) -> dict[str, str]:
    row = {"document_id": document.document_id, "source": source.name, "path": document.path}
    return {**row, "licence": source.licence, "text": document.text}


def _write_documents(work: Path, documents: Sequence[tuple[FakeSource, Document]], counts: Mapping[str, int]) -> None:
    codes = {
        "sources": sorted(source.name for source in SOURCES),
        "licences": sorted(source.licence for source in SOURCES),
        "decisions": ["kept", "licence"],
        "splits": ["none", "train", "heldout"],
    }
    rows, index = [], b""
    for source, document in documents:
        num_tokens = counts.get(document.document_id, 0)
        rows.append(_document_row(source, document, num_tokens))
        index += struct.pack(
            "<32s32sIHHHBBI",
            bytes.fromhex(document.document_id),
            bytes.fromhex(document.text_sha256),
            num_tokens,
            codes["sources"].index(source.name),
            codes["licences"].index(source.licence),
            codes["decisions"].index(source.rule or "kept"),
            codes["splits"].index(source.split),
            0,
            0,
        )
    (work / "documents").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), work / "documents" / "documents-00000.parquet")
    (work / "documents" / "index-00000.bin").write_bytes(index)
    write_json(work / "documents" / "codes.json", {"format": "openwright-codes/1", **codes})


def _document_row(source: FakeSource, document: Document, num_tokens: int) -> dict[str, Any]:
    licence = document.licence
    return {
        "document_id": document.document_id,
        "source": document.source,
        "path": document.path,
        "kind": document.kind,
        "split": source.split,
        "text_sha256": document.text_sha256,
        "raw_sha256": document.raw_sha256,
        "size_bytes": len(document.text.encode()),
        "num_tokens": num_tokens,
        "licence_spdx": licence.spdx,
        "licence_chosen": "" if source.rule else licence.spdx,
        "licence_declared": licence.declared,
        "licence_reason": licence.reason,
        "evidence_kind": licence.evidence_kind,
        "evidence_locator": licence.evidence_locator,
        "evidence_sha256": licence.evidence_sha256,
        "evidence_date": licence.evidence_date,
        "copyright": list(licence.copyright),
        "signals": [{"rule": "noai", "place": "header", "value": "noai"}],
        "decision": "dropped" if source.rule else "kept",
        "rule": source.rule,
        "score": None,
        "threshold": None,
        "duplicate_of": "",
        "cluster_sources": [],
        "cluster_licences": [],
    }


def _write_lock(work: Path, hidden: Collection[str]) -> None:
    sources = [
        {
            "type": "pypi",
            "name": source.name,
            "version": "1.0",
            "split": "heldout" if source.split == "heldout" else "train",
            "osaid_class": "unshareable" if source.name in hidden else "open",
            **(HIDDEN if source.name in hidden else {}),
            "obtain": f"pip download {source.name}==1.0",
            "sha256": sha256_bytes(source.name.encode()),
        }
        for source in SOURCES
    ]
    write_json(work / "sources.lock", {"format": "openwright-sources/1", "sources": sources})


def _write_summary(work: Path, documents: Sequence[tuple[FakeSource, Document]], counts: Mapping[str, int]) -> None:
    kept = [item for item in documents if not item[0].rule]
    totals = []
    for source in SOURCES:
        own = [document for s, document in kept if s.name == source.name]
        num_dropped = len(source.texts) if source.rule else 0
        totals.append(
            {
                "name": source.name,
                "num_documents": {"kept": len(own), "dropped": num_dropped},
                "size_bytes": sum(len(d.text.encode()) for d in own),
                "num_tokens": sum(counts[d.document_id] for d in own),
            }
        )
    dropped = len(documents) - len(kept)
    step = {"code": "data_recipes/policy.py", "parameters": {}}
    steps = [
        {"name": "extract", "rows_in": len(documents), "rows_out": len(documents), "dropped": {}, **step},
        {
            "name": "licence policy",
            "rows_in": len(documents),
            "rows_out": len(kept),
            "dropped": {"licence": dropped},
            **step,
        },
    ]
    summary = {
        "format": "openwright-corpus/1",
        "num_documents": {"kept": len(kept), "dropped": dropped},
        "sources": totals,
        "splits": {},
        "steps": steps,
    }
    write_json(work / "corpus.json", summary)


def make_evaluation(
    context: StageContext, corpus: Artifact, runs: Mapping[str, Artifact], forget: Sequence[str] = ()
) -> Artifact:
    """Make the artifact of an evaluation of `runs`; without the held-out documents in `forget`."""
    work = start_stage(context, "eval")
    documents = (d for s, d in _documents() if s.split == "heldout" and d.document_id not in forget)
    write_evaluation(work, [document.text[:200] for document in documents], corpus, runs)
    parents = [corpus.as_parent("corpus"), *(run.as_parent(name) for name, run in runs.items())]
    return finish_stage(context, work, "eval", parents, {"models": list(runs), "forget": list(forget)})

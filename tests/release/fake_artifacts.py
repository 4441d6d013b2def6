"""Tiny artifacts of all stages, made by the formats page without running the stages: what a release is built from."""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fake_evaluation import write_evaluation
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Olmo3Config, Olmo3ForCausalLM, PreTrainedTokenizerFast

from data_recipes.document import Document, LicenceFinding
from data_recipes.order import Order, OrderSource, Phase
from provenance.artifacts import Artifact, finish, work_dir
from provenance.canonical import canonical_json, hex_float, write_json
from provenance.digests import Parent, sha256_bytes, sha256_file, tagged_digest
from provenance.fingerprint import PACKAGES, CodeIdentity, sources_digest
from provenance.ledger import ChainWriter
from provenance.stage import StageContext
from train.state import ParameterChecksum, format_checksum, state_digest

NAME = "tiny"
WINDOW = 16
ROW = 33
SPECIAL = ("<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OBSERVATIONS = ("journal.jsonl", "environment.json", "accelerate.yaml")


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


SOURCES = (
    FakeSource("alpha", "train", "MIT", "Copyright (c) 2020 Άλφα <Developers>", _texts("Alpha", 9)),
    FakeSource("beta", "heldout", "Apache-2.0", "Copyright 2021 Beta & Co", _texts("Beta", 3)),
    FakeSource("gamma", "train", "BSD-3-Clause", "Copyright (c) 2019, 伽马 authors", _texts("Gamma", 6)),
    FakeSource("omega", "none", "NOASSERTION", "", _texts("Omega", 2), rule="licence"),
)


def make_code() -> CodeIdentity:
    """The identity of the running packages, as a clean checkout would have it."""
    return CodeIdentity("ab" * 20, False, sources_digest(PACKAGES))


def make_artifacts(store: Path, code: CodeIdentity, *, dev: bool = False) -> tuple[StageContext, dict[str, Artifact]]:
    """Make the artifacts `corpus`, `pretrain`, `sft` and `eval` in a store."""
    context = StageContext(NAME, store, code, dev)
    corpus = _make_corpus(context)
    pretrain = _make_run(context, "pretrain", corpus, [corpus.as_parent("corpus")], "train", 4, seed=1)
    parents = [corpus.as_parent("corpus"), pretrain.as_parent("base")]
    sft = _make_run(context, "sft", corpus, parents, "sft", 2, seed=2)
    evaluation = _make_evaluation(context, corpus, {"pretrain": pretrain, "sft": sft})
    return context, {"corpus": corpus, "pretrain": pretrain, "sft": sft, "eval": evaluation}


def _finish(context: StageContext, work: Path, kind: str, parents: Sequence[Parent], recipe: Any) -> Artifact:
    (work / "environment.json").write_bytes(canonical_json(_environment()))
    journal = ChainWriter(work / "journal.jsonl")
    journal.append({"kind": "start", "time_utc": "2026-11-24T00:00:00Z"})
    journal.close()
    return finish(
        work,
        kind=kind,
        name=context.name,
        fingerprint=tagged_digest("fake/1", kind),
        parents=parents,
        recipe=recipe,
        code=context.code,
        observations=OBSERVATIONS,
        dev=context.dev,
    )


def _work(context: StageContext, kind: str) -> Path:
    return work_dir(context.store, kind, tagged_digest("fake/1", kind))


def _environment() -> dict[str, Any]:
    platform = {"machine": "x86_64", "system": "Linux", "cpu_model": "A <plain> processor", "devices": []}
    distributions = {"torch": {"version": "2.13.0", "record_sha256": "0" * 64}}
    values = {"python": "3.11.7", "kernel": "6.1", "num_cores": 2, "memory_bytes": 2**33}
    return {"format": "openwright-environment/1", "platform": platform, "distributions": distributions, **values}


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


def _make_corpus(context: StageContext) -> Artifact:
    work = _work(context, "corpus")
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
    _write_lock(work)
    _write_summary(work, documents, counts)
    return _finish(context, work, "corpus", [], {"seed": 1, "sources": [source.name for source in SOURCES]})


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
        "decision": "dropped" if source.rule else "kept",
        "rule": source.rule,
        "score": None,
        "threshold": None,
        "duplicate_of": "",
        "cluster_sources": [],
        "cluster_licences": [],
    }


def _write_lock(work: Path) -> None:
    sources = [
        {
            "type": "pypi",
            "name": source.name,
            "version": "1.0",
            "split": "heldout" if source.split == "heldout" else "train",
            "osaid_class": "open",
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


# -------------------------------------------------------------------------------- runs


def _make_model(vocab_size: int, seed: int) -> Any:
    torch.manual_seed(seed)
    config = Olmo3Config(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=32,
        eos_token_id=0,
        pad_token_id=1,
        bos_token_id=None,
    )
    return Olmo3ForCausalLM(config)


def _read_order(corpus: Path, split: str, num_steps: int, seed: int) -> tuple[Order, dict[str, Any], int]:
    from provenance.canonical import read_json

    entry = read_json(corpus / "tokens" / "tokens.json")["splits"][split]
    stream = entry["layout"] == "stream"
    window = WINDOW if stream else ROW - 1
    sources = tuple(
        OrderSource(s["name"], (s["num_tokens"] - 1) // WINDOW if stream else s["num_tokens"] // ROW)
        for s in entry["sources"]
    )
    total = num_steps * 2
    first = total // 2 if len(sources) == 2 else total
    counts = (first, total - first) if len(sources) == 2 else (total,)
    return Order(entry["digest"], seed, sources, (Phase(num_steps, 2, counts),)), entry, window


def _windows(corpus: Path, entry: Mapping[str, Any], order: Order, step: int) -> tuple[bytes, dict[str, int], int]:
    """Bytes that the token digest of a step is made of, tokens by source and number of trained tokens."""
    data, by_source, trained = b"", {source["name"]: 0 for source in entry["sources"]}, 0
    for draw in order.step_draws(step):
        files = entry["sources"][draw.source]["shards"][0]["files"]
        tokens = np.frombuffer((corpus / files["tokens"]["path"]).read_bytes(), "<u2").astype("<u4")
        if entry["layout"] == "stream":
            ids = tokens[draw.window * WINDOW : draw.window * WINDOW + WINDOW + 1]
            mask = np.array([0] + [1] * WINDOW, "u1")
        else:
            ids = tokens.reshape(-1, ROW)[draw.window]
            mask = np.frombuffer((corpus / files["mask"]["path"]).read_bytes(), "u1").reshape(-1, ROW)[draw.window]
        data += ids.tobytes() + mask.tobytes()
        by_source[entry["sources"][draw.source]["name"]] += len(ids) - 1
        trained += int(mask.sum())
    return data, {name: n for name, n in by_source.items() if n}, trained


def _make_run(
    context: StageContext,
    kind: str,
    corpus: Artifact,
    parents: Sequence[Parent],
    split: str,
    num_steps: int,
    seed: int,
) -> Artifact:
    work = _work(context, kind)
    order, entry, window = _read_order(corpus.path, split, num_steps, seed)
    recipe = {"seed": seed, "num_steps": num_steps, "peak_learning_rate": hex_float(1e-3)}
    write_json(work / "recipe.json", recipe)
    (work / "accelerate.yaml").write_text("num_processes: 1\nuse_cpu: true\n")
    model = _make_model(300, seed)
    ledger = ChainWriter(work / "ledger.jsonl")
    ledger.append(_start_record(kind, recipe, order, split, window, parents))
    total_tokens = 0
    final: dict[str, str] = {}
    for step in range(num_steps + 1):
        if step:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.001 * step)
            data, by_source, trained = _windows(corpus.path, entry, order, step)
            total_tokens += trained
            ledger.append(_step_record(step, order, data, by_source, trained, model))
        if step in (0, num_steps):
            ledger.append(_evaluation_record(step, f"{split}-heldout" if split == "sft" else "heldout"))
        final = _write_checkpoint(work, corpus.path, model, step, ledger, full=step in (0, 2, num_steps))
    ledger.append({"kind": "end", "step": num_steps, **final})
    ledger.close()
    run = {
        "format": "openwright-run/1",
        "stage": kind,
        "model_type": "olmo3",
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_steps": num_steps,
        "num_tokens": total_tokens,
        "final": {"step": num_steps, **final, "path": f"checkpoints/step-{num_steps:08d}"},
        "ledger": {"head": ledger.head, "num_records": ledger.num_records},
        "heldout": {"first": _evaluation_record(0, "heldout"), "last": _evaluation_record(num_steps, "heldout")},
    }
    write_json(work / "run.json", run)
    return _finish(context, work, kind, parents, recipe)


def _start_record(
    kind: str, recipe: Any, order: Order, split: str, window: int, parents: Sequence[Parent]
) -> dict[str, Any]:
    return {
        "kind": "start",
        "format": "openwright-ledger/1",
        "stage": kind,
        "recipe_digest": tagged_digest("recipe/1", recipe),
        "num_logical_replicas": 2,
        "order": {
            "version": "order/1",
            "tokens_digest": order.tokens_digest,
            "split": split,
            "seed": order.seed,
            "window_tokens": window,
            "sources": [{"name": s.name, "num_windows": s.num_windows} for s in order.sources],
            "phases": [
                {
                    "num_steps": phase.num_steps,
                    "sequences_per_step": phase.sequences_per_step,
                    "counts": list(phase.counts),
                }
                for phase in order.phases
            ],
        },
        "parents": [parent.as_json() for parent in sorted(parents)],
    }


def _checksum(model: Any) -> str:
    return format_checksum(ParameterChecksum(dict(model.named_parameters())).partial_sums())


def _step_record(
    step: int, order: Order, data: bytes, by_source: dict[str, int], trained: int, model: Any
) -> dict[str, Any]:
    return {
        "kind": "step",
        "step": step,
        "order_digest": order.order_digest(step),
        "token_digest": hashlib.sha256(data).hexdigest(),
        "tokens_by_source": by_source,
        "num_trained_tokens": trained,
        "loss": hex_float(5.7 - 0.3 * step),
        "gradient_norm": hex_float(1.0),
        "learning_rate": hex_float(1e-3),
        "parameter_checksum": _checksum(model),
    }


def _evaluation_record(step: int, split: str) -> dict[str, Any]:
    loss = 5.7 - 0.25 * step
    values = {"loss": hex_float(loss), "bits_per_byte": hex_float(loss * 0.6)}
    return {"kind": "evaluation", "step": step, "split": split, "num_tokens": 100, "num_bytes": 240, **values}


def _write_checkpoint(
    work: Path, corpus: Path, model: Any, step: int, ledger: ChainWriter, *, full: bool
) -> dict[str, str]:
    target = work / "checkpoints" / f"step-{step:08d}"
    target.mkdir(parents=True)
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(target)
    for path in (corpus / "tokenizer").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    optimizer: dict[str, torch.Tensor] = {"optimizer.step": torch.tensor(step, dtype=torch.int64)}
    for name, tensor in weights.items():
        optimizer |= {f"{name}.exp_avg": torch.zeros_like(tensor), f"{name}.exp_avg_sq": torch.zeros_like(tensor)}
    if full:
        save_file(optimizer, target / "optimizer.safetensors", metadata={"format": "pt"})
    state = state_digest({**weights, **optimizer}) if full else None
    digests = {"weights_digest": state_digest(weights), "state_digest": state}
    kind = "full" if full else "weights"
    place = {"num_records": ledger.num_records, "head": ledger.head}
    record = {"format": "openwright-checkpoint/1", "kind": kind, "step": step, **digests, "ledger": place}
    write_json(target / "checkpoint.json", record)
    ledger.append({"kind": "checkpoint", "step": step, "checkpoint_kind": kind, **digests})
    return digests  # type: ignore[return-value]


def _make_evaluation(context: StageContext, corpus: Artifact, runs: Mapping[str, Artifact]) -> Artifact:
    work = _work(context, "eval")
    write_evaluation(work, [d.text[:200] for s, d in _documents() if s.split == "heldout"], corpus, runs)
    parents = [corpus.as_parent("corpus"), *(run.as_parent(name) for name, run in runs.items())]
    return _finish(context, work, "eval", parents, {"models": list(runs)})

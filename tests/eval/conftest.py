"""A tiny corpus and tiny random models, laid out as `docs/formats.md` says."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, Olmo3Config

from eval.settings import BitsPerByteConfig, ClozeConfig, DocstringChoiceConfig, EvalConfig, ExecutionConfig
from provenance.artifacts import Artifact
from provenance.canonical import write_json
from provenance.digests import sha256_bytes, sha256_file, tagged_digest
from provenance.fingerprint import CodeIdentity
from provenance.stage import StageContext, StageSpec, run_stage


def words_of(text: str) -> list[str]:
    return text.split()


ENGLISH = words_of(
    "the reader opens a window of stored text and returns every second token after the parser checks each "
    "boundary column because a writer may leave broken margins inside older archives"
)
RUSSIAN = words_of(
    "читатель открывает окно текста и возвращает каждый второй символ потому что строка хранит разные "
    "границы после проверки старого архива новым способом"
)
GREEK = words_of("αναγνώστης ανοίγει ένα παράθυρο κειμένου και επιστρέφει κάθε δεύτερο σύμβολο μετά τον έλεγχο")
SOURCES = {"train": {"alpha": ENGLISH, "beta": RUSSIAN}, "heldout": {"gamma": ENGLISH, "delta": RUSSIAN + GREEK}}
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]


def sentence(rng: random.Random, words: list[str], size: int = 9) -> str:
    return " ".join(rng.choice(words) for _ in range(size)).capitalize() + "."


def document_rows(split: str, num_documents: int) -> list[dict[str, Any]]:
    rng = random.Random(f"documents {split}")
    rows = []
    for source, words in SOURCES[split].items():
        for number in range(num_documents):
            text = "\n\n".join(" ".join(sentence(rng, words) for _ in range(4)) for _ in range(2))
            rows.append(
                {
                    "document_id": sha256_bytes(f"{split} {source} {number}".encode()),
                    "source": source,
                    "path": f"docs/{number}.txt",
                    "licence": "MIT" if source == "gamma" else "Apache-2.0",
                    "text": text,
                }
            )
    return sorted(rows, key=lambda row: row["document_id"])


def conversation_rows(split: str, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rng = random.Random(f"conversations {split}")
    rows = []
    for document in documents:
        words = SOURCES[split][document["source"]]
        for number in range(2):
            name = f"{document['source']}.module.{rng.choice(words)}_{len(rows)}_{number}"
            summary = sentence(rng, words, 5)
            rows.append(
                {
                    "conversation_id": tagged_digest("test/1", [document["document_id"], number]),
                    "document_id": document["document_id"],
                    "source": document["source"],
                    "licence": document["licence"],
                    "qualified_name": name,
                    "signature": "(text, size=3)",
                    "summary": summary,
                    "messages": [
                        {"role": "user", "content": f"What does `{name}(text, size=3)` do?"},
                        {"role": "assistant", "content": summary},
                    ],
                }
            )
    return rows


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, chat: bool = True) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    if chat:
        (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[0], "pad_token": SPECIAL[1]}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_corpus(path: Path, num_documents: int = 24, vocab_size: int = 512) -> None:
    """Write the parts of a corpus that an evaluation reads."""
    documents = {split: document_rows(split, num_documents) for split in SOURCES}
    for split, rows in documents.items():
        write_table(path / f"text/{split}-00000.parquet", rows)
        write_table(path / f"conversations/{split}-00000.parquet", conversation_rows(split, rows))
    tokenizer = train_tokenizer([row["text"] for row in documents["train"]], vocab_size)
    save_tokenizer(tokenizer, path / "tokenizer")
    sources = []
    for name in sorted(SOURCES["train"]):
        ids = [
            token
            for row in documents["train"]
            if row["source"] == name
            for token in [*tokenizer.encode(row["text"]).ids, 0]
        ]
        relative = f"tokens/train/{name}/tokens-000.bin"
        (path / relative).parent.mkdir(parents=True, exist_ok=True)
        np.asarray(ids, dtype="<u2").tofile(path / relative)
        files = {"tokens": {"path": relative, "sha256": sha256_file(path / relative)}}
        sources.append({"name": name, "num_tokens": len(ids), "shards": [{"num_tokens": len(ids), "files": files}]})
    split = {"layout": "stream", "dtype": "u16", "width": 0, "digest": "ab" * 32, "sources": sources}
    write_json(
        path / "tokens/tokens.json",
        {
            "format": "openwright-tokens/1",
            "vocab_size": tokenizer.get_vocab_size(),
            "eos_id": 0,
            "pad_id": 1,
            "splits": {"train": split},
        },
    )


def write_run(path: Path, tokenizer: Tokenizer, seed: int, fields: Mapping[str, Any], chat: bool = True) -> None:
    """Write the parts of a run that an evaluation reads, with random weights."""
    checkpoint = path / "checkpoints/step-00000007"
    torch.manual_seed(seed)
    config = Olmo3Config(
        vocab_size=tokenizer.get_vocab_size(), eos_token_id=0, pad_token_id=1, tie_word_embeddings=True, **fields
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(checkpoint)
    save_tokenizer(tokenizer, checkpoint, chat)
    digest = sha256_file(checkpoint / "model.safetensors")
    write_json(checkpoint / "checkpoint.json", {"step": 7, "weights_digest": digest})
    final = {"step": 7, "weights_digest": digest, "path": "checkpoints/step-00000007"}
    about = {"format": "openwright-run/1", "model_type": "olmo3", "num_parameters": 1}
    write_json(path / "run.json", {**about, "final": final})


TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "sliding_window": 32,
}


@pytest.fixture(scope="session")
def eval_context(tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    code = CodeIdentity("0" * 40, False, "0" * 64)
    return StageContext("tiny", tmp_path_factory.mktemp("artifacts") / "tiny", code)


def seal(context: StageContext, kind: str, recipe: Any, body: Callable[[Path], None]) -> Artifact:
    return run_stage(context, StageSpec(kind, ("provenance",), ()), recipe, [], body)


@pytest.fixture(scope="session")
def corpus(eval_context: StageContext) -> Artifact:
    return seal(eval_context, "corpus", {"size": "tiny"}, write_corpus)


@pytest.fixture(scope="session")
def tokenizer(corpus: Artifact) -> Tokenizer:
    return Tokenizer.from_file(str(corpus.path / "tokenizer/tokenizer.json"))


@pytest.fixture(scope="session")
def run_models(eval_context: StageContext, tokenizer: Tokenizer) -> dict[str, Artifact]:
    return {
        name: seal(eval_context, name, {"seed": seed}, lambda work, s=seed: write_run(work, tokenizer, s, TINY))
        for seed, name in enumerate(("pretrain", "sft"))
    }


@pytest.fixture(scope="session")
def eval_config() -> EvalConfig:
    return EvalConfig(
        models=["pretrain", "sft"],
        context_tokens=96,
        batch_size=4,
        min_items=8,
        bits_per_byte=BitsPerByteConfig(max_documents=10, max_characters=400, min_characters=50),
        docstring_choice=DocstringChoiceConfig(max_items=12),
        cloze=ClozeConfig(max_items=12, context_characters=80),
        execution=ExecutionConfig(num_processes=2),
    )

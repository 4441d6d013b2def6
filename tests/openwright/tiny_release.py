"""A second release for the test of the whole command line: another model family, another seed, non-Latin text.

Its sources are small archives and one local data set, made here and laid into the cache, so that no network is used.
"""

import gzip
import hashlib
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import debian_fixtures
import megatron_fixtures
import yaml
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parent.parent.parent
AS_OF = "2026-11-01"
NOUNS = (
    *("поезд", "ветер", "город", "книга", "річка", "місто", "学习", "语言", "模型", "数据", "ποτάμι", "βιβλίο"),
    *("tokenizer", "window", "ledger", "release", "archive", "gradient", "document", "licence", "kernel", "segment"),
)
VERBS = ("reads", "writes", "returns", "checks", "joins", "splits", "читает", "пишет", "检查", "διαβάζει")
ADJECTIVES = ("small", "open", "strict", "pinned", "новый", "старый", "开放", "μικρό", "whole", "second")


def sentence(rng: random.Random) -> str:
    """One sentence of mixed scripts."""
    parts = [rng.choice(ADJECTIVES), rng.choice(NOUNS), rng.choice(VERBS), "the", rng.choice(ADJECTIVES)]
    return " ".join([*parts, rng.choice(NOUNS), "and", rng.choice(VERBS), "a", rng.choice(NOUNS)]).capitalize() + "."


def page(rng: random.Random, title: str) -> str:
    """A page of documentation."""
    paragraphs = [" ".join(sentence(rng) for _ in range(5)) for _ in range(4)]
    return f"# {title}\n\n" + "\n\n".join(paragraphs) + "\n"


def module(rng: random.Random, number: int) -> str:
    """A Python module with documented functions."""
    functions = []
    for index in range(6):
        verb, noun = rng.choice(("read", "write", "check", "join")), rng.choice(("rows", "lines", "words"))
        name = f"{verb}_{noun}_{number}_{index}"
        details = " ".join(sentence(rng) for _ in range(3))
        functions.append(f'def {name}(value, limit={index}):\n    """{sentence(rng)}\n\n    {details}\n    """\n')
    return f'"""Module {number}. {sentence(rng)}"""\n\n\n' + "\n\n".join(functions)


def make_archive(cache_dir: Path, project: str, seed: int, split: str) -> dict[str, Any]:
    """Lay a source distribution into the cache; returns its entry for corpus.yaml."""
    rng = random.Random(seed)
    licence = (ROOT / "data_recipes" / "licence_texts" / "MIT.txt").read_text(encoding="utf-8")
    root = f"{project}-1.0"
    metadata = ["Metadata-Version: 2.4", f"Name: {project}", "Version: 1.0", "License-Expression: MIT"]
    files = {
        "PKG-INFO": "\n".join([*metadata, "License-File: LICENSE", ""]),
        "LICENSE": f"Copyright (c) 2026 {project} authors\n\n{licence}",
        **{f"docs/page{number}.md": page(rng, f"{project} {number}") for number in range(8)},
        **{f"{project}/module{number}.py": module(rng, number) for number in range(6)},
    }
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name in sorted(files):
            data = files[name].encode()
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    data = gzip.compress(plain.getvalue(), mtime=0)
    digest = hashlib.sha256(data).hexdigest()
    target = cache_dir / digest / f"{root}.tar.gz"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return {
        "type": "pypi",
        "project": project,
        "version": "1.0",
        "filename": target.name,
        "sha256": digest,
        "size_bytes": len(data),
        "split": split,
        "as_of": AS_OF,
    }


def make_package(cache_dir: Path, seed: int) -> dict[str, Any]:
    """Lay a Debian source package into the cache; returns its entry for corpus.yaml."""
    rng = random.Random(seed)
    files = debian_fixtures.package(
        {f"docs/page{number}.md": page(rng, f"tiny {number}").encode() for number in range(3)}
    )
    for name, data in files.items():
        target = cache_dir / hashlib.sha256(data).hexdigest() / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return debian_fixtures.source_values(files, as_of=AS_OF)


def make_rows(data_dir: Path, seed: int) -> dict[str, Any]:
    """Write a JSONL data set with a licence per row, one of them outside the policy."""
    rng = random.Random(seed)
    rows = [
        {"text": page(rng, f"строка {number}"), "licence": "GPL-3.0-only" if number == 3 else "CC0-1.0"}
        for number in range(12)
    ]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "строки.jsonl").write_bytes(data)
    return {
        "type": "dataset",
        "name": "rows",
        "format": "jsonl",
        "files": [{"path": "строки.jsonl", "sha256": hashlib.sha256(data).hexdigest()}],
        "licence_column": "licence",
        "split": "train",
        "as_of": AS_OF,
        "obtained_from": "made by a test",
    }


def make_tokenizer(data_dir: Path, seed: int) -> dict[str, Any]:
    """Write a tokenizer made elsewhere, with one of the five control tokens; returns the section of corpus.yaml.

    It is of the kind that Llama 2 and Mistral have: BPE over characters, a sign for the space, bytes for the rest.
    """
    rng = random.Random(seed)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")  # for the training alone, as theirs
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=396,
        special_tokens=["<|endoftext|>", "<unk>", *byte_pieces],
        limit_alphabet=40,
        max_token_length=8,
        show_progress=False,
    )
    tokenizer.train_from_iterator([sentence(rng) for _ in range(200)], trainer)
    values = json.loads(tokenizer.to_str())
    values["pre_tokenizer"] = None
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] not in byte_pieces]
    data = json.dumps(values, ensure_ascii=False).encode()
    (data_dir / "tokenizer.json").write_bytes(data)
    licence = {"spdx": "MIT", "evidence": "the test that makes it"}
    pin = {"path": "tokenizer.json", "sha256": hashlib.sha256(data).hexdigest(), "obtained_from": "made by a test"}
    return {"vocab_size": 400, "file": {**pin, "licence": licence}}


def make_tokens(data_dir: Path, seed: int) -> dict[str, Any]:
    """Write files of tokens made elsewhere, which are trained on in place; returns their entry for corpus.yaml."""
    rng = random.Random(seed)
    tokenizer = Tokenizer.from_file(str(data_dir / "tokenizer.json"))
    texts = [*(page(rng, f"их {number}").strip() for number in range(6)), "Мало слов."]
    megatron_fixtures.write(data_dir / "theirs", [[*tokenizer.encode(text).ids, 0] for text in texts])
    pins = {
        name: {"path": name, "sha256": hashlib.sha256((data_dir / name).read_bytes()).hexdigest()}
        for name in ("theirs.bin", "theirs.idx", "tokenizer.json")
    }
    return {
        "type": "tokens",
        "name": "theirs",
        "format": "megatron",
        "shards": [{"tokens": pins["theirs.bin"], "index": pins["theirs.idx"]}],
        "tokenizer": pins["tokenizer.json"],
        "eos_id": 0,
        "licence": {"spdx": "CC0-1.0", "evidence": "the test that makes them"},
        "split": "train",
        "as_of": AS_OF,
        "obtained_from": "made by a test",
        "in_place": True,
    }


def make_sets(data_dir: Path) -> list[dict[str, Any]]:
    """Write two evaluation sets, of which one may be passed on; returns their entries for corpus.yaml."""
    entries = []
    for name, answer in (("carried", "the harbour master"), ("named", "nobody but the lamplighter")):
        question = f"Who of the {name} crew rowed across the frozen bay before anybody else was awake that morning?"
        data = json.dumps({"question": question, "choices": [answer, "another"]}).encode() + b"\n"
        (data_dir / f"{name}.jsonl").write_bytes(data)
        pin = {"path": f"{name}.jsonl", "sha256": hashlib.sha256(data).hexdigest()}
        entries.append(
            {"name": name, **pin, "text_columns": ["question", "choices"], "obtained_from": "made by a test"}
        )
    entries[0] |= {"licence": {"spdx": "MIT", "evidence": "the test that makes it"}, "shipping": "file"}
    return entries


def training(seed: int, split: str, heldout: str, num_steps: int, window_tokens: int) -> dict[str, Any]:
    """What both training stages share."""
    return {
        "seed": seed,
        "data": {
            "split": split,
            "window_tokens": window_tokens,
            "heldout_split": heldout,
            "heldout_windows": 4,
            "heldout_every_steps": 4,
        },
        "phases": [{"num_steps": num_steps, "sequences_per_step": 4, "mixture": "proportional"}],
        "optimizer": {"peak_learning_rate": 0.01},
        "schedule": {"warmup_steps": 1, "decay_steps": 2},
        "checkpoints": {"weights_until_step": 2, "full_every_steps": 3},
        "num_logical_replicas": 4,
    }


def write_configs(directory: Path, scratch: Path, seed: int = 77) -> Path:
    """Write the config directory of the release and its sources.

    Args:
        directory: config directory to make.
        scratch: place for the cache of archives and the data set.
    """
    sources = [
        make_archive(scratch / "cache", "azbuka", 1, "train"),
        make_archive(scratch / "cache", "hanzi", 2, "train"),
        make_archive(scratch / "cache", "omega", 3, "heldout"),
        make_rows(scratch / "data", 4),
        make_package(scratch / "cache", 6),
    ]
    tokenizer = make_tokenizer(scratch / "data", 5)
    sources.append(make_tokens(scratch / "data", 7))
    configs: dict[str, Any] = {
        "corpus": {
            "sources": sources,
            "policy": {"allow": ["MIT", "CC0-1.0"]},
            "decontamination": {"sets": make_sets(scratch / "data")},
            "tokenizer": tokenizer,
            "conversations": {"window_tokens": 127},
            "execution": {"cache_dir": str(scratch / "cache"), "data_dir": str(scratch / "data"), "num_workers": 1},
        },
        "pretrain": {
            **training(seed, "train", "heldout", 6, 32),
            "model": {
                "model_type": "llama",
                "fields": {
                    "hidden_size": 32,
                    "intermediate_size": 50,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "num_key_value_heads": 1,
                    "max_position_embeddings": 256,
                    "tie_word_embeddings": False,
                },
            },
        },
        "sft": {**training(seed + 1, "sft", "sft-heldout", 4, 127), "execution": {"num_processes": 1}},
        "eval": {
            "models": ["pretrain", "sft"],
            "context_tokens": 128,
            "min_items": 4,
            "bits_per_byte": {"max_documents": 6, "max_characters": 400},
            "docstring_choice": {"max_items": 8},
            "cloze": {"max_items": 8},
            "intervals": {"num_resamples": 100},
        },
        "release": {
            "name": "tiny-second",
            "version": "0.1",
            "description": "A tiny release that a test makes to walk the whole way.",
            "provider": {"name": "Тест", "contact": "test@example.org"},
            "languages": ["ru", "zh", "el", "en"],
            "intended_use": "Testing the whole command line on a second config.",
            "limitations": ["It has learnt nothing."],
            "data": {
                "selection": "Made by a program for this test, in several scripts and with two licences.",
                "labelling": "No labels were made by people.",
            },
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    for stage, values in configs.items():
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        (directory / f"{stage}.yaml").write_text(text, encoding="utf-8")
    return directory

"""Tiny source distributions and corpus recipes, made on the spot: no network, the same bytes every time."""

import gzip
import hashlib
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import data_recipes
from data_recipes.corpus import build_corpus
from data_recipes.settings import CorpusConfig
from provenance.artifacts import Artifact
from provenance.digests import sha256_file
from provenance.fingerprint import CodeIdentity
from provenance.stage import StageContext

AS_OF = "2026-11-24"
LICENCE_TEXTS = Path(data_recipes.__file__).parent / "licence_texts"
SCRIPTS = {
    "latin": "the tokenizer reads every shard of corpus and writes small open window with licence evidence kept",
    "cyrillic": "быстрый разбор текста хранит каждый документ вместе его лицензию всегда показывает источник данных",
}


def sentence(rng: random.Random, script: str = "latin") -> str:
    words = [rng.choice(SCRIPTS[script].split()) for _ in range(rng.randint(6, 12))]
    return " ".join(words).capitalize() + "."


def prose(seed: int, num_paragraphs: int = 5, script: str = "latin") -> str:
    rng = random.Random(seed)
    return "\n\n".join(" ".join(sentence(rng, script) for _ in range(4)) for _ in range(num_paragraphs)) + "\n"


def module(seed: int, num_functions: int = 4) -> str:
    rng = random.Random(seed)
    parts = [f'"""{sentence(rng)}\n\n{sentence(rng)} {sentence(rng)}\n"""\n']
    for number in range(num_functions):
        parts.append(
            f'def function_{seed}_{number}(value: int, *, scale: float = 1.0) -> str:\n    """{sentence(rng)}\n\n'
            f'    {sentence(rng)}\n    """\n    raise SystemExit("this code must never run")\n'
        )
    return "\n\n".join(parts)


def make_sdist(
    cache_dir: Path, project: str, version: str, files: dict[str, bytes], licence: str = "MIT"
) -> tuple[Path, str]:
    """Lay a source distribution into a cache directory; returns its path and sha256.

    Args:
        files: contents by path below the archive's top directory; metadata and LICENSE are added unless named.
        licence: SPDX identifier; its text comes along where the project knows it.
    """
    root = f"{project}-{version}"
    text = LICENCE_TEXTS / f"{licence.removesuffix('-only').removesuffix('-or-later')}.txt"
    metadata = f"Metadata-Version: 2.4\nName: {project}\nVersion: {version}\nLicense-Expression: {licence}\n"
    members = {"PKG-INFO": metadata.encode()}
    if text.is_file():
        members["LICENSE"] = f"Copyright (c) 2026 {project} authors\n\n".encode() + text.read_bytes()
    members |= files
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, data in sorted(members.items()):
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    packed = gzip.compress(plain.getvalue(), mtime=0)
    digest = hashlib.sha256(packed).hexdigest()
    path = cache_dir / digest / f"{root}.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    return path, digest


def pypi_source(
    cache_dir: Path, project: str, files: dict[str, bytes], *, split: str = "train", licence: str = "MIT"
) -> dict[str, Any]:
    """Make a source distribution of version 1.0 and return its entry for a recipe."""
    path, sha256 = make_sdist(cache_dir, project, "1.0", files, licence)
    return {
        "type": "pypi",
        "project": project,
        "version": "1.0",
        "filename": path.name,
        "sha256": sha256,
        "size_bytes": path.stat().st_size,
        "split": split,
        "as_of": AS_OF,
    }


def project_files(seed: int, script: str = "latin") -> dict[str, bytes]:
    """Documentation and modules of a small project."""
    files = {f"docs/page{number}.rst": prose(seed * 100 + number, script=script) for number in range(6)}
    files |= {f"src/pkg{seed}/module{number}.py": module(seed * 100 + number) for number in range(4)}
    return {name: text.encode() for name, text in files.items()}


def chat_source(root: Path, name: str, kind: str, rows: Any, *, form: str = "jsonl", **changes: Any) -> dict[str, Any]:
    """Write a file of conversations or pairs and return its entry in a recipe; rows may be lines as they stand.

    Args:
        form: suffix of the file; `jsonl.gz` is compressed.
        changes: replace keys; None removes one.
    """
    path = root / f"{name}.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        data = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(data) if form.endswith(".gz") else data)
    entry = {
        "name": name,
        "kind": kind,
        "format": "parquet" if form == "parquet" else "jsonl",
        "files": [{"path": path.name, "sha256": sha256_file(path)}],
        "licence": {"spdx": "MIT", "evidence": "LICENSE of the data set"},
        "split": "train",
        "as_of": "2026-11-25",
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not None}


def tiny_corpus_values(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Values of a recipe with two training projects (one in Cyrillic) and a held-out one; changes replace keys."""
    cache_dir = tmp_path / "cache"
    values: dict[str, Any] = {
        "sources": [
            pypi_source(cache_dir, "alpha", project_files(1)),
            pypi_source(cache_dir, "beta", project_files(2, "cyrillic"), licence="BSD-3-Clause"),
            pypi_source(cache_dir, "gamma", project_files(3), split="heldout"),
        ],
        "policy": {"allow": ["MIT", "BSD-3-Clause", "Apache-2.0"]},
        "tokenizer": {"vocab_size": 320},
        "conversations": {"window_tokens": 127},
        "num_shards": 2,
        "execution": {"num_workers": 1, "cache_dir": cache_dir, "data_dir": tmp_path},
    }
    return values | changes


def tiny_corpus_config(tmp_path: Path, **changes: Any) -> CorpusConfig:
    """Return `tiny_corpus_values` as a recipe."""
    return CorpusConfig.model_validate(tiny_corpus_values(tmp_path, **changes))


def tiny_context(store: Path) -> StageContext:
    """Return a context whose artifacts are made by a dev run of an unnamed tree."""
    return StageContext("tiny", store, CodeIdentity("0" * 40, True, "0" * 64), dev=True)


def build(root: Path, values: dict[str, Any], store: str = "store") -> Artifact:
    """Build the corpus of a recipe into a store below a directory."""
    return build_corpus(CorpusConfig.model_validate(values), tiny_context(root / store))

"""Small sources for a twin: made by a seeded program, in several scripts, with splits and licences of the real ones.

An archive of the package index becomes a small archive of the same name with documentation and documented functions;
everything else becomes a small file of rows. The same source always gets the same bytes.
"""

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provenance.digests import sha256_bytes, tagged_digest
from release.components import licence_text

AS_OF = "2026-11-01"
ROWS_FILE = "rows.jsonl"
NUM_ROWS = 8
NUM_PAGES = 3
NUM_MODULES = 2
NUM_FUNCTIONS = 6
_NOUNS = (
    *("поезд", "ветер", "книга", "місто", "学习", "语言", "模型", "数据", "βιβλίο", "ποτάμι", "किताब", "شجرة"),
    *("tokenizer", "window", "ledger", "release", "archive", "gradient", "document", "licence", "kernel", "segment"),
)
_VERBS = ("reads", "writes", "returns", "checks", "joins", "splits", "читает", "пишет", "检查", "διαβάζει")
_ADJECTIVES = ("small", "open", "strict", "pinned", "новый", "старый", "开放", "μικρό", "whole", "second")


def write_twin_source(source: Mapping[str, Any], allowed: Sequence[str], directory: Path) -> dict[str, Any]:
    """Write the small files of one source and return its entry for the twin's corpus.yaml.

    Args:
        source: the real source as a config holds it.
        allowed: licences of the policy, for sources whose rows or archives say their own.
        directory: where archives (`<sha256>/<name>`) and files of rows go.
    """
    name = str(source.get("project") or source.get("package") or source["name"])
    rng = random.Random(int(tagged_digest("twin/1", name)[:16], 16))
    if source["type"] == "pypi":
        return _archive(source, name, next(spdx for spdx in [*allowed, "MIT"] if _can_declare(spdx)), rng, directory)
    return _rows(source, name, allowed, rng, directory)


def _can_declare(spdx: str) -> bool:
    return licence_text(spdx) is not None


def _rows(
    source: Mapping[str, Any], name: str, allowed: Sequence[str], rng: random.Random, directory: Path
) -> dict[str, Any]:
    """A source of type `dataset`; where the real one has a licence per row, rows take turns with those allowed."""
    stated = source.get("licence")
    rows = []
    for number in range(NUM_ROWS):
        row = {"text": _page(rng, f"{name} {number}")}
        rows.append(row if stated else {**row, "licence": allowed[number % len(allowed)]})
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    digest = sha256_bytes(data)
    path = directory / digest[:12] / ROWS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {
        "type": "dataset",
        "name": name,
        "format": "jsonl",
        "files": [{"path": path.relative_to(directory).as_posix(), "sha256": digest}],
        "split": source["split"],
        "as_of": AS_OF,
        "obtained_from": "made by openwright --twin",
        "data_class": source.get("data_class", "open"),
        **({"licence": dict(stated)} if stated else {"licence_column": "licence"}),
    }


def _archive(source: Mapping[str, Any], name: str, spdx: str, rng: random.Random, directory: Path) -> dict[str, Any]:
    """A source distribution under one licence, laid where the cache of archives finds it."""
    root = f"{name}-1.0"
    declared = [f"License-Expression: {spdx}", "License-File: LICENSE", ""]
    files = {
        "PKG-INFO": "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *declared]),
        "LICENSE": f"Copyright (c) 2026 the twin of {name}\n\n{licence_text(spdx)}",
        **{f"docs/page{number}.md": _page(rng, f"{name} {number}") for number in range(NUM_PAGES)},
        **{f"twin/module{number}.py": _module(rng, number) for number in range(NUM_MODULES)},
    }
    data = gzip.compress(_tar(root, files), mtime=0)
    digest = hashlib.sha256(data).hexdigest()
    path = directory / digest / f"{root}.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    pin = {"version": "1.0", "filename": path.name, "sha256": digest, "size_bytes": len(data)}
    return {"type": "pypi", "project": name, **pin, "split": source["split"], "as_of": AS_OF}


def _tar(root: str, files: Mapping[str, str]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name in sorted(files):
            data = files[name].encode()
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return plain.getvalue()


def _sentence(rng: random.Random) -> str:
    parts = [rng.choice(_ADJECTIVES), rng.choice(_NOUNS), rng.choice(_VERBS), "the", rng.choice(_ADJECTIVES)]
    return " ".join([*parts, rng.choice(_NOUNS), "and", rng.choice(_VERBS), "a", rng.choice(_NOUNS)]).capitalize() + "."


def _page(rng: random.Random, title: str) -> str:
    paragraphs = [" ".join(_sentence(rng) for _ in range(4)) for _ in range(3)]
    return f"# {title}\n\n" + "\n\n".join(paragraphs) + "\n"


def _module(rng: random.Random, number: int) -> str:
    functions = []
    for index in range(NUM_FUNCTIONS):
        verb, noun = rng.choice(("read", "write", "check", "join")), rng.choice(("rows", "lines", "words"))
        details = " ".join(_sentence(rng) for _ in range(3))
        head = f"def {verb}_{noun}_{number}_{index}(value, limit={index}):"
        functions.append(f'{head}\n    """{_sentence(rng)}\n\n    {details}\n    """\n')
    return f'"""Module {number}. {_sentence(rng)}"""\n\n\n' + "\n\n".join(functions)

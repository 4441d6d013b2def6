"""Whatever bytes a bundle holds, its readers give a verdict or the clear error, in bounded time."""

import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provenance import canonical
from provenance.errors import OpenwrightError
from provenance.ledger import read_chain as read_chain_with_libraries
from release import checks, known_formats
from release.verify import (
    Mismatch,
    Order,
    Tree,
    canonical_json,
    fit,
    is_harmless,
    is_hex_float,
    parse_json,
    read_chain,
    read_ledger,
    show,
    verify_bundle,
)

RUN = "model/training/pretrain"
LEDGER = "training/pretrain/ledger.jsonl"
FILES = (
    *("dataset/corpus.json", "dataset/sources.lock", "dataset/documents/codes.json", "dataset/journal.jsonl"),
    *("dataset/tokens/tokens.json", "dataset/manifest.json", "dataset/documents/index-00000.bin"),
    *("model/manifest.json", "model/config.json", f"{RUN}/run.json", f"{RUN}/recipe.json", f"{RUN}/manifest.json"),
    *("model/checkpoints/pretrain/step-00000002/checkpoint.json", "model/model.safetensors"),
    *("model/evaluation/record.json", "model/openness/rules.yaml"),
)
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    2**53,
    10**400,
    "",
    "..",
    "\ud800",
    "0" * 64,
    float("nan"),
    [],
    {},
    [[]],
    {"a": {}},
    [1],
)
BYTES = (
    b"",
    b"[",
    b"\xff",
    b"\0" * 200,
    b'{"format":"openwright-run/9"}',
    b"- !!timestamp 2001-99-99\n",
    b"&a [*a, *a]",
)

few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def small(copy_of: Callable[[str], Path]) -> Path:
    """A bundle whose reading takes a moment: without the code, which is most of its files."""
    bundle = copy_of("plain")
    shutil.rmtree(bundle / "model" / "code")
    return bundle


def mutate(value: Any, draw: random.Random) -> Any:
    """The value with something else, something missing or something twice at a random place."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    whole = {"whole": json.loads(json.dumps(value))}
    walk(whole)
    node, key = draw.choice(places)
    what = draw.randrange(4)
    if what == 0 and node is not whole:
        del node[key]
    elif what == 1 and isinstance(node, list):
        node.append(node[key])
    else:
        node[key] = draw.choice(ODD)
    return whole["whole"]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Bytes of a file, changed in its structure where it is JSON, else anywhere."""
    if draw.random() < 0.15:
        return draw.choice(BYTES)
    try:
        return json.dumps(mutate(json.loads(data), draw)).encode("utf-8", "surrogatepass")
    except ValueError:
        cut = draw.randrange(len(data))
        return data[:cut] + draw.randbytes(draw.randrange(4)) + data[cut + draw.randrange(4) :]


@few
@given(st.randoms(use_true_random=False), st.sampled_from(FILES))
def test_a_bundle_with_a_mutated_file_gets_verdicts(small: Path, draw: random.Random, name: str) -> None:
    honest = (small / name).read_bytes()
    (small / name).write_bytes(mutated(honest, draw))
    try:
        results = verify_bundle(small, tokens="none")
        other = known_formats.unknown_version(small, "model/", "dataset/")
    finally:
        (small / name).write_bytes(honest)
    assert {result.verdict for result in results} <= {"PASS", "FAIL", "UNVERIFIED"}
    assert all(result.detail.isprintable() and result.where.isprintable() for result in results)
    assert other is None or len(other) == 2


CHECKS = {
    "dataset/documents/codes.json": checks.check_rows,
    "dataset/documents/index-00000.bin": checks.check_rows,
    "dataset/documents/documents-00000.parquet": checks.check_rows,
    "dataset/text/train-00000.parquet": checks.check_texts,
    "model/openness/components.json": checks.check_verdict,
    f"{RUN}/ledger.jsonl": checks.check_order,
    "model/evaluation/record.json": checks.check_evaluation,
    "model/evaluation/results.json": checks.check_evaluation,
    "model/evaluation/baselines.json": checks.check_evaluation,
}


@few
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(CHECKS)))
def test_a_check_with_libraries_gives_a_verdict_on_a_mutated_file(small: Path, draw: random.Random, name: str) -> None:
    honest = (small / name).read_bytes()
    (small / name).write_bytes(mutated(honest, draw))
    try:
        result = checks._guarded("some check", "somewhere", CHECKS[name], small)
    finally:
        (small / name).write_bytes(honest)
    assert result.verdict in ("PASS", "FAIL", "UNVERIFIED")
    assert len(result.detail) < 2000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_a_ledger_with_mutated_records_is_read_or_refused(
    bundle_of: Callable[[str], Path], tmp_path: Path, draw: random.Random
) -> None:
    """Its records are chained anew: what is refused is what they say."""
    lines = (bundle_of("experts") / "model" / LEDGER).read_bytes().splitlines()
    records = [json.loads(line) for line in lines]
    number = draw.randrange(len(records))
    records[number] = mutate(records[number], draw)
    previous, data = "0" * 64, b""
    for record in records:
        if isinstance(record, dict):
            record["previous"] = previous
        line = json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        previous = hashlib.sha256(line.encode("utf-8", "surrogatepass")).hexdigest()
        data += line.encode("utf-8", "surrogatepass") + b"\n"
    (tmp_path / "ledger.jsonl").write_bytes(data)
    tree = Tree(tmp_path, "model")
    with contextlib.suppress(Mismatch):
        ledger = read_ledger(tree, "ledger.jsonl")
        assert ledger.order.step_windows(ledger.order.num_steps)


@given(st.binary(max_size=200) | st.lists(st.binary(max_size=60)).map(b"\n".join))
def test_any_bytes_are_a_chain_or_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "chains" / "chain.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    accepted = 0
    for reader in (lambda: read_chain(Tree(path.parent, "x"), "chain.jsonl"), lambda: read_chain_with_libraries(path)):
        with contextlib.suppress(Mismatch, OpenwrightError):
            accepted += len(list(reader()))
    assert accepted == 0, "no bytes at random are chained"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**54), 2**54) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(PLAIN.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8")) | st.binary(max_size=40))
def test_two_readers_of_json_agree(data: bytes) -> None:
    """What the strict reader takes, the other one takes for the same, and both write the same bytes."""
    with contextlib.suppress(Mismatch):
        value = parse_json(data, "a file")
        assert canonical.parse_json(data, "a file") == value
        assert canonical.canonical_json(value) == canonical_json(value)


@given(st.text(), st.binary(max_size=30).map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_texts_of_a_stranger_are_judged_without_an_error(text: str, name: str) -> None:
    for value in (text, name):
        assert show(value).isprintable()
        assert isinstance(is_harmless(value), bool)
        assert isinstance(is_hex_float(value), bool)
        if is_harmless(value):
            assert ".." not in value.split("/")
            assert not value.startswith("/")


ORDER = {
    "version": "order/1",
    "tokens_digest": "0" * 64,
    "split": "train",
    "seed": 1,
    "window_tokens": 16,
    "sources": [{"name": "a", "num_windows": 5}, {"name": "b", "num_windows": 3}],
    "phases": [{"num_steps": 2, "sequences_per_step": 2, "counts": [3, 1]}],
}
POOLS = {
    **ORDER,
    "version": "order/2",
    "first_step": 3,
    "sources": [{"name": "a", "num_windows": 5, "window_tokens": 16, "draws_before": 2}],
    "phases": [{"num_steps": 2, "sequences_per_step": 2, "window_tokens": 16, "counts": [4]}],
}


@settings(max_examples=200)
@given(st.sampled_from((ORDER, POOLS)), st.randoms(use_true_random=False))
def test_a_mutated_order_is_computed_or_refused(stated: Any, draw: random.Random) -> None:
    with contextlib.suppress(Mismatch):
        value = parse_json(json.dumps(mutate(stated, draw)).encode(), "an order")
        fit(value, "object", "an order")
        order = Order(value, "an order")
        for step in (order.first_step, order.num_steps):
            assert all(0 <= window < pool.num_windows for pool, window in order.step_windows(step))

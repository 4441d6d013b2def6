"""Each lie with the check that must catch it, and with the checks that cannot: their limits are stated, not guessed.

A forger makes everything agree that can be made to agree: chains, digests and manifests are made anew by `forge`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forge
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fake_runs import state_digest
from safetensors.torch import load_file, save_file

from release.checks import verify_release
from release.reproduce import reproduce
from release.verify import BYTES, CheckResult, verify_bundle

Forgery = Callable[[Path], object]
Record = dict[str, Any]
TABLE = "dataset/documents/documents-00000.parquet"
INDEX = "dataset/documents/index-00000.bin"


def of(records: list[Record], kind: str, step: int) -> Record:
    return next(record for record in records if record["kind"] == kind and record["step"] == step)


def in_ledger(edit: Callable[[list[Record]], object]) -> Forgery:
    def edit_records(records: list[Record]) -> None:
        edit(records)

    return lambda bundle: forge.edit_ledger(bundle, "pretrain", edit_records)


def drop_optimizer(bundle: Path) -> None:
    (forge.checkpoint(bundle, "pretrain", 2) / "optimizer.safetensors").unlink()


def set_state(bundle: Path, step: int, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Edit the optimizer's tensors of a checkpoint and make every digest of that state agree."""
    folder = forge.checkpoint(bundle, "pretrain", step)
    optimizer = load_file(folder / "optimizer.safetensors")
    edit(optimizer)
    save_file(optimizer, folder / "optimizer.safetensors")
    digest = state_digest({**load_file(folder / "model.safetensors"), **optimizer})
    forge.write(folder / "checkpoint.json", {**forge.read(folder / "checkpoint.json"), "state_digest": digest})
    in_ledger(lambda records: of(records, "checkpoint", step).update(state_digest=digest))(bundle)


def forget_moments(optimizer: dict[str, torch.Tensor]) -> None:
    for name, tensor in optimizer.items():
        if name != "optimizer.step":
            optimizer[name] = torch.zeros_like(tensor)


def change_seed_in_both(bundle: Path) -> None:
    forge.edit_recipe(bundle, "pretrain", lambda recipe: recipe.update(seed=8))
    in_ledger(lambda records: records[0]["order"].update(seed=8))(bundle)


def follow_tokens(bundle: Path) -> None:
    """Make every digest of the token shards agree, in the ledgers too."""
    digests = forge.rehash_tokens(bundle)
    for stage in ("pretrain", "sft"):

        def edit(records: list[Record]) -> None:
            order = records[0]["order"]
            order["tokens_digest"] = digests[order["tokens_digest"]]

        forge.edit_ledger(bundle, stage, edit)


def change_one_token(bundle: Path) -> None:
    path = bundle / "dataset/tokens/train/alpha/tokens-000.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    follow_tokens(bundle)


def swap_shards(bundle: Path) -> None:
    """Each of two sources gets the shard of the other."""
    path = bundle / "dataset/tokens/tokens.json"
    tokens = forge.read(path)
    first, second = tokens["splits"]["train"]["sources"]
    for key in ("shards", "num_tokens", "num_documents"):
        first[key], second[key] = second[key], first[key]
    forge.write(path, tokens)
    follow_tokens(bundle)


def swap_checkpoints(bundle: Path) -> None:
    one, other = (forge.checkpoint(bundle, "pretrain", step) / "model.safetensors" for step in (1, 3))
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


def swap_two_steps(records: list[Record]) -> None:
    one, other = of(records, "step", 2), of(records, "step", 3)
    for key in set(one) - {"kind", "step", "previous"}:
        one[key], other[key] = other[key], one[key]


def rewrite_table(change: Callable[[list[Record]], object]) -> Forgery:
    def forgery(bundle: Path) -> None:
        table = pq.read_table(bundle / TABLE)
        rows = table.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), bundle / TABLE)

    return forgery


def kept(rows: list[Record]) -> int:
    """Number of a kept row under MIT."""
    return next(n for n, row in enumerate(rows) if row["decision"] == "kept" and row["licence_spdx"] == "MIT")


def relicense(rows: list[Record]) -> None:
    rows[kept(rows)].update(licence_spdx="Apache-2.0", licence_chosen="Apache-2.0")


def relicense_in_the_index(bundle: Path) -> None:
    number = kept(pq.read_table(bundle / TABLE).to_pylist())
    code = forge.read(bundle / "dataset/documents/codes.json")["licences"].index("Apache-2.0")
    data = bytearray((bundle / INDEX).read_bytes())
    data[80 * number + 70 : 80 * number + 72] = code.to_bytes(2, "little")
    (bundle / INDEX).write_bytes(data)


def relicense_everywhere(bundle: Path) -> None:
    relicense_in_the_index(bundle)
    rewrite_table(relicense)(bundle)


def say_twice_in_the_journal(bundle: Path) -> None:
    path = bundle / "model/training/pretrain/journal.jsonl"
    path.write_bytes(path.read_bytes() * 2)


def edit_journal_and_chain_it(bundle: Path) -> None:
    path = bundle / "model/training/pretrain/journal.jsonl"
    previous, lines = "0" * 64, []
    for line in path.read_text().replace("2026-11-24", "2026-11-23").splitlines():
        record = {**json.loads(line), "previous": previous}
        lines.append(json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        previous = forge.digest_bytes(lines[-1][:-1])
    path.write_bytes(b"".join(lines))


STANDALONE: list[tuple[str, Forgery, str, tuple[str, ...]]] = [
    ("optimizer dropped", drop_optimizer, "pretrain checkpoints", ("pretrain ledger", "pretrain schedule")),
    (
        "random key in the order",
        in_ledger(lambda records: records[0]["order"].update(seed=8)),
        "pretrain order",
        ("pretrain ledger", "pretrain windows"),
    ),
    ("random key in order and recipe", change_seed_in_both, "pretrain order", ("pretrain ledger", "pretrain recipe")),
    ("one token", change_one_token, "pretrain order", ("token shards", "documents", "pretrain windows")),
    ("shards swapped", swap_shards, "documents", ("token shards", "pretrain ledger")),
    ("checkpoints swapped", swap_checkpoints, "pretrain checkpoints", ("pretrain ledger", "pretrain schedule")),
    ("steps swapped", in_ledger(swap_two_steps), "pretrain order", ("pretrain ledger", "pretrain recipe")),
    ("tail cut", in_ledger(lambda records: records.__delitem__(slice(-3, None))), "pretrain ledger", ("journals",)),
    (
        "tail cut and ended anew",
        in_ledger(lambda records: records.__delitem__(slice(-5, -2))),
        "pretrain ledger",
        ("journals",),
    ),
    ("journal edited", say_twice_in_the_journal, "journals", ("pretrain ledger",)),
]


@pytest.mark.parametrize(("forgery", "check", "blind"), [s[1:] for s in STANDALONE], ids=[s[0] for s in STANDALONE])
def test_a_lie_is_caught_by_its_check_and_not_by_weaker_ones(
    copy_of: Callable[[str], Path], forgery: Forgery, check: str, blind: tuple[str, ...]
) -> None:
    bundle = copy_of("plain")
    forgery(bundle)
    forge.reseal(bundle)
    assert_caught(verify_bundle(bundle, tokens="all"), check, blind)


def assert_caught(results: list[CheckResult], check: str, blind: tuple[str, ...]) -> None:
    verdicts = {result.name: result.verdict for result in results}
    assert verdicts[check] == "FAIL"
    assert {name for name in blind if verdicts[name] != "PASS"} == set(), "stated limits of the weaker checks"
    assert not [r for r in results if r.check == BYTES and r.verdict == "FAIL"], "resealed: bytes agree"


LICENCES: list[tuple[str, Forgery, str, tuple[str, ...]]] = [
    ("in the table", rewrite_table(relicense), "document rows", ("documents", "texts", "token shards")),
    ("in the index", relicense_in_the_index, "document rows", ("documents", "texts", "token shards")),
    ("in both", relicense_everywhere, "generated documents", ("documents", "document rows", "texts")),
]


@pytest.mark.parametrize(("forgery", "check", "blind"), [c[1:] for c in LICENCES], ids=[c[0] for c in LICENCES])
def test_an_edited_licence_is_caught_with_libraries(
    copy_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    forgery: Forgery,
    check: str,
    blind: tuple[str, ...],
) -> None:
    monkeypatch.setattr("release.checks.sources_digest", lambda packages, root=None: "the same")
    bundle = copy_of("plain")
    forgery(bundle)
    forge.reseal(bundle)
    assert_caught(verify_release(bundle, expect=None, tokens="none"), check, blind)


def test_an_observation_made_anew_is_seen_by_nothing_but_the_expected_digest(copy_of: Callable[[str], Path]) -> None:
    """Journals are observations: no content digest counts them. What anchors them is the digest, or a signature."""
    bundle = copy_of("plain")
    honest = {result.name: result for result in verify_bundle(bundle, tokens="none")}
    expect = honest["identity"].detail.split()[2].rstrip(":")
    edit_journal_and_chain_it(bundle)
    forge.reseal(bundle)
    results = {result.name: result for result in verify_bundle(bundle, expect=expect, tokens="none")}
    assert [name for name, result in results.items() if result.verdict == "FAIL"] == ["identity"]
    assert results["content digest"] == honest["content digest"]


# ---- lies that only training again can tell --------------------------------------------------------------------------


def raise_the_learning_rate(bundle: Path) -> None:
    """A ten-thousandth more at one step, as its record says it."""

    def edit(records: list[Record]) -> None:
        record = of(records, "step", 5)
        record["learning_rate"] = (float.fromhex(record["learning_rate"]) * 1.0001).hex()

    forge.edit_ledger(bundle, "pretrain", edit)


REPLAYED: list[tuple[str, Forgery, str]] = [
    ("moments", lambda bundle: set_state(bundle, 3, forget_moments), "first difference at step 4"),
    ("learning rate", raise_the_learning_rate, "first difference at step 5"),
]


@pytest.mark.usefixtures("replaying_here")
@pytest.mark.parametrize(("forgery", "told"), [r[1:] for r in REPLAYED], ids=[r[0] for r in REPLAYED])
def test_what_passes_as_recorded_fails_when_it_is_trained_again(
    bundle: Path, tmp_path: Path, forgery: Forgery, told: str
) -> None:
    forged = Path(shutil.copytree(bundle, tmp_path / "forged"))
    forgery(forged)
    forge.reseal(forged)
    assert [result for result in verify_bundle(forged, tokens="all") if result.verdict == "FAIL"] == []
    (result,) = reproduce(forged, steps=(4, 5), num_processes=1)
    assert (result.check, result.verdict) == ("replay", "FAIL")
    assert told in result.detail

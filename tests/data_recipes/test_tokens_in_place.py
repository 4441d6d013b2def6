"""Files of tokens that are trained on in place: same bytes, every document, look-ups, orders, and what is refused."""

import errno
import os
import shutil
from collections import Counter
from typing import Any

import in_place_fixtures as fixtures
import numpy as np
import pyarrow.parquet as pq
import pytest
from corpus_fixtures import tiny_context
from in_place_fixtures import tokens_source, write_recipe
from pydantic import ValidationError
from test_token_source import EOS, write_megatron

import data_recipes.corpus
from data_recipes import place_step, token_source
from data_recipes.build import Build
from data_recipes.corpus import build_corpus
from data_recipes.document import Document, LicenceFinding, TokenPlace
from data_recipes.lookup import Lookup
from data_recipes.olmo_order import convert_olmo_order
from data_recipes.order import Order, Phase
from data_recipes.order_file import open_order
from data_recipes.recount import recount
from data_recipes.settings import CorpusConfig
from data_recipes.shards import shard_of
from data_recipes.steps import run_task
from data_recipes.tasks import Outputs
from data_recipes.tombstones import Tombstone, document_ranges, held_documents
from data_recipes.windows import TokenWindows
from provenance.artifacts import load_artifact
from provenance.canonical import read_json
from provenance.digests import sha256_bytes, sha256_file
from provenance.errors import ArtifactError, DataError, SourceError
from provenance.ledger import read_chain

WINDOW = 50


def build(root, **changes) -> Any:
    """Build the corpus of a recipe whose files are below a directory."""
    return build_corpus(CorpusConfig.model_validate(write_recipe(root, **changes)), tiny_context(root / "store"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("in-place")


@pytest.fixture(scope="module")
def corpus(root):
    return build(root)


def rows_of(corpus) -> list[dict[str, Any]]:
    paths = sorted((corpus.path / "documents").glob("documents-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


# ---- what a corpus holds ----------------------------------------------------------------------------------------


def in_place(ordinal: int, num_documents: int, number: int) -> Document:
    finding = LicenceFinding("MIT", "", "none", "", "", "")
    place = TokenPlace(ordinal, num_documents, number, 10 * number, 10 * number + 10)
    return Document("s", "ab" * 32, "a.npy#0", "in-place", "text", "0" * 64, "0" * 64, finding, place)


def test_ids_are_those_of_the_frozen_vectors_and_of_their_definition():
    """`document/2` of docs/formats.md."""
    assert [in_place(k, 3, number).document_id for k, number in ((0, 0), (1, 2), (2, 3))] == VECTORS
    value = f'{{"end":30,"first":20,"number":2,"source_digest":"{"ab" * 32}"}}'
    digest = sha256_bytes(f"openwright:document/2\n{value}".encode())
    assert VECTORS[1] == f"{(2**64 + int(digest[:16], 16) // 2) // 3:016x}{digest[16:]}"


def test_ids_rise_with_the_places_of_documents_and_short_prefixes_tell_them_apart():
    ids = [in_place(k, 2000, k).document_id for k in range(2000)]
    assert ids == sorted(set(ids))
    assert len({document_id[:12] for document_id in ids}) == 2000
    shards = Counter(shard_of(document_id, 8) for document_id in ids)
    assert max(shards.values()) - min(shards.values()) <= 1
    assert in_place(2**40, 2**40 + 1, 0).document_id < "f" * 64
    assert in_place(0, 1, 5).document_id != in_place(0, 1, 6).document_id


VECTORS = [
    "070e90426ed54b5efea7466fa68cbf0b888ced4d0bf453f8383fa20ce6b43fde",
    "7ef58ea2beb44ace3f3591bcaf89217a30f80c2908dc26668623d128d3d00377",
    "b1f707ed97583469ba2ad730084a96f846cdb2604c440fddea28c838921d2e2c",
]


def test_the_files_themselves_are_the_shards(corpus, root):
    splits = read_json(corpus.path / "tokens" / "tokens.json")["splits"]
    theirs = {source["name"]: source["shards"] for split in splits.values() for source in split["sources"]}
    for source, names in {"theirs": ("first.npy", "second.npy"), "theirs-heldout": ("third.npy",)}.items():
        assert len(theirs[source]) == len(names)
        for shard, name in zip(theirs[source], names, strict=True):
            path = corpus.path / shard["files"]["tokens"]["path"]
            assert path.samefile(root / name)
            assert shard["files"]["tokens"]["sha256"] == sha256_file(root / name)
    windows = TokenWindows(corpus.path, "train", WINDOW, verify=True)
    assert [source.name for source in windows.sources] == ["ours", "theirs"]
    assert [windows.num_documents(number) for number in (0, 1)] == [1, 10]
    lock = next(source for source in read_json(corpus.path / "sources.lock")["sources"] if source["name"] == "theirs")
    assert lock["in_place"] is True
    assert lock["statistics"] == {"num_documents": 16, "num_tokens": 9046, "num_without_eos": 1}


def test_every_document_is_kept_and_what_would_have_dropped_it_is_recorded(corpus):
    found = [
        (row["path"].split("#")[1], row["rule_not_applied"]) for row in rows_of(corpus) if row["source"] == "theirs"
    ]
    assert found == [
        ("0:id-0", ""),
        ("2:id-2", "min_num_words"),
        ("4:id-4", "max_item_overlap"),
        ("6:id-6", "min_num_words"),
        ("8:id-8", "duplicate"),
        ("10:id-10", "duplicate"),
        ("12:id-12", "undecodable"),
        ("0", ""),
        ("1", ""),
        ("2", "near_duplicate"),
    ]
    source = next(s for s in read_json(corpus.path / "corpus.json")["sources"] if s["name"] == "theirs")
    assert source["num_documents"] == {"kept": 10, "dropped": 0}
    assert source["files_skipped"] == {"document without tokens": 6}
    assert source["rules_not_applied"] == {
        "duplicate": 2, "max_item_overlap": 1, "min_num_words": 2, "near_duplicate": 1, "undecodable": 1,
    }  # fmt: skip


def test_others_give_way_to_a_document_in_place_even_held_out_ones(corpus):
    others = {(row["source"], row["path"]): row for row in rows_of(corpus) if row["kind"] == "row"}
    rules = {place: row["rule"] for place, row in others.items()}
    assert rules == {
        ("ours", "rows.jsonl#0"): "duplicate",
        ("ours", "rows.jsonl#1"): "near_duplicate",
        ("ours", "rows.jsonl#2"): "",
        ("ours-heldout", "heldout.jsonl#0"): "duplicate",
        ("ours-heldout", "heldout.jsonl#1"): "",
    }
    by_id = {row["document_id"]: row for row in rows_of(corpus)}
    first = by_id[others["ours", "rows.jsonl#0"]["duplicate_of"]]
    assert (first["source"], first["path"], first["cluster_size"]) == ("theirs", "first.npy#4:id-4", 3)


def test_thresholds_tried_anew_drop_no_document_in_place(corpus):
    counted = recount(corpus.path, ["quality.min_num_words=5000", "decontamination.max_item_overlap=1"])
    after = {source.name: source.kept_after for source in counted.by_source}
    assert after == {"ours": 0, "ours-heldout": 0, "theirs": 10, "theirs-heldout": 1}
    assert recount(corpus.path, []).num_let_in == 0


def test_documents_steps_and_takedown_find_the_tokens_of_a_document(corpus, root):
    windows = TokenWindows(corpus.path, "train", WINDOW)
    counts = tuple(source.num_windows for source in windows.sources)
    order = Order(windows.tokens_digest, 3, windows.sources, (Phase(sum(counts), 1, counts),))
    lookup = Lookup(corpus.path, order, "train", WINDOW)
    tokens = {name: np.fromfile(root / name, "<u2") for name in ("first.npy", "second.npy")}
    seen = 0
    for row in rows_of(corpus):
        if row["source"] != "theirs":
            continue
        document = lookup.find(row["document_id"][:24])
        shard, begin, end = lookup.place(document)
        held = tokens[row["path"].split("#")[0]][begin:end]
        assert (end - begin, shard) == (row["num_tokens"], int(row["path"].startswith("second")))
        assert row["raw_sha256"] == sha256_bytes(held.tobytes())
        for step in lookup.steps_that_read(document):
            (read,) = lookup.step(step)
            assert row["document_id"] in [found.document_id for found in read.documents]
            seen += 1
    assert seen >= sum(counts) - counts[0]
    short = next(row for row in rows_of(corpus) if row["path"] == "first.npy#6:id-6")
    named = held_documents(corpus.path, [Tombstone(short["document_id"], "0" * 64, "2026-11-25", "asked")])
    (part,) = document_ranges(corpus.path, named).values()
    assert bytes(tokens["first.npy"][part.begin : part.end - 1].tolist()) != b""
    assert (part.path, part.end - part.begin) == ("tokens/train/theirs/tokens-000.bin", len("short") + 1)


def test_a_file_that_is_changed_later_is_not_the_artifact_any_more(corpus, root):
    path, data = root / "second.npy", (root / "second.npy").read_bytes()
    try:
        with path.open("r+b") as file:
            file.write(b"\0\0")
        with pytest.raises(ArtifactError, match="not the one that the manifest lists") as refused:
            load_artifact(corpus.path)
        assert refused.value.where.endswith("tokens/train/theirs/tokens-001.bin")
    finally:
        with path.open("r+b") as file:  # the same file, or the link would be lost
            file.write(data)
    assert load_artifact(corpus.path) == corpus


# ---- how it is built --------------------------------------------------------------------------------------------


def test_an_interrupted_build_in_other_parts_with_copies_gives_the_same_bytes(corpus, tmp_path, monkeypatch, capsys):
    done = []

    def stopped(root, step, number):
        if step == "place" and done and done[-1] == "place":
            raise KeyboardInterrupt
        done.append(step)
        run_task(root, step, number)

    def no_link(source, target):
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(token_source, "PART_TOKENS", 2000)
    monkeypatch.setattr(place_step, "_BLOCK", 2)
    with monkeypatch.context() as patch:
        patch.setattr(data_recipes.corpus, "run_task", stopped)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path)
    monkeypatch.setattr(os, "link", no_link)
    again = build(tmp_path)
    assert again.results == corpus.results
    copied = again.path / "tokens" / "train" / "theirs" / "tokens-001.bin"
    assert not copied.samefile(tmp_path / "second.npy")
    assert "another file system" in capsys.readouterr().err
    notes = [record for record in read_chain(again.path / "journal.jsonl") if record["kind"] == "token file copied"]
    assert [note["path"] for note in notes] == [
        str(copied.relative_to(again.path)),
        "tokens/heldout/theirs-heldout/tokens-000.bin",
    ]


def megatron(root, dtype="<i4", **changes) -> CorpusConfig:
    """A recipe over one file of Megatron in place."""
    values = write_recipe(root)
    write_megatron(root, [[70, 71, EOS], [72, EOS]], dtype)
    values["sources"] = [tokens_source(root, "theirs", [("a.bin", "a.idx")], format="megatron", dtype=None)]
    values["tokenizer"] |= changes
    return CorpusConfig.model_validate(values)


def test_i32_of_megatron_are_u32_and_a_link_is_followed(tmp_path):
    config = megatron(tmp_path, vocab_size=70_000)
    (tmp_path / "a.bin").rename(tmp_path / "elsewhere.bin")
    (tmp_path / "a.bin").symlink_to("elsewhere.bin")
    value = {"source": "theirs", "shard": 0, "sha256": sha256_file(tmp_path / "a.bin")}
    work = tmp_path / "work"
    (work / "tokenizer").mkdir(parents=True)
    shutil.copyfile(tmp_path / "tokenizer.json", work / "tokenizer" / "tokenizer.json")  # as the step `train` does
    outputs = Outputs(work)
    report = place_step.place(Build(work, config), value, outputs)
    assert (report["copied"], report["entry"]["num_tokens"], report["entry"]["num_documents"]) == ("", 5, 2)
    tokens, ends = (work / report["entry"]["files"][role]["path"] for role in ("tokens", "ends"))
    assert not tokens.is_symlink()
    assert tokens.samefile(tmp_path / "elsewhere.bin")
    assert np.fromfile(tokens, "<u4").tolist() == [70, 71, EOS, 72, EOS]
    assert np.fromfile(ends, "<u8").tolist() == [3, 5]


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": {"vocab_size": 261}}, "tokenizer.file with the sha256"),
        ({"tokenizer": {"vocab_size": 261, "file": {"path": "other.json", "sha256": "0" * 64}}}, "tokenizer.file with"),
        ({"vocab_size": 70_000}, "dtype u32"),
        ({"policy": {"allow": ["Apache-2.0"]}}, "a policy that allows MIT of 'theirs'"),
        ({"policy": {"allow": ["MIT"], "needs_attribution": "with-credit"}}, "a policy that allows MIT of 'theirs'"),
        ({"lines": {}}, "lines.sources without 'theirs'"),
        ({"lines": {"sources": ["theirs"]}}, "lines.sources without 'theirs'"),
        ({"personal_data": {"action": "redact"}}, "record beside 'theirs'"),
        ({"eos_id": None}, "eos_id"),
        ({"heldout_file": "second.npy"}, "each file of tokens once; second.npy is in 'theirs' and 'theirs-heldout'"),
        ({"heldout_file": "second.npy", "in_place": False}, "each file of tokens once"),
    ],
)
def test_recipes_that_cannot_be_kept_to_are_refused_before_anything_is_read(changes, message, root, corpus):
    values = write_recipe(root)
    theirs, heldout = values["sources"][:2]
    if "vocab_size" in changes:
        values["tokenizer"]["vocab_size"] = changes.pop("vocab_size")
    if "eos_id" in changes:
        theirs["eos_id"] = changes.pop("eos_id")
    if "heldout_file" in changes:
        heldout["shards"] = [{"tokens": fixtures.pin(root, changes.pop("heldout_file"))}]
        heldout["in_place"] = changes.pop("in_place", True)
    with pytest.raises(ValidationError, match=message):
        CorpusConfig.model_validate(values | changes)


def test_lines_may_be_taken_out_of_other_sources(root, corpus):
    values = write_recipe(root, lines={"sources": ["ours"]})
    assert CorpusConfig.model_validate(values).in_place == {"theirs", "theirs-heldout"}


def test_ids_of_another_width_and_another_end_token_are_refused(tmp_path):
    with pytest.raises(DataError, match="ids of 4 bytes") as refused:
        place_step.check_files(megatron(tmp_path))
    assert refused.value.where.endswith("a.bin")
    place_step.check_files(megatron(tmp_path, "<u2"))
    values = write_recipe(tmp_path)
    values["sources"][0]["eos_id"] = 7
    with pytest.raises(DataError, match="eos_id 7 of source 'theirs', and '<eos>' is 256"):
        build_corpus(CorpusConfig.model_validate(values), tiny_context(tmp_path / "store"))


def test_a_file_that_changed_is_refused_before_and_after_it_was_read(tmp_path):
    config = CorpusConfig.model_validate(write_recipe(tmp_path))
    pinned = sha256_file(tmp_path / "second.npy")
    with (tmp_path / "second.npy").open("r+b") as file:
        file.write(b"\0\0")
    work = tmp_path / "work"
    with pytest.raises(SourceError, match="source 'theirs'") as refused:
        place_step.place(Build(work, config), {"source": "theirs", "shard": 1, "sha256": pinned}, Outputs(work))
    assert refused.value.where.endswith("second.npy")
    assert not (work / "tokens").exists()
    with pytest.raises(SourceError, match=sha256_file(tmp_path / "second.npy")):
        build_corpus(config, tiny_context(tmp_path / "store"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"forget": [{"document_id": "f" * 64, "text_sha256": sha256_bytes(b"short")}]}, DataError, "'taken down'"),
        ({"limits": {"max_document_bytes": 1500}}, DataError, "too long to be read"),
    ],
)
def test_documents_that_cannot_stay_end_the_build(changes, error, message, tmp_path):
    with pytest.raises(error, match=message) as refused:
        build(tmp_path, **changes)
    assert refused.value.next_command


def test_ids_beyond_the_tokenizer_and_an_index_that_does_not_fit_end_the_build(tmp_path):
    values = write_recipe(tmp_path)
    for tokens, rows, message in (
        ([[70, 300, EOS]], [[70, 300, EOS]], "the id 300"),
        ([[70, 71, EOS]], [[70, EOS]], "documents of 2 tokens in all"),
        ([[70, 71, EOS]], [[70, 71, EOS], [70, 71]], "not an index"),
        ([[]], [[]], "0 bytes"),
    ):
        fixtures.write_tokens(tmp_path / "first.npy", tokens)
        fixtures.write_index(tmp_path / "first.csv.gz", rows)
        values["sources"][0] = tokens_source(tmp_path, "theirs", [("first.npy", "first.csv.gz")])
        with pytest.raises(DataError, match=message):
            build_corpus(CorpusConfig.model_validate(values), tiny_context(tmp_path / "store"))


# ---- an order made elsewhere ------------------------------------------------------------------------------------


def convert(corpus, root, instances, **changes) -> Any:
    np.array(instances, "<u4").tofile(root / "global_indices.npy")
    (root / "order.bin").unlink(missing_ok=True)
    options = {"split": "train", "window_tokens": WINDOW} | changes
    return convert_olmo_order(corpus.path, "theirs", root / "global_indices.npy", root / "order.bin", **options)


def test_an_order_of_olmo_core_reads_the_tokens_of_its_instances_in_its_order(corpus, root):
    files = [np.fromfile(root / name, "<u2") for name in ("first.npy", "second.npy")]
    instances = [part for ids in files for part in ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)]
    numbers = np.random.default_rng(5).permutation(len(instances))[: len(instances) // 4 * 4]
    made = convert(corpus, root, numbers)
    windows = TokenWindows(corpus.path, "train", WINDOW)
    assert (made.tokens_digest, made.num_windows, made.num_left_out) == (windows.tokens_digest, len(numbers), 0)
    order = open_order(
        root / "order.bin",
        dtype=made.dtype,
        sha256=made.sha256,
        tokens_digest=made.tokens_digest,
        seed=0,
        sources=windows.sources,
        shape=[(len(numbers) // 4, 4)],
    )
    lookup = Lookup(corpus.path, order, "train", WINDOW)
    for step in range(1, order.num_steps + 1):
        for draw, number in zip(order.step_draws(step), numbers[4 * step - 4 : 4 * step], strict=True):
            ids, _ = windows.read(draw.source, draw.window)
            assert ids[:WINDOW].tolist() == instances[number].tolist()
    document = next(row for row in rows_of(corpus) if row["path"] == "second.npy#1")
    steps = lookup.steps_that_read(lookup.find(document["document_id"]))
    assert steps == [
        s for s in range(1, order.num_steps + 1) if any(document["document_id"] in ids for ids in read_by(lookup, s))
    ]


def read_by(lookup, step) -> list[list[str]]:
    return [[document.document_id for document in read.documents] for read in lookup.step(step)]


def test_an_instance_without_a_window_is_refused_or_left_out_in_words(corpus, root):
    length = 4355 // 5  # of the first file, which it divides: the last of its five instances has no token after it
    with pytest.raises(DataError, match="2 of 6 places name the last instance of a file"):
        convert(corpus, root, [4, 0, 5, 4, 9, 3], window_tokens=length)
    assert not (root / "order.bin").exists()
    made = convert(corpus, root, [4, 0, 5, 4, 9, 3], window_tokens=length, leave_out=True)
    assert (made.num_windows, made.num_left_out) == (4, 2)
    offset = TokenWindows(corpus.path, "train", length).sources[0].num_windows
    assert np.fromfile(root / "order.bin", "<u4").tolist() == [offset + window for window in (0, 4, 8, 3)]
    made = convert(corpus, root, [0, 3, 4], window_tokens=length, file_chunk_tokens=2 * length)
    assert np.fromfile(root / "order.bin", "<u4").tolist() == [offset + window for window in (0, 3, 4)]


def test_numbers_that_are_no_instance_and_other_sources_are_refused(corpus, root):
    with pytest.raises(DataError, match="instance 180 at place 1") as refused:
        convert(corpus, root, [3, 180])
    assert "below 180" in refused.value.expected
    assert not (root / "order.bin").exists()
    for changes, message in (
        ({"file_chunk_tokens": WINDOW + 1}, "stretches of 51 tokens"),
        ({"split": "heldout"}, "not in split 'heldout'"),
    ):
        with pytest.raises(DataError, match=message):
            convert(corpus, root, [3], **changes)
    with pytest.raises(DataError, match="'ours' is not in place") as refused:
        convert_olmo_order(
            corpus.path, "ours", root / "global_indices.npy", root / "new.bin", split="train", window_tokens=WINDOW
        )
    assert "theirs, theirs-heldout" in refused.value.expected
    np.save(root / "header.npy", np.array([1, 2], "<u4"), allow_pickle=False)
    with pytest.raises(DataError, match="header of numpy"):
        convert_olmo_order(
            corpus.path, "theirs", root / "header.npy", root / "new.bin", split="train", window_tokens=WINDOW
        )

"""Sources of type `tokens`: shards of Megatron and OLMo-core read back as texts; what does not fit is refused."""

import csv
import gzip
import io
import json
import struct

import megatron_fixtures
import numpy as np
import pytest
from pydantic import ValidationError
from tokenizer_fixtures import tokenizer_json, tokenizer_values
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data_recipes import token_files, token_source
from data_recipes.reading import PartReport, ReadingContext, ReadingLimits, SourcePart
from data_recipes.token_settings import TokensSource
from data_recipes.token_source import TokensReader
from provenance.digests import sha256_bytes, sha256_file
from provenance.errors import DataError, SourceError

TEXTS = ["First document.", "Второй документ.", "第三 — the third", "x", "last one"]
EOS = 256
HEADER = megatron_fixtures.MAGIC


def byte_tokenizer(path):
    """A tokenizer whose ids are bytes, and one more that ends documents."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(path))
    return tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    return byte_tokenizer(tmp_path / "tokenizer.json")


def documents_of(tokenizer, texts=TEXTS):
    return [[*tokenizer.encode(text).ids, EOS] for text in texts]


def write_megatron(directory, documents, dtype="<u2", **changes):
    megatron_fixtures.write(directory / "a", documents, dtype, **changes)


def write_olmo(directory, documents, dtype="<u4"):
    (directory / "a.npy").write_bytes(np.concatenate([np.asarray(ids) for ids in documents]).astype(dtype).tobytes())
    ends = np.cumsum([len(ids) for ids in documents])
    rows = [
        [end - len(ids), end, f"id-{number}", "s3://theirs/part.jsonl.gz", number]
        for number, (ids, end) in enumerate(zip(documents, ends, strict=True))
    ]
    write_csv(directory, rows)


def write_csv(directory, rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    (directory / "a.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def source(directory, kind, **changes):
    names = {"megatron": ("a.bin", "a.idx"), "olmo": ("a.npy", "a.csv.gz")}[kind]
    pin = {name: {"path": name, "sha256": sha256_file(directory / name)} for name in (*names, "tokenizer.json")}
    values = {
        "type": "tokens",
        "name": "shards",
        "format": kind,
        "dtype": "u32" if kind == "olmo" else None,
        "shards": [{"tokens": pin[names[0]], "index": pin[names[1]]}],
        "tokenizer": pin["tokenizer.json"],
        "eos_id": EOS,
        "licence": {"spdx": "ODC-By-1.0", "evidence": "the card of the shards"},
        "split": "train",
        "as_of": "2026-11-25",
        "obtained_from": "their bucket",
    }
    return TokensSource.model_validate({**values, **changes})


def read(pinned, directory, limits=None):
    reader = TokensReader(pinned, ReadingContext(limits or ReadingLimits(), directory, directory))
    extracted, reports = [], []
    for part in reader.parts():
        reports.append(PartReport())
        as_sent = SourcePart(**json.loads(json.dumps(part.as_json())))
        extracted += list(reader.read(as_sent, reports[-1]))
    return extracted, reader.lock(reports)


WRITERS = {"megatron": write_megatron, "olmo": write_olmo}


@pytest.mark.parametrize("kind", WRITERS)
def test_documents_come_back_as_their_texts(kind, tokenizer, tmp_path):
    WRITERS[kind](tmp_path, documents_of(tokenizer))
    extracted, lock = read(source(tmp_path, kind), tmp_path)
    assert [item.document.text for item in extracted] == TEXTS
    first = extracted[0].document
    assert first.path == ("a.bin#0" if kind == "megatron" else "a.npy#0:id-0")
    assert (first.licence.spdx, first.source_digest) == ("ODC-By-1.0", lock["files"][0]["sha256"])
    assert lock["statistics"] == {"num_documents": 5, "num_tokens": sum(map(len, documents_of(tokenizer)))}
    assert lock["tokenizer_sha256"] == sha256_file(tmp_path / "tokenizer.json")
    assert [file["path"] for file in lock["files"]][-1] == "tokenizer.json"


def test_types_sequences_and_ends_without_an_index(tokenizer, tmp_path):
    documents = documents_of(tokenizer)
    write_megatron(tmp_path, documents, "<i4", sequences_per_document=2)
    assert [item.document.text for item in read(source(tmp_path, "megatron"), tmp_path)[0]] == TEXTS
    write_olmo(tmp_path, documents, "<u2")
    pinned = source(tmp_path, "olmo", dtype="u16")
    shard = pinned.shards[0].model_copy(update={"index": None})
    pinned = pinned.model_copy(update={"shards": [shard]})
    extracted, _ = read(pinned, tmp_path)
    assert [item.document.text for item in extracted] == TEXTS
    assert extracted[1].document.path == "a.npy#1"


def test_shards_that_we_export_are_read(tmp_path):
    from data_recipes.megatron_export import export_megatron
    from data_recipes.shards import TokenSequence, write_split, write_tokens_json

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    tokenizer = byte_tokenizer(tmp_path / "tokenizer.json")
    sequences = [
        TokenSequence(sha256_bytes(text.encode()), "слова", np.asarray([*tokenizer.encode(text).ids, EOS], np.uint16))
        for text in TEXTS
    ]
    split = write_split(corpus, "train", sequences, layout="stream", width=0, dtype="u16", num_shards=2)
    write_tokens_json(corpus, {"train": split}, vocab_size=257, eos_id=EOS, pad_id=EOS, tokenizer_sha256="0" * 64)
    export_megatron(corpus, "train", tmp_path / "out")
    for suffix in ("bin", "idx"):
        (exported,) = (tmp_path / "out").glob(f"*.{suffix}")
        exported.rename(tmp_path / f"a.{suffix}")
    extracted, _ = read(source(tmp_path, "megatron"), tmp_path)
    assert sorted(item.document.text for item in extracted) == sorted(TEXTS)


def shards(kind, directory, documents, **changes):
    """A source of one shard; of kind `eos`, one of OLMo-core without an index."""
    WRITERS.get(kind, write_olmo)(directory, documents)
    pinned = source(directory, "olmo" if kind == "eos" else kind, **changes)
    if kind == "eos":
        pinned = pinned.model_copy(update={"shards": [pinned.shards[0].model_copy(update={"index": None})]})
    return pinned


@pytest.mark.parametrize("kind", [*WRITERS, "eos"])
def test_parts_hold_all_documents_once(kind, tokenizer, tmp_path, monkeypatch):
    pinned = shards(kind, tmp_path, [*documents_of(tokenizer), [EOS], [65]])
    whole, lock = read(pinned, tmp_path)
    monkeypatch.setattr(token_source, "PART_TOKENS", 20)
    monkeypatch.setattr(token_files, "_BLOCK", 2)
    reader = TokensReader(pinned, ReadingContext(ReadingLimits(), tmp_path, tmp_path))
    assert len({part.name for part in reader.parts()}) > 2
    assert read(pinned, tmp_path) == (whole, lock)
    assert len(whole) == len(TEXTS) + 1


def test_empty_documents_behind_the_last_token_are_a_part(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_source, "PART_TOKENS", 20)
    for kind in WRITERS:
        _, lock = read(shards(kind, tmp_path, [*documents_of(tokenizer), [], []]), tmp_path)
        assert lock["statistics"]["num_documents"] == len(TEXTS) + 2


@pytest.mark.parametrize("kind", [*WRITERS, "eos"])
def test_a_part_begins_at_its_own_place(kind, tokenizer, tmp_path, monkeypatch):
    """What stands before it in the index is not read: it may be anything by then."""
    pinned = shards(kind, tmp_path, documents_of(tokenizer))
    monkeypatch.setattr(token_source, "PART_TOKENS", 20)
    reader = TokensReader(pinned, ReadingContext(ReadingLimits(), tmp_path, tmp_path))
    *_, last = reader.parts()
    if kind == "megatron":
        index = bytearray((tmp_path / "a.idx").read_bytes())
        first_place = len(HEADER) + 25 + 4 * len(TEXTS)
        index[first_place : first_place + 8] = bytes([255] * 8)
        (tmp_path / "a.idx").write_bytes(index)
    if kind == "olmo":
        (tmp_path / "a.csv.gz").unlink()
    tokens = tmp_path / pinned.shards[0].tokens.path
    begin = last.pin["first_token"] * (2 if kind == "megatron" else 4)
    tokens.write_bytes(bytes(begin) + tokens.read_bytes()[begin:])
    found = [item.document.text for item in reader.read(last, PartReport())]
    assert found == TEXTS[last.pin["first"] :]


def test_a_part_whose_files_changed_since_they_were_checked_is_refused(tokenizer, tmp_path):
    context = ReadingContext(ReadingLimits(), tmp_path, tmp_path)
    reader = TokensReader(shards("megatron", tmp_path, documents_of(tokenizer)), context)
    (part,) = reader.parts()
    for documents in (documents_of(tokenizer)[:-1], [[65], *documents_of(tokenizer)]):
        write_megatron(tmp_path, documents)
        with pytest.raises(DataError, match="other documents than it had"):
            list(reader.read(part, PartReport()))
    reader = TokensReader(shards("eos", tmp_path, documents_of(tokenizer)), context)
    (part,) = reader.parts()
    write_olmo(tmp_path, [[EOS], *documents_of(tokenizer)])
    with pytest.raises(DataError, match="documents from 0 on"):
        list(reader.read(part, PartReport()))
    reader = TokensReader(shards("olmo", tmp_path, documents_of(tokenizer)), context)
    (part,) = reader.parts()
    (lines,) = (tmp_path / "derived").iterdir()
    lines.write_bytes(gzip.compress(gzip.decompress(lines.read_bytes()).replace(b"id-0", b"id-9")))
    with pytest.raises(SourceError, match="source 'shards'"):
        list(reader.read(part, PartReport()))


def test_ids_that_are_no_text_and_long_documents_are_recorded_drops(tokenizer, tmp_path):
    half = tokenizer.encode("я").ids[:1]
    replacement = tokenizer.encode("a \ufffd that was written").ids
    write_olmo(tmp_path, [[*half, EOS], [*replacement, EOS], [*tokenizer.encode("long " * 50).ids, EOS]])
    extracted, _ = read(source(tmp_path, "olmo"), tmp_path, ReadingLimits(max_document_bytes=100))
    assert [item.broken for item in extracted] == ["undecodable", "", "oversized"]
    assert [item.document.text for item in extracted] == ["", "a \ufffd that was written", ""]
    assert extracted[0].document.raw_sha256 == sha256_bytes(np.asarray(half, "<u4").tobytes())


def test_texts_come_back_from_tokens_of_other_kinds_where_all_of_them_is_in_the_vocabulary(tmp_path):
    for kind, texts, unknown in (("byte fallback", TEXTS, ""), ("word pieces", ["the model.", "don't"], "第三 the")):
        (tmp_path / "tokenizer.json").write_text(tokenizer_json(kind))
        tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        eos = tokenizer.token_to_id("[SEP]") or 0
        every = [*texts, unknown] if unknown else texts
        write_olmo(tmp_path, [[*tokenizer.encode(text, add_special_tokens=False).ids, eos] for text in every])
        extracted, _ = read(source(tmp_path, "olmo", eos_id=eos), tmp_path)
        found = [(item.document.text, item.broken) for item in extracted]
        changed = {"don't": "don ' t"}
        expected = [(text if kind == "byte fallback" else changed.get(text, text), "") for text in texts]
        assert found == [*expected, *([("", "undecodable")] if unknown else [])]


@pytest.mark.parametrize(
    ("kind", "decoder", "expected"),
    [
        ("byte-level", None, "the decoder ByteLevel"),
        ("byte-level", {"type": "Fuse"}, "the decoder ByteLevel"),
        ("word ends", {"type": "Fuse"}, "the decoder BPEDecoder"),
        ("unigram", None, "a decoder that puts parts of words together"),
    ],
)
def test_a_tokenizer_whose_decoder_would_leave_its_own_signs_in_texts_is_refused(tmp_path, kind, decoder, expected):
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_values(kind) | {"decoder": decoder}))
    write_olmo(tmp_path, [[1, 2, EOS]])
    with pytest.raises(DataError, match="does not give texts back") as refused:
        read(source(tmp_path, "olmo"), tmp_path)
    assert refused.value.expected == expected


def test_ids_of_another_tokenizer_are_refused(tokenizer, tmp_path):
    write_olmo(tmp_path, [*documents_of(tokenizer), [300]])
    with pytest.raises(DataError, match="has the id 300") as caught:
        read(source(tmp_path, "olmo"), tmp_path)
    assert "below 257" in caught.value.expected
    write_megatron(tmp_path, [[-1, 3]], "<i4")
    with pytest.raises(DataError, match="negative"):
        read(source(tmp_path, "megatron"), tmp_path)


def test_a_tokenizer_with_gaps_between_its_ids(tokenizer, tmp_path):
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    values["model"]["vocab"]["ab"] = 300  # ids 257 to 299 are none
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    write_olmo(tmp_path, [[300, EOS]])
    assert [item.document.text for item in read(source(tmp_path, "olmo"), tmp_path)[0]] == ["ab"]
    write_olmo(tmp_path, [[300, EOS], [300, 280, EOS]])
    with pytest.raises(DataError, match="document 1 has the id 280"):
        read(source(tmp_path, "olmo"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"code": 5}, "token type 5"),
        ({"sequences": 4}, "bytes"),
        ({"bounds": 2**60}, "bytes"),
        ({"bounds": 0}, "bytes"),
    ],
)
def test_an_index_of_megatron_that_is_not_whole(changes, message, tokenizer, tmp_path):
    write_megatron(tmp_path, documents_of(tokenizer), **changes)
    with pytest.raises(DataError, match=message):
        read(source(tmp_path, "megatron"), tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, b"x", "beginning"),
        (len(HEADER) + 25, struct.pack("<i", 3), "follow one another|in all"),
        (len(HEADER) + 25, struct.pack("<i", -3), "negative length"),
        (len(HEADER) + 25 + 4 * 5, struct.pack("<q", 8), "follow one another"),
        (len(HEADER) + 25 + 12 * 5, struct.pack("<q", 1), "out of order"),
        (len(HEADER) + 25 + 12 * 5 + 8, struct.pack("<q", 4), "out of order"),
        (len(HEADER) + 25 + 12 * 5 + 40, struct.pack("<q", 9), "out of order"),
    ],
)
def test_an_index_of_megatron_that_does_not_fit(place, value, message, tokenizer, tmp_path):
    write_megatron(tmp_path, documents_of(tokenizer))
    data = bytearray((tmp_path / "a.idx").read_bytes())
    data[place : place + len(value)] = value
    (tmp_path / "a.idx").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read(source(tmp_path, "megatron"), tmp_path)


def test_tokens_that_do_not_fit_their_index(tokenizer, tmp_path):
    write_megatron(tmp_path, documents_of(tokenizer))
    data = (tmp_path / "a.bin").read_bytes()
    for damaged, message in ((data[:-1], "whole number"), (data[:-2], "in all"), (b"", "whole number")):
        (tmp_path / "a.bin").write_bytes(damaged)
        with pytest.raises(DataError, match=message):
            read(source(tmp_path, "megatron"), tmp_path)
    write_olmo(tmp_path, documents_of(tokenizer))
    np.save(tmp_path / "a.npy", np.arange(8, dtype="<u4"))
    with pytest.raises(DataError, match="header of numpy"):
        read(source(tmp_path, "olmo"), tmp_path)


@pytest.mark.parametrize(
    "rows",
    [
        [[0, 4]],
        [[0, 4], [5, 99]],
        [[0, 10**9]],
        [[4, 0]],
        [["a", "b"]],
        [[0]],
        [["x" * 5000, 1]],
    ],
)
def test_an_index_of_olmo_that_does_not_fit(rows, tokenizer, tmp_path):
    write_olmo(tmp_path, documents_of(tokenizer))
    write_csv(tmp_path, rows)
    with pytest.raises(DataError, match=r"not an index|in all"):
        read(source(tmp_path, "olmo"), tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"plain", lambda data: b""])
def test_an_index_of_olmo_that_is_damaged(damage, tokenizer, tmp_path):
    write_olmo(tmp_path, documents_of(tokenizer))
    path = tmp_path / "a.csv.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"not an index|in all"):
        read(source(tmp_path, "olmo"), tmp_path)


@pytest.mark.parametrize("name", ["a.npy", "a.csv.gz", "tokenizer.json"])
def test_changed_and_missing_files_are_refused(name, tokenizer, tmp_path):
    write_olmo(tmp_path, documents_of(tokenizer))
    pinned = source(tmp_path, "olmo")
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
    with pytest.raises(SourceError, match=r"[0-9a-f]{64}") as caught:
        read(pinned, tmp_path)
    assert caught.value.where.endswith(name)
    (tmp_path / name).unlink()
    with pytest.raises(SourceError, match="no file"):
        read(pinned, tmp_path)


def test_a_tokenizer_that_is_none(tokenizer, tmp_path):
    write_olmo(tmp_path, documents_of(tokenizer))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="tokenizer cannot be read"):
        read(source(tmp_path, "olmo"), tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("olmo", {"dtype": None}),
        ("megatron", {"dtype": "u16"}),
        ("olmo", {"eos_id": -1}),
        ("olmo", {"shards": []}),
        ("olmo", {"licence": None}),
        ("olmo", {"eos_id": None, "shards": [{"tokens": {"path": "a.npy", "sha256": "0" * 64}}]}),
        ("megatron", {"shards": [{"tokens": {"path": "a.bin", "sha256": "0" * 64}}]}),
        ("megatron", {"shards": [{"tokens": {"path": "/a.bin", "sha256": "0" * 64}, "index": None}]}),
    ],
)
def test_recipes_that_say_too_little_are_refused(kind, changes, tokenizer, tmp_path):
    WRITERS[kind](tmp_path, documents_of(tokenizer))
    with pytest.raises(ValidationError):
        source(tmp_path, kind, **changes)

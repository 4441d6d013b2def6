"""The whole stage on tiny archives: contents, agreement of its tables, the same bytes every time, bad input."""

import gzip
import json
import random
import resource
from collections import Counter
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from corpus_fixtures import (
    build,
    chat_source,
    project_files,
    prose,
    pypi_source,
    tiny_corpus_values,
)
from transformers import AutoTokenizer

from data_recipes.dolma_export import export_dolma
from data_recipes.megatron_export import EXPORT_NAME
from data_recipes.readers import open_source, reading_context
from data_recipes.reading import PartReport
from data_recipes.recount import recount
from data_recipes.repeated_text import cut_text
from data_recipes.settings import CorpusConfig
from data_recipes.text import normalise
from data_recipes.windows import TokenWindows
from provenance.digests import sha256_bytes, sha256_file
from provenance.errors import ConfigError, DataError
from provenance.ledger import read_chain

ROOT = Path(__file__).resolve().parent.parent.parent
SHARED = prose(77).encode()
ALIKE = [prose(66, num_paragraphs=8) + end for end in ("", "\nOne sentence more.\n")]
LEAKED = prose(88, num_paragraphs=8)
LEAK = f"{prose(5)}\n\n{LEAKED[200:500]}\n\n{prose(6)}"
PAGE = ["Главная | О нас", "", *prose(500, script="cyrillic").splitlines(), "", "We use cookies.", ""]
QUOTED = prose(90, num_paragraphs=2)
QUOTES = {
    "docs/quotes1.rst": f"{prose(91)}\n\n{QUOTED}",
    "docs/quotes2.rst": f"{QUOTED}\n\n{prose(92)}",
    "docs/quotes3.rst": QUOTED[:500],
    "docs/quotes4.rst": QUOTED[-500:],
}
QUOTING = '''"""{text}"""


def quoting_{number}(value: int) -> str:
    """{summary} Number {number}.

    {more}
    """
'''
QUOTED_SUMMARY = " ".join(prose(93, num_paragraphs=1).split())
MAILING = '''"""{text}"""


def send(to: str = "another@openwright.dev") -> None:
    """Send a letter to someone@openwright.dev at once.

    {more}
    """
'''
ASKED = [{"role": "user", "content": "Write to chat@openwright.dev or 192.168.0.1?"}]
CHATS = {
    "talks": [
        {"messages": [*ASKED, {"role": "assistant", "content": "Так, chat@openwright.dev."}]},
        {"messages": [*ASKED, {"role": "assistant", "content": f"Sure. {LEAKED[100:400]}"}]},
        {"messages": [{"role": "user", "content": prose(301)[:300]}, {"role": "assistant", "content": "Yes."}]},
    ],
    "pairs": [
        {"prompt": "Say it.", "chosen": "It.", "rejected": f"Well. {LEAKED[100:400]}"},
        {"prompt": "Say more.", "chosen": "More.", "rejected": f"Less: {LEAKED[100:150]}"},
    ],
}
MAIL = f"{prose(7)}\n\nWrite to someone@openwright.dev today.\n"


def rich_values(tmp_path):
    """A recipe in which every kind of decision occurs."""
    cache_dir = tmp_path / "cache"
    texts = ["\n".join(PAGE), prose(501, script="cyrillic"), prose(502, script="cyrillic")]
    rows = "".join(
        json.dumps({"text": text, "licence": licence}, ensure_ascii=False) + "\n"
        for text, licence in zip(texts, ["Apache-2.0", "GPL-3.0-only OR MIT", "unknown"], strict=True)
    )
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    odd = {
        "docs/shared.rst": SHARED,
        "docs/short.rst": b"Too short.",
        "docs/latin1.rst": b"caf\xe9 " * 50,
        "odd/broken.py": b"def (:\n",
        "docs/special.rst": prose(9).encode() + b"\n<|endoftext|> ends a document.\n",
        "docs/alike.rst": ALIKE[0].encode(),
        "docs/leak.rst": LEAK.encode(),
        "docs/mail.rst": MAIL.encode(),
        **{path: text.encode() for path, text in QUOTES.items()},
        **{
            f"src/quoting/part{number}.py": QUOTING.format(
                number=number, text=prose(600 + number), summary=QUOTED_SUMMARY, more=prose(610 + number, 1)
            ).encode()
            for number in range(4)
        },
        "src/quoting/mailing.py": MAILING.format(text=prose(620), more=prose(621, 1)).encode(),
    }
    cyrillic = project_files(2, "cyrillic") | {
        "docs/same.rst": SHARED,
        "docs/alike.rst": ALIKE[1].encode(),
        "docs/again.rst": ALIKE[1].encode(),
        **{path: text.encode() for path, text in QUOTES.items()},
    }
    item = json.dumps({"question": LEAKED, "id": "q1"}) + "\n"
    (tmp_path / "questions.jsonl").write_text(item, encoding="utf-8")
    values = tiny_corpus_values(tmp_path)
    values["lines"] = {"sources": ["rows"]}
    values["near_duplicates"] = {"min_jaccard": 0.8}
    values["repeated_text"] = {"min_chars": 150}
    values["personal_data"] = {"action": "redact"}
    chats = [
        chat_source(tmp_path, name, kind, CHATS[name])
        for name, kind in (("talks", "messages"), ("pairs", "preference"))
    ]
    values["chats"] = {"window_tokens": 255, "sources": chats}
    values["decontamination"] = {
        "heldout": True,
        "sets": [
            {
                "name": "questions",
                "path": "questions.jsonl",
                "sha256": sha256_file(tmp_path / "questions.jsonl"),
                "text_columns": ["question"],
                "id_column": "id",
            }
        ],
    }
    values["sources"] = [
        pypi_source(cache_dir, "zeta", project_files(1) | odd),
        pypi_source(cache_dir, "alpha", cyrillic, licence="BSD-3-Clause"),
        pypi_source(cache_dir, "copyleft", project_files(4), licence="GPL-3.0-or-later"),
        pypi_source(cache_dir, "gamma", project_files(3) | {"docs/also.md": SHARED}, split="heldout"),
        {
            "type": "dataset",
            "name": "rows",
            "format": "jsonl",
            "files": [{"path": "rows.jsonl", "sha256": sha256_file(tmp_path / "rows.jsonl")}],
            "licence_column": "licence",
            "split": "train",
            "as_of": "2026-11-24",
        },
    ]
    return values


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("corpus")
    return build(tmp_path, rich_values(tmp_path))


def read_rows(made, name):
    """Rows of all shards of a table, in order."""
    paths = sorted(made.path.glob(f"{name}-*.parquet"))
    assert paths
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def table(made):
    return read_rows(made, "documents/documents")


def one(table, source, path):
    (row,) = [row for row in table if row["source"] == source and row["path"] == path]
    return row


def test_every_rule_that_should_drop_did(table):
    assert one(table, "zeta", "docs/latin1.rst")["rule"] == "undecodable"
    assert one(table, "zeta", "odd/broken.py#docstrings")["rule"] == "unparsable"
    assert one(table, "zeta", "docs/special.rst")["rule"] == "max_num_special_tokens"
    short = one(table, "zeta", "docs/short.rst")
    assert (short["rule"], short["score"], short["threshold"]) == ("min_num_words", 2.0, 30.0)
    assert {row["rule"] for row in table if row["source"] == "copyleft"} == {"licence"}
    assert one(table, "rows", "rows.jsonl#2")["rule"] == "licence"
    assert one(table, "rows", "rows.jsonl#1")["licence_chosen"] == "MIT"
    assert one(table, "rows", "rows.jsonl#1")["licence_spdx"] == "GPL-3.0-only OR MIT"


def test_a_text_in_three_projects_stays_where_it_is_held_out(table):
    kept = one(table, "gamma", "docs/also.md")
    assert kept["decision"] == "kept"
    assert kept["split"] == "heldout"
    assert kept["cluster_sources"] == ["alpha", "gamma", "zeta"]
    assert kept["cluster_licences"] == ["BSD-3-Clause", "MIT"]
    for source, path in (("zeta", "docs/shared.rst"), ("alpha", "docs/same.rst")):
        dropped = one(table, source, path)
        assert dropped["rule"] == "duplicate"
        assert dropped["duplicate_of"] == kept["document_id"]
        assert dropped["split"] == "none"


def test_documents_like_another_go_and_their_licences_stay(table):
    places = [("zeta", "docs/alike.rst"), ("alpha", "docs/alike.rst"), ("alpha", "docs/again.rst")]
    rows = [one(table, *place) for place in places]
    (kept,) = [row for row in rows if row["decision"] == "kept"]
    gone = [row for row in rows if row is not kept]
    assert {row["duplicate_of"] for row in gone} == {kept["document_id"]}
    near = [row for row in gone if row["rule"] == "near_duplicate"]
    assert near
    assert {row["rule"] for row in gone} <= {"near_duplicate", "duplicate"}
    assert all(0.8 <= row["score"] < 1 and row["threshold"] == 0.8 for row in near)
    assert all(row["text_sha256"] != kept["text_sha256"] for row in near)
    assert kept["cluster_sources"] == ["alpha", "zeta"]
    assert kept["cluster_licences"] == ["BSD-3-Clause", "MIT"]
    assert kept["cluster_size"] == 3


def test_documents_with_evaluation_items_go_with_the_places(made, table):
    leak = one(table, "zeta", "docs/leak.rst")
    assert leak["rule"] == "max_item_overlap"
    assert 0 < leak["contamination"] == leak["score"] < 1
    assert leak["threshold"] == 0
    (hit,) = leak["contamination_hits"]
    assert (hit["set"], hit["item"]) == ("questions", "q1")
    text = normalise(LEAK)
    assert text[hit["start"] : hit["end"]] in LEAKED
    assert hit["end"] - hit["start"] > 200
    lock = json.loads((made.path / "corpus.json").read_text())["decontamination"]
    assert [entry["name"] for entry in lock["sets"]] == ["heldout", "questions"]
    (named,) = json.loads((made.path / "sources.lock").read_text())["evaluation_sets"]
    assert (named["sha256"], named["shipping"]) == (lock["sets"][1]["file_sha256"], "reference")
    assert not (made.path / "evaluation-sets").exists()


def test_personal_data_is_replaced_and_its_place_kept(made, table):
    row = one(table, "zeta", "docs/mail.rst")
    (text,) = [entry["text"] for entry in read_rows(made, "text/train") if entry["document_id"] == row["document_id"]]
    assert "Write to [EMAIL] today." in text
    (span,) = row["personal_data"]
    assert normalise(MAIL)[span["start"] : span["end"]] == "someone@openwright.dev"
    assert row["redacted_from"] == sha256_bytes(normalise(MAIL).encode())
    assert row["text_sha256"] == sha256_bytes(text.encode())


def test_conversations_quote_their_documents_as_they_are_now(made):
    texts = {row["document_id"]: " ".join(row["text"].split()) for row in read_rows(made, "text/train")}
    conversations = read_rows(made, "conversations/train")
    assert all(row["summary"] in texts[row["document_id"]] for row in conversations)
    quoting = [row["summary"] for row in conversations if row["qualified_name"].startswith("quoting.part")]
    assert [QUOTED_SUMMARY in summary for summary in quoting] == [True], "it is quoted where the passage stays"
    (mailing,) = [row for row in conversations if row["qualified_name"] == "quoting.mailing.send"]
    assert mailing["summary"] == "Send a letter to [EMAIL] at once."
    assert mailing["signature"] == "(to: str='[EMAIL]') -> None"
    assert not any("openwright.dev" in json.dumps(row["messages"]) for row in conversations)


def test_conversations_and_pairs_from_files_are_held_to_the_same_rules(made):
    (talk,) = read_rows(made, "chats/train")
    assert [turn["content"] for turn in talk["completion"]] == ["Write to [EMAIL] or 192.168.0.1?", "Так, [EMAIL]."]
    assert [(span["part"], span["turn"], span["start"], span["end"]) for span in talk["personal_data"]] == [
        ("completion", 0, 9, 28),
        ("completion", 1, 5, 24),
    ]
    assert (talk["contamination"], talk["contamination_hits"], len(talk["redacted_from"])) == (0.0, [], 64)
    (pair,) = read_rows(made, "preferences/train")
    assert (pair["prompt"][0]["content"], pair["redacted_from"]) == ("Say more.", "")
    dropped = read_rows(made, "dropped-chats/dropped")
    assert {(row["source"], row["rule"], row["contamination_hits"][0]["set"]) for row in dropped} == {
        ("talks", "max_item_overlap", "questions"),
        ("talks", "max_item_overlap", "heldout"),
        ("pairs", "max_item_overlap", "questions"),
    }
    assert [row["contamination_hits"][0]["part"] for row in dropped if row["source"] == "pairs"] == ["rejected"]
    report = json.loads((made.path / "corpus.json").read_text())["chats"]["splits"]
    assert report["chat"]["contamination"] == {
        "heldout": {"num_examples": 0, "num_dropped": 1},
        "questions": {"num_examples": 0, "num_dropped": 1},
    }
    assert report["chat"]["personal_data"] == {"email": {"num_examples": 1, "num_places": 2}}
    assert (report["chat"]["num_redacted"], report["chat"]["dropped"]) == (1, {"max_item_overlap": 2})
    assert report["preference"]["contamination"] == {"questions": {"num_examples": 0, "num_dropped": 1}}
    assert report["preference"]["personal_data"] == {}


def test_examples_from_files_are_counted_again_for_other_thresholds(made):
    def counted(*overrides):
        return {one.split: (one.kept_before, one.kept_after) for one in recount(made.path, overrides).chats}

    assert counted() == {"chat": (1, 1), "preference": (1, 1)}
    assert counted("decontamination.action=record") == {"chat": (1, 3), "preference": (1, 2)}
    assert counted("decontamination.max_item_overlap=0.99") == {"chat": (1, 3), "preference": (1, 2)}
    assert counted("quality.max_num_emails=1") == {"chat": (1, 0), "preference": (1, 1)}
    (chat, _) = recount(made.path, ["quality.max_num_emails=0"]).chats
    assert chat.dropped_after == {"max_num_emails": 2, "max_item_overlap": 1}


def test_lines_that_are_taken_out_of_a_source_are_on_record(made, table):
    row = one(table, "rows", "rows.jsonl#0")
    (text,) = [entry["text"] for entry in read_rows(made, "text/train") if entry["document_id"] == row["document_id"]]
    assert text == normalise("\n".join(PAGE[2:-3]))
    assert row["lines_removed"] == [
        {"rule": "policy", "num_lines": 1, "num_chars": len(PAGE[-2])},
        {"rule": "terminal_mark", "num_lines": 1, "num_chars": len(PAGE[0])},
    ]
    assert row["lines_removed_from"] == sha256_bytes(normalise("\n".join(PAGE)).encode())
    assert (row["text_sha256"], row["stat_num_chars"]) == (sha256_bytes(text.encode()), len(text))
    assert all(not other["lines_removed"] and not other["lines_removed_from"] for other in table if other != row)
    corpus = json.loads((made.path / "corpus.json").read_text())
    removed = {source["name"]: source["lines_removed"] for source in corpus["sources"]}
    assert removed.pop("rows") == {"policy": 1, "terminal_mark": 1}
    assert set(map(len, removed.values())) == {0}
    (step,) = [step for step in corpus["steps"] if step["name"] == "line rules"]
    assert step["parameters"]["sources"] == ["rows"]
    assert step["rows_in"] == step["rows_out"]
    assert recount(made.path, ["quality.min_num_words=40"]).changed == {"min_num_words": (30, 40)}
    with pytest.raises(ConfigError, match="which lines are taken out"):
        recount(made.path, ["lines.terminal_mark=false"])


def test_passages_that_stand_in_another_document_are_taken_out(made, table):
    texts = {row["document_id"]: row["text"] for row in read_rows(made, "text/train")}
    cut = [row for row in table if row["passages_removed"]]
    kept = [row for row in cut if row["decision"] == "kept"]
    dropped = [row for row in cut if row["decision"] == "dropped"]
    assert kept
    assert dropped
    for row in (row for row in cut if row["path"] in QUOTES):
        before = normalise(QUOTES[row["path"]])
        assert row["stat_num_chars"] == len(before)
        for passage in row["passages_removed"]:
            assert before[passage["start"] : passage["end"]] in texts[passage["document"]]
        left = cut_text(before, [(passage["start"], passage["end"]) for passage in row["passages_removed"]])
        if row in kept:
            assert texts[row["document_id"]] == left
            assert row["passages_removed_from"] == sha256_bytes(before.encode())
            assert (row["text_sha256"], row["size_bytes"]) == (sha256_bytes(left.encode()), len(left.encode()))
        else:
            assert (row["rule"], row["threshold"]) == ("repeated_text", 30)
            assert row["score"] == len(left.split()) < 30
    of_rule = [row for row in table if row["rule"] == "repeated_text"]
    copies = [row for row in of_rule if row not in dropped]
    assert copies, "what was dropped for the likes of a document goes with it"
    assert {row["path"] for row in copies} <= {"docs/quotes3.rst", "docs/quotes4.rst"}
    assert all(not row["duplicate_of"] and not row["cluster_size"] for row in of_rule)
    corpus = json.loads((made.path / "corpus.json").read_text())["repeated_text"]
    assert (corpus["num_documents"], corpus["num_dropped"]) == (len(kept), len(dropped))
    counted = recount(made.path, [])
    assert all(before == after for before, after in counted.by_rule.values())
    assert counted.by_rule["repeated_text"] == (len(of_rule),) * 2
    with pytest.raises(ConfigError, match="which passages are taken out"):
        recount(made.path, ["repeated_text.min_chars=100"])


def test_an_export_for_dolma_reads_back_with_the_licence_of_each_row(made, table, tmp_path):
    exported = export_dolma(made.path, "train", tmp_path / "out")
    again = export_dolma(made.path, "train", tmp_path / "again")
    assert again == exported == json.loads((tmp_path / "out" / EXPORT_NAME).read_text())
    kept = {row["document_id"]: row for row in table if row["split"] == "train"}
    texts = {row["document_id"]: row["text"] for row in read_rows(made, "text/train")}
    found = {}
    for source in exported["sources"]:
        assert source["num_documents"] == sum(row["source"] == source["name"] for row in kept.values())
        assert source["num_without_text"] == 0
        paths = [file for file in exported["files"] if file["path"].startswith(f"{source['prefix']}/documents/train-")]
        for file in paths:
            data = (tmp_path / "out" / file["path"]).read_bytes()
            assert data[4:8] == bytes(4), "no time"
            found |= {line["id"]: line for line in map(json.loads, gzip.decompress(data).splitlines())}
        read = read_export(tmp_path, source["name"], paths)
        assert sorted(read) == sorted(
            (texts[key], row["licence_chosen"]) for key, row in kept.items() if row["source"] == source["name"]
        )
    assert found.keys() == kept.keys()
    line = found[one(table, "rows", "rows.jsonl#1")["document_id"]]
    assert list(line) == ["id", "text", "source", "added", "metadata"]
    assert line["added"] == "2026-11-24T00:00:00.000Z"
    assert (line["metadata"]["license"], line["metadata"]["license_expression"]) == ("MIT", "GPL-3.0-only OR MIT")
    assert line["metadata"]["license_evidence"]["kind"] == "dataset-field"
    page = found[one(table, "rows", "rows.jsonl#0")["document_id"]]["metadata"]
    assert page["lines_removed"] == one(table, "rows", "rows.jsonl#0")["lines_removed"]


def read_export(tmp_path, name, files):
    """Texts and licences that a source of ours makes of exported files."""
    values = {
        "type": "dataset", "name": name, "format": "jsonl", "licence_column": "metadata.license", "split": "train",
        "as_of": "2026-11-26", "files": [{"path": file["path"], "sha256": file["sha256"]} for file in files],
    }  # fmt: skip
    values = tiny_corpus_values(tmp_path) | {"sources": [values]}
    values["execution"]["data_dir"] = tmp_path / "out"
    config = CorpusConfig.model_validate(values)
    reader = open_source(config.sources[0], reading_context(config))
    documents = [found.document for part in reader.parts() for found in reader.read(part, PartReport())]
    return [(document.text, document.licence.spdx) for document in documents]


def test_an_export_for_dolma_says_what_is_not_there(made, table, tmp_path):
    with pytest.raises(DataError, match="no texts of split 'sft'") as refused:
        export_dolma(made.path, "sft", tmp_path / "sft")
    assert refused.value.next_command == "one of these as the split", "the other form refuses it too"
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("documents", "sources.lock"):
        (corpus / name).symlink_to(made.path / name)
    (corpus / "text").mkdir()
    for path in made.path.glob("text/train-*.parquet"):
        rows = pq.read_table(path)
        pq.write_table(rows.filter(pc.not_equal(rows.column("source"), "rows")), corpus / "text" / path.name)
    exported = {source["name"]: source for source in export_dolma(corpus, "train", tmp_path / "out")["sources"]}
    num_rows = sum(row["source"] == "rows" and row["split"] == "train" for row in table)
    assert (exported["rows"]["num_documents"], exported["rows"]["num_without_text"]) == (0, num_rows)
    assert exported["alpha"]["num_without_text"] == 0
    with pytest.raises(DataError, match="the directory exists"):
        export_dolma(corpus, "train", tmp_path / "out")
    pq.write_table(pa.concat_tables([rows, rows]), corpus / "text" / path.name)
    with pytest.raises(DataError, match="which is no kept document"):
        export_dolma(corpus, "train", tmp_path / "twice")


def test_whole_projects_are_held_out(table):
    splits = {(row["source"], row["split"]) for row in table if row["decision"] == "kept"}
    assert splits == {("zeta", "train"), ("alpha", "train"), ("rows", "train"), ("gamma", "heldout")}


def test_shards_hold_the_texts_of_the_table(made, table):
    tokenizer = AutoTokenizer.from_pretrained(made.path / "tokenizer")
    description = json.loads((made.path / "tokens/tokens.json").read_text())
    eos_id = description["eos_id"]
    texts = {}
    for split in ("train", "heldout"):
        for row in read_rows(made, f"text/{split}"):
            texts[row["document_id"]] = row["text"]
    assert set(texts) == {row["document_id"] for row in table if row["decision"] == "kept"}
    for split in ("train", "heldout"):
        for source in description["splits"][split]["sources"]:
            documents = [row for row in table if row["source"] == source["name"] and row["split"] == split]
            ids = [
                token
                for shard in source["shards"]
                for token in np.fromfile(made.path / shard["files"]["tokens"]["path"], "<u2").tolist()
            ]
            expected = [[*tokenizer(texts[row["document_id"]])["input_ids"], eos_id] for row in documents]
            assert ids == [token for tokens in expected for token in tokens]
            assert [len(tokens) for tokens in expected] == [row["num_tokens"] for row in documents]


def test_windows_of_all_splits_open(made):
    for split, window_tokens in (("train", 64), ("heldout", 64), ("sft", 127), ("sft-heldout", 127)):
        windows = TokenWindows(made.path, split, window_tokens, verify=True)
        ids, mask = windows.read(0, 0)
        assert len(ids) == window_tokens + 1
        assert mask.any()


def test_no_held_out_summary_is_trained_on(made):
    summaries = {}
    for split in ("train", "heldout"):
        rows = read_rows(made, f"conversations/{split}")
        assert rows
        assert [row["conversation_id"] for row in rows] == sorted(row["conversation_id"] for row in rows)
        summaries[split] = {row["summary"].casefold() for row in rows}
        assert all(row["messages"][1] == {"role": "assistant", "content": row["summary"]} for row in rows)
        assert all(row["qualified_name"] in row["messages"][0]["content"] for row in rows)
    assert not summaries["train"] & summaries["heldout"]


def test_totals_and_steps_agree_with_the_table(made, table):
    corpus = json.loads((made.path / "corpus.json").read_text())
    kept = [row for row in table if row["decision"] == "kept"]
    assert corpus["num_documents"] == {"kept": len(kept), "dropped": len(table) - len(kept)}
    assert [source["name"] for source in corpus["sources"]] == ["alpha", "copyleft", "gamma", "rows", "zeta"]
    for source in corpus["sources"]:
        rows = [row for row in table if row["source"] == source["name"]]
        of_source = [row for row in rows if row["decision"] == "kept"]
        assert source["num_documents"]["kept"] == len(of_source)
        assert source["dropped_by_rule"] == Counter(row["rule"] for row in rows if row["rule"])
        assert source["num_tokens"] == sum(row["num_tokens"] for row in of_source)
        assert source["size_bytes"] == sum(row["size_bytes"] for row in of_source)
        assert source["licences"] == Counter(row["licence_spdx"] for row in of_source)
    steps = corpus["steps"]
    for before, after in pairwise(steps):
        assert before["rows_out"] == after["rows_in"]
    for step in steps:
        assert step["rows_in"] - step["rows_out"] == sum(step["dropped"].values())
        assert (ROOT / step["code"]).is_file()
    assert steps[-1]["rows_out"] == len(kept)


def test_the_source_lock_names_every_pin(made):
    lock = json.loads((made.path / "sources.lock").read_text())
    assert lock["format"] == "openwright-sources/1"
    names = [entry["name"] for entry in lock["sources"]]
    assert names == ["alpha", "copyleft", "gamma", "rows", "zeta", "pairs", "talks"]


def test_observations_are_no_results(made):
    assert {entry.path for entry in made.observations} == {"journal.jsonl", "environment.json"}
    kinds = [record["kind"] for record in read_chain(made.path / "journal.jsonl")]
    assert kinds[0] == "start"
    assert kinds[-1] == "finish"


def test_datasets_loads_text_and_conversations(made, tmp_path):
    copy = tmp_path / "dataset"
    for folder in ("text", "conversations"):
        (copy / folder).mkdir(parents=True)
        for path in (made.path / folder).iterdir():
            (copy / folder / path.name).write_bytes(path.read_bytes())
    configs = [
        {
            "config_name": name,
            "data_files": [
                {"split": "train", "path": f"{name}/train-*.parquet"},
                {"split": "heldout", "path": f"{name}/heldout-*.parquet"},
            ],
        }
        for name in ("text", "conversations")
    ]
    (copy / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n# Data\n", encoding="utf-8")
    text = datasets.load_dataset(str(copy), "text", cache_dir=str(tmp_path / "cache"))
    talk = datasets.load_dataset(str(copy), "conversations", cache_dir=str(tmp_path / "cache"))
    assert set(text) == set(talk) == {"train", "heldout"}
    assert any("документ" in value for value in text["train"]["text"])
    assert [turn["role"] for turn in talk["train"][0]["messages"]] == ["user", "assistant"]


def test_bytes_do_not_depend_on_what_fits_in_memory(made, tmp_path, monkeypatch):
    monkeypatch.setattr("data_recipes.part_files.RUN_BYTES", 4000)
    monkeypatch.setattr("data_recipes.part_files.GROUP_BYTES", 500)
    monkeypatch.setattr("data_recipes.corpus.num_buckets_of_shard", lambda *arguments: 3)
    assert build(tmp_path, rich_values(tmp_path)).results == made.results


@pytest.mark.parametrize("num_workers", [2, 7])
def test_bytes_do_not_depend_on_workers_or_order_of_sources(num_workers, made, tmp_path):
    values = rich_values(tmp_path)
    random.Random(num_workers).shuffle(values["sources"])
    values["execution"]["num_workers"] = num_workers
    again = build(tmp_path, values)
    assert again.results == made.results
    assert again.content_digest == made.content_digest


@pytest.fixture
def limited_files():
    """No file may grow beyond 10,000 bytes: what a full disk looks like to those that write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_says_so_and_leaves_no_artifact(tmp_path, request, made):
    values = rich_values(tmp_path)
    request.getfixturevalue("limited_files")
    with pytest.raises(DataError, match="the disk is full") as caught:
        build(tmp_path, values)
    assert "run the same command again" in caught.value.next_command
    assert not list((tmp_path / "store").rglob("manifest.json"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    assert build(tmp_path, values).results == made.results

"""`openwright data recount` on a small corpus: its tables, its JSON and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_recipes.chat_files import ChatFindings
from data_recipes.chat_step import DroppedChat
from data_recipes.chat_table import write_dropped
from data_recipes.filters import QUALITY_RULES, QualityRules
from data_recipes.rule_settings import DecontaminationRules, NearDuplicateRules
from openwright import cli
from provenance.config import recipe_of

STATISTICS = {
    "stat_num_special_tokens": 0, "stat_num_words": 100, "stat_mean_word_length": 5.0, "stat_alphabetic_share": 0.9,
    "stat_symbol_to_word_ratio": 0.0, "stat_duplicate_line_share": 0.0, "stat_directive_line_share": 0.0,
    "stat_language": "en", "stat_unspaced_share": 0.0,
}  # fmt: skip


def row(number: int, text: str, rule: str = "", source: str = "alpha", **changes: Any) -> dict[str, Any]:
    return STATISTICS | {
        "document_id": f"{number:064x}", "text_sha256": text * 64, "rule": rule, "source": source, "duplicate_of": "",
        "score": None, "contamination": 0.0, "size_bytes": 10, "num_tokens": 0 if rule else 3,
    } | changes  # fmt: skip


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus with a document for each thing that can become of one."""
    rows = [
        row(1, "a"),
        row(2, "b", "min_num_words", stat_num_words=20),
        row(3, "a", "min_num_words", source="beta", stat_num_words=29),
        row(4, "c", "licence", stat_num_words=20),
        row(5, "d", stat_num_words=60),
        row(6, "e", "near_duplicate", duplicate_of=f"{5:064x}", score=0.85),
        row(7, "f", "max_item_overlap", score=0.5, contamination=0.5),
        row(8, "g", contamination=0.1),
    ]
    directory = tmp_path / "corpus"
    (directory / "documents").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), directory / "documents" / "documents-00000.parquet")
    names = ["kept", "licence", *QUALITY_RULES, "duplicate", "max_item_overlap", "near_duplicate"]
    (directory / "documents" / "codes.json").write_text(json.dumps({"decisions": names}))
    sources = [{"name": "alpha", "split": "train"}, {"name": "beta", "split": "heldout"}]
    steps = [
        {"name": "quality rules", "parameters": recipe_of(QualityRules())},
        {"name": "decontamination", "parameters": recipe_of(DecontaminationRules(heldout=True, max_item_overlap=0.2))},
        {"name": "near-duplicates", "parameters": recipe_of(NearDuplicateRules())},
    ]
    (directory / "corpus.json").write_text(json.dumps({"sources": sources, "steps": steps}))
    return directory


def counted(corpus: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.invoke(["data", "recount", "--in", str(corpus), "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def by_rule(document: Any) -> dict[str, int]:
    return {entry["rule"]: entry["after"] for entry in document["by_rule"] if entry["after"]}


def test_looser_thresholds_let_documents_in_and_a_held_out_one_takes_the_place_of_its_copy(corpus, capsys):
    document = counted(corpus, capsys, "--set", "quality.min_num_words=20")
    assert by_rule(document) == {"kept": 4, "licence": 1, "duplicate": 1, "near_duplicate": 1, "max_item_overlap": 1}
    alpha, beta = document["by_source"]
    assert (alpha["kept_before"], alpha["kept_after"], alpha["dropped_after"]["duplicate"]) == (3, 3, 1)
    assert (beta["kept_before"], beta["kept_after"], beta["tokens_after"]) == (0, 1, 0)
    assert (document["num_let_in"], document["num_not_compared"]) == (2, 2)
    assert document["changed"] == {"min_num_words": {"before": 30, "after": 20}}


def test_what_was_dropped_for_another_document_comes_back_when_that_one_goes(corpus, capsys):
    document = counted(corpus, capsys, "--set", "quality.min_num_words=70")
    assert by_rule(document) == {"kept": 3, "licence": 1, "min_num_words": 3, "max_item_overlap": 1}
    assert document["num_let_in"] == 1


def test_without_other_thresholds_every_document_stays_as_it_is(corpus, capsys):
    assert all(entry["before"] == entry["after"] for entry in counted(corpus, capsys)["by_rule"])


def test_likeness_and_contamination_are_counted_by_their_stored_scores(corpus, capsys):
    assert by_rule(counted(corpus, capsys, "--set", "near_duplicates.min_jaccard=0.86"))["kept"] == 4
    assert by_rule(counted(corpus, capsys, "--set", "decontamination.max_item_overlap=0.5"))["kept"] == 4
    assert by_rule(counted(corpus, capsys, "--set", "decontamination.max_item_overlap=0"))["max_item_overlap"] == 2
    document = counted(corpus, capsys, "--set", "decontamination.action=record")
    assert document["changed"] == {"action": {"before": "drop", "after": "record"}}
    assert by_rule(document)["kept"] == 4


def test_a_table_for_people_says_what_changes(corpus, capsys):
    assert cli.invoke(["data", "recount", "--in", str(corpus), "--set", "quality.min_num_words=20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "min_num_words: 30 -> 20"
    assert any(line.split() == ["min_num_words", "2", "0", "-2"] for line in lines)
    assert any(line.startswith("beta") for line in lines)
    assert lines[-3].startswith("2 documents are let in")
    assert lines[-1] == "next: write these thresholds into corpus.yaml"


def test_examples_from_files_have_a_table_of_their_own(corpus, capsys):
    assert counted(corpus, capsys)["chats"] == []
    dropped = [("max_item_overlap", ChatFindings(0.5)), ("max_num_emails", ChatFindings())]
    write_dropped([DroppedChat("0" * 64, "talks", "chat", *one) for one in dropped], corpus)
    assert cli.invoke(["data", "recount", "--in", str(corpus)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].startswith("from files")
    assert lines[-3].split() == ["chat", "0", "1", "max_item_overlap", "(1)"]
    assert lines[-2].startswith("1 of them were not compared with evaluation sets")
    (chat,) = counted(corpus, capsys, "--set", "decontamination.max_item_overlap=0.5")["chats"]
    assert (chat["split"], chat["kept_after"], chat["dropped_after"]) == ("chat", 2, {})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("quality.min_num_wrds=1", "min_num_words"),
        ("filters.min_num_words=1", "filters"),
        ("quality.min_num_words=lots", "integer"),
        ("quality.max_num_braces=0", "stat_num_braces"),
        ("near_duplicates.min_jaccard=0.75", "below that of the corpus"),
        ("near_duplicates.shingle_words=4", "compared with"),
        ("decontamination.ngram_words=8", "compared with"),
    ],
)
def test_what_cannot_be_tried_is_refused(corpus, capsys, override, message):
    assert cli.invoke(["data", "recount", "--in", str(corpus), "--set", override]) != 0
    assert message in capsys.readouterr().err

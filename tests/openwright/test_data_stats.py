"""`data stats`, and the questions of docs/questions.md, on a small corpus."""

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from corpus_fixtures import project_files, pypi_source, tiny_context, tiny_corpus_values

from data_recipes.breakdown import Count, read_breakdown
from data_recipes.corpus import build_corpus
from data_recipes.settings import CorpusConfig
from openwright import cli
from openwright.data_stats import chat_lines, stats_lines
from provenance.errors import DataError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "questions.md"
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with a duplicate, a short document and a refused licence."""
    place = tmp_path_factory.mktemp("corpus")
    values = tiny_corpus_values(place)
    shared = project_files(1)["docs/page0.rst"]
    odd = project_files(5) | {"docs/copy.rst": shared, "docs/short.rst": b"Too short."}
    values["sources"].append(pypi_source(place / "cache", "delta", odd))
    values["sources"].append(pypi_source(place / "cache", "epsilon", project_files(6), licence="GPL-3.0-only"))
    return build_corpus(CorpusConfig.model_validate(values), tiny_context(place / "store")).path


@pytest.fixture(scope="module")
def rows(corpus: Path) -> list[dict[str, Any]]:
    paths = sorted((corpus / "documents").glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_every_number_is_that_of_the_rows(corpus: Path, rows: list[dict[str, Any]]) -> None:
    found = read_breakdown(corpus / "documents")
    kept = [row for row in rows if row["decision"] == "kept"]
    for name, column in (("source", "source"), ("licence", "licence_chosen"), ("split", "split")):
        expected: dict[str, Count] = {}
        for row in kept:
            count = Count(1, row["num_tokens"], row["size_bytes"])
            expected[row[column]] = expected.get(row[column], Count()).plus(count)
        assert found.kept[name] == expected
        assert sum(count.num_tokens for count in found.kept[name].values()) == found.total.num_tokens
    assert set(found.kept["source"]) == {"alpha", "beta", "gamma", "delta"}
    dropped = Counter(row["rule"] for row in rows if row["decision"] == "dropped")
    assert {rule: count.num_documents for rule, count in found.dropped.items()} == dropped
    assert {"licence", "min_num_words", "duplicate"} <= set(dropped)
    assert sum(found.lengths.values()) == found.total.num_documents == len(kept)
    for power, count in found.lengths.items():
        assert count == sum(2**power <= row["num_tokens"] < 2 ** (power + 1) for row in kept)


def test_tables_json_and_chart_say_the_same(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["data", "stats", "--in", str(corpus), "--plot", str(tmp_path / "plot.svg")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == stats_lines(read_breakdown(corpus / "documents"))
    assert cli.invoke(["data", "stats", "--in", str(corpus), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    chart = ET.parse(tmp_path / "plot.svg").getroot()
    texts = [element.text for element in chart.iter("{http://www.w3.org/2000/svg}text")]
    for record in values["by"]["source"]:
        assert any(line.startswith(record["name"]) and f"{record['num_tokens']:,}" in line for line in lines)
        assert texts[texts.index(record["name"]) + 1] == f"{record['num_tokens']:,}"
    assert values["kept"]["num_documents"] == sum(span["num_documents"] for span in values["documents_by_tokens"])


def test_conversations_from_files_are_shown_with_shares_and_reasons() -> None:
    split = {"num_examples": 30, "num_rows": 12, "num_truncated": 2, "dropped": {"no answer": 3, "too long": 1}}
    split |= {"trained_share_ppm": 162_532, "padding_share_ppm": 50_000}
    head, row, reasons = chat_lines({"chats": {"splits": {"chat": split}}})[1:]
    assert head.split("  ")[0] == "from files"
    assert row.split() == ["chat", "30", "12", "4", "2", "16.3", "%", "5.0", "%"]
    assert reasons == "dropped from chat: no answer (3), too long (1)"
    assert chat_lines({}) == []
    counted = {"contamination": {"quiz": {"num_examples": 1, "num_dropped": 2}}, "num_redacted": 4}
    counted["personal_data"] = {"email": {"num_examples": 4, "num_places": 5}}
    assert chat_lines({"chats": {"splits": {"chat": split | counted}}})[4:] == [
        "chat: examples with text of the evaluation set quiz: 3, dropped for it: 2",
        "chat: examples kept with personal data (email): 4, places: 5",
        "chat: examples kept and redacted: 4",
    ]


def test_a_file_in_a_directory_that_is_not_there_is_refused(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["data", "stats", "--in", str(corpus), "--plot", "no such place/plot.svg"]) == 2
    assert "next: mkdir -p 'no such place'" in capsys.readouterr().err


def test_a_place_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no table of documents"):
        read_breakdown(tmp_path)
    assert cli.invoke(["data", "stats", "--in", str(tmp_path)]) == 1


def test_a_corpus_that_is_taken_for_a_bundle_is_told_from_it(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["inspect", "document", "abcd", "--in", str(corpus)]) == 2
    told = capsys.readouterr().err
    assert "a corpus, and no bundle" in told
    assert f"next: openwright data stats --in {corpus}" in told


@pytest.fixture(scope="module")
def step_file(corpus: Path, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    ids = [{"document_id": row["document_id"]} for row in rows if row["source"] == "beta"][:2]
    path = tmp_path_factory.mktemp("step") / "step.json"
    path.write_text(json.dumps({"step": 20, "windows": [{"slot": 0, "documents": ids}]}))
    return path


@pytest.mark.parametrize("number", range(len(QUERIES)))
def test_every_question_of_the_page_has_an_answer(
    number: int, corpus: Path, step_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus)
    connection = duckdb.connect()
    answer = connection.execute(QUERIES[number].replace("step.json", str(step_file))).fetchall()
    if "ILIKE" in QUERIES[number] or "score - threshold" in QUERIES[number]:
        return
    assert answer
    if "step.json" in QUERIES[number]:
        assert answer == [("BSD-3-Clause", "beta", 2)]


def test_the_page_has_questions() -> None:
    assert len(QUERIES) >= 10

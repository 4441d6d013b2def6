"""Cards, Croissant record and page: complete, safe, generated from the bundle alone."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Built, replace_file
from huggingface_hub import DatasetCard, ModelCard

from provenance.canonical import parse_hex_float, read_json
from provenance.digests import sha256_file
from release.documents import dataset_documents, model_documents, terms_documents
from release.facts import BundleFacts
from release.page_charts import Axis, Bar, bar_chart, loss_chart, thin_out

_VOID = frozenset({"meta", "br", "rect", "line", "path", "polyline"})


class _Checker(HTMLParser):
    """Collects tags, and checks that they close in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="session")
def page(built: Built) -> _Checker:
    checker = _Checker()
    checker.feed((built.bundle / "model" / "index.html").read_text(encoding="utf-8"))
    return checker


def test_all_documents_are_made_again_byte_for_byte(built: Built) -> None:
    facts = BundleFacts(built.bundle)
    documents = dataset_documents(facts) | terms_documents(facts) | model_documents(facts)
    assert len(documents) == 8
    for path, data in documents.items():
        assert (built.bundle / path).read_bytes() == data, path


def test_the_page_is_well_formed_and_needs_nothing(page: _Checker) -> None:
    assert page.open == []
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "form", "base")
        assert not {"src", "srcset", "onload", "onclick", "style"} & attributes.keys()
        assert str(attributes.get("href", "#")).startswith("#")
    css = next(tag for tag, _ in page.tags if tag == "style")
    assert css
    assert "@import" not in page.text
    assert "url(" not in page.text


def test_the_page_escapes_what_it_quotes(built: Built, page: _Checker) -> None:
    text = (built.bundle / "model" / "index.html").read_text(encoding="utf-8")
    assert "A tiny model &lt;made&gt; for tests &amp; nothing else." in text
    assert "A <plain> processor" in page.text
    assert "<plain>" not in text


def test_the_page_claims_no_verification_and_names_what_is_missing(page: _Checker) -> None:
    assert "check your copy" in page.text
    assert "needs statement" in page.text
    assert "openwright release statement OSAID-D12 --bundle BUNDLE" in page.text
    assert "demonstration-size model" in page.text
    assert "not legal advice" in page.text


def test_charts_have_words_and_tables_have_headings(page: _Checker) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == 4
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")


def test_the_page_shows_the_figures_of_the_records(built: Built, page: _Checker) -> None:
    for row in read_json(built.bundle / "model/evaluation/results.json")["rows"]:
        assert f"{parse_hex_float(row['value']):.3f}" in page.text
        assert row["verdict"] in page.text
    manifest = read_json(built.bundle / "model/manifest.json")
    assert manifest["content_digest"] in page.text
    assert manifest["dataset"]["content_digest"] in page.text
    assert "2026-11-20" in page.text
    assert "unresolved (2)" in page.text


def test_the_model_card_is_read_by_the_hub_library(built: Built) -> None:
    card = ModelCard.load(built.bundle / "model" / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert {result.metric_type for result in card.data.eval_results} == {"bits_per_byte", "acc", "acc_norm"}
    for title in ("Use", "Training data", "Training", "Evaluation", "Limitations", "Verify and replay", "Openness"):
        assert f"\n## {title}\n" in card.text
    run = read_json(built.bundle / "model/training/pretrain/run.json")
    assert run["final"]["weights_digest"][:12] in card.text


def test_card_and_page_say_what_the_bits_are_promised_for(built: Built, bundle_of: Callable[[str], Path]) -> None:
    def told(bundle: Path, name: str) -> str:
        return (bundle / "model" / name).read_text(encoding="utf-8")

    for name in ("README.md", "index.html"):
        assert "every number of processes up to the logical replicas" in told(built.bundle, name)
        assert "at the recorded layout of processes only" in told(bundle_of("retained"), name)
        assert "bf16 compute, fp32 master weights" in told(bundle_of("experts"), name)
    assert "| Steps left out | 7 to 8 |" in told(bundle_of("skips"), "README.md")
    assert "Left out: steps 2 to 3, 4 to 4, 7 to 8." in told(bundle_of("skips"), "index.html")
    assert "| Goes on from another run | step 2, ledger head `cccccccccccc` |" in told(bundle_of("branch"), "README.md")


def test_card_and_page_count_the_checkpoints_that_are_there(bundle_of: Callable[[str], Path]) -> None:
    bundle = bundle_of("retained")
    assert "| Checkpoints kept (with optimizer) | 6 (3) of 7 made |" in (bundle / "model/README.md").read_text()
    page = (bundle / "model/index.html").read_text(encoding="utf-8")
    assert "checkpoint at step 2 (weights)" in page
    assert "checkpoint at step 6" not in page


def test_the_data_card_is_read_by_the_hub_library(built: Built) -> None:
    card = DatasetCard.load(built.bundle / "dataset" / "README.md")
    configs = {config["config_name"]: config for config in card.data.configs}
    assert configs.keys() == {"default", "conversations"}
    assert [file["split"] for file in configs["default"]["data_files"]] == ["train", "heldout"]
    assert set(card.data.license) == {"apache-2.0", "bsd-3-clause", "mit"}
    assert "| omega | licence | 2 |" in card.text


def test_a_data_set_without_rows_is_none_of_the_card(copy: Path) -> None:
    """Of a corpus without documented functions: `load_dataset` ends in an error where it is told of such files."""
    (path,) = (copy / "dataset" / "conversations").glob("train-*.parquet")
    rows = pq.read_table(path)
    path.unlink()  # a hard link to the file of other tests
    pq.write_table(rows.slice(0, 0), path)
    card = dataset_documents(BundleFacts(copy))["dataset/README.md"].decode()
    assert "conversations/heldout-*.parquet" in card
    assert "conversations/train-*.parquet" not in card


def test_markdown_cells_keep_their_columns(copy: Path) -> None:
    path = copy / "dataset" / "sources.lock"
    replace_file(path, path.read_text(encoding="utf-8").replace('"1.0"', '"1|0 `x` <b>\\n2"'))
    card = dataset_documents(BundleFacts(copy))["dataset/README.md"].decode()
    row = next(line for line in card.splitlines() if line.startswith("| alpha"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 10
    assert "<b>" not in row


def test_the_croissant_record_is_structurally_valid(built: Built) -> None:
    record = read_json(built.bundle / "dataset" / "croissant.json")
    assert record["@type"] == "sc:Dataset"
    assert "http://mlcommons.org/croissant/1.1" in record["conformsTo"]
    for key in ("@context", "name", "description", "license", "url", "version", "datePublished", "creator", "citeAs"):
        assert record[key], key
    ids = [entry["@id"] for entry in record["distribution"]]
    for entry in record["distribution"]:
        assert entry["@type"] == "cr:FileObject"
        assert sha256_file(built.bundle / "dataset" / entry["contentUrl"]) == entry["sha256"]
    names: list[Any] = []
    for record_set in record["recordSet"]:
        assert record_set["@type"] == "cr:RecordSet"
        for field in record_set["field"]:
            names.append(field["@id"])
            assert field["@id"].startswith(f"{record_set['@id']}/")
            assert field["source"]["fileObject"]["@id"] in ids
            assert field["dataType"] in ("sc:Text", "sc:Integer")
    assert len(set(names + ids)) == len(names + ids)


def test_croissant_columns_are_those_of_the_files(built: Built) -> None:
    import pyarrow.parquet as pq

    record = read_json(built.bundle / "dataset" / "croissant.json")
    assert len(record["recordSet"]) == 5
    for record_set in record["recordSet"]:
        for field in record_set["field"]:
            path = built.bundle / "dataset" / field["source"]["fileObject"]["@id"]
            assert field["source"]["extract"]["column"] in pq.read_schema(path).names


def test_documents_follow_the_evidence(copy: Path) -> None:
    before = (copy / "model" / "README.md").read_bytes()
    path = copy / "model" / "evaluation" / "results.json"
    text = path.read_text(encoding="utf-8").replace("better than", "worse than")
    replace_file(path, text)
    assert model_documents(BundleFacts(copy))["model/README.md"] != before


# -------------------------------------------------------------------------------- charts


def test_a_long_curve_is_thinned_to_its_means() -> None:
    points = thin_out([(step, float(step)) for step in range(10_000)])
    assert len(points) <= 480
    assert points[0] == (10.0, 10.0)
    assert thin_out([(1, 2.0)]) == [(1.0, 2.0)]
    assert thin_out([]) == []


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (4.37, 9.2), (2.0, 2.0), (0.0, 225.0), (0.0, 1e6)])
def test_ticks_are_round_and_few(low: float, high: float) -> None:
    ticks = Axis(low, high, 0.0, 100.0).ticks(6)
    assert len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= max(high, low + 1) for tick in ticks)


def test_charts_survive_little_data() -> None:
    assert loss_chart("x", [], [], []) == ""
    assert bar_chart("x", []) == ""
    assert "<svg" in loss_chart("x", [(1, 2.0)], [], [(0, "full")])
    assert "<svg" in loss_chart("x", [], [(0, 2.0)], [])
    assert "&lt;b&gt;" in bar_chart("x", [Bar("<b>", 0.0, "0")])

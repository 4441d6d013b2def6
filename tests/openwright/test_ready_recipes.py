"""Every config that ships can be read; those for the Hub name commits and find what they want in repositories laid out
as their publishers describe them."""

import gzip
import io
import json
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import constants
from loopback_hub import Repository, loopback_hub
from warc_fixtures import CC_BY as CC_BY_PAGES
from warc_fixtures import members, page, record, response, warc_source

from data_recipes.hub_settings import HubSource
from data_recipes.policy import decide_licence
from data_recipes.readers import open_source, reading_context
from data_recipes.reading import PartReport
from data_recipes.settings import CorpusConfig
from data_recipes.warc_settings import WarcSource
from openwright.configs import CONFIG_MODELS, config_model
from openwright.twin_corpus import write_twin_source
from provenance.config import load_config
from release.outlook import openness_outlook
from release.settings import ReleaseConfig

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*/*.yaml") if path.stem in CONFIG_MODELS)
READY = ("common-pile", "debian-docs", "dolma3-mix", "fineweb-edu")
TO_PIN = "common-crawl"  # a recipe whose files are chosen by whoever builds it
CC_BY = "Creative Commons - Attribution - https://creativecommons.org/licenses/by/4.0/"
CC_BY_SA = "Creative Commons - Attribution Share-Alike - https://creativecommons.org/licenses/by-sa/4.0/"


def recipe(name):
    return load_config(ROOT / "configs" / name / "corpus.yaml", CorpusConfig)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT / "configs").as_posix())
def test_every_config_that_ships_can_be_read(path):
    load_config(path, config_model(path.stem))


@pytest.mark.parametrize("name", READY)
def test_ready_recipes_are_pinned_and_hold_a_source_out(name):
    config = recipe(name)
    assert {source.split for source in config.sources} == {"train", "heldout"}
    for source in config.sources:
        for pin in source.pins:
            assert re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", pin)
            assert len(set(pin)) > 4, "a placeholder"
        assert source.pins


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def gzipped(rows):
    return gzip.compress(json_lines(rows), mtime=0)


def zstd(rows):
    return pa.Codec("zstd").compress(json_lines(rows), asbytes=True)


def parquet(rows):
    output = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), output)
    return output.getvalue()


def common_pile(name):
    licences = [CC_BY_SA] if name == "stackexchange" else [CC_BY, "Public Domain", "something else"]
    field = "all_licenses" if name == "stackexchange" else "license"
    values = [[licence] if name == "stackexchange" else licence for licence in licences]
    rows = [{"id": str(n), "text": f"{name} {n}", "metadata": {field: value}} for n, value in enumerate(values)]
    return {"README.md": b"# Rows\n", f"{name}-0000.json.gz": gzipped(rows)}


ODC = b"---\nlicense: odc-by\n---\n"
DOLMA = {
    "README.md": ODC,
    "data/common_crawl-health-0012/shard_00000001.jsonl.zst": zstd([{"id": "1", "text": "web"}]),
    "data/olmocr_science_pdfs-health/shard_00000044.jsonl.zst": zstd([{"id": "2", "text": "paper"}]),
    "data/stack_edu-Python/part-000000054.jsonl.zst": zstd(
        [{"text": "code", "detected_licenses": ["MIT"]}, {"text": "none", "license_type": "no_license"}]
    ),
    "data/finemath-3plus/shard_00000001.jsonl.zst": zstd([{"text": "mathematics"}, {"text": ""}]),
    "data/rpj-proofpile-arxiv/shard_00000001.jsonl.zst": zstd([{"text": "arxiv"}]),
    "data/dolma1_7-wiki-en/shard_00000001.jsonl.zst": zstd([{"text": "wikipedia"}]),
}
FINEWEB = {"README.md": ODC} | {f"sample/10BT/{n:03}_00000.parquet": parquet([{"text": f"page {n}"}]) for n in (0, 13)}
LAYOUTS = {
    "common-pile": lambda source: common_pile(source.name),
    "dolma3-mix": lambda source: DOLMA,
    "fineweb-edu": lambda source: FINEWEB,
}
EXPECTED = {
    "common-pile": {"CC-BY-4.0": 16, "CC-PDM-1.0": 16, "CC-BY-SA-4.0": 1, "dropped": 16},
    "dolma3-mix": {"ODC-By-1.0": 6, "MIT": 1, "dropped": 1},
    "fineweb-edu": {"ODC-By-1.0": 2},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_recipes_for_the_hub_find_texts_and_licences(name, tmp_path, monkeypatch):
    config = recipe(name)
    config = config.model_copy(update={"execution": config.execution.model_copy(update={"cache_dir": tmp_path})})
    sources = [source for source in config.sources if isinstance(source, HubSource)]
    layouts = {f"datasets/{item.repo_id}": Repository(LAYOUTS[name](item), item.revision) for item in sources}
    chosen = Counter()
    with loopback_hub(layouts) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        for source in sources:
            reader = open_source(source, reading_context(config))
            for part in reader.parts():
                for extracted in reader.read(part, PartReport()):
                    decision = decide_licence(extracted.document.licence.spdx, config.policy)
                    chosen[decision.chosen or "dropped"] += 1
    assert chosen == EXPECTED[name]
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size and "hub" not in str(path)
    ]


def crawl(site):
    """Pages and, in an archive of its own, robots.txt, with the fields that Common Crawl writes."""
    fields = {"WARC_Identified_Payload_Type": "text/html", "WARC_IP_Address": "192.0.2.1"}
    link = f'<link rel="license" href="{CC_BY_PAGES}">'
    kept = {"fields": fields, "headers": ["X-Crawl-Content-Encoding: gzip"]}
    pages = [
        record("warcinfo", None, b"isPartOf: a crawl\r\n", content_type="application/warc-fields"),
        page(f"https://{site}/open", 1, **kept),
        page(f"https://{site}/unlicensed", 2, head="", **kept),
        page(f"https://{site}/private/x", 3, **kept),
        page(f"https://{site}/reserved", 4, head=link + '<meta name="tdm-reservation" content="1">', **kept),
        page(f"https://{site}/long", 5, fields={"WARC_Truncated": "length"}),
    ]
    robots = response(
        f"http://{site}/robots.txt", b"User-agent: CCBot\nDisallow: /private/\n", content_type="text/plain"
    )
    return members(*pages), members(robots)


def test_the_recipe_for_web_archives_keeps_pages_that_state_a_licence_and_whose_site_reserves_nothing(tmp_path):
    """Its quality rules, lines and redaction are those of any recipe; here are its archives, signals and licences."""
    config, outcome, skipped = recipe(TO_PIN), {}, Counter()
    for source in config.sources:
        archives = dict(zip(("pages.warc.gz", "robots.warc.gz"), crawl(f"{source.name}.example"), strict=True))
        entry = warc_source(tmp_path, {f"{source.name}-{name}": data for name, data in archives.items()})
        pinned = {"files": entry["files"][:1], "site_files": entry["files"][1:]}
        source = WarcSource.model_validate({**source.model_dump(), **pinned})
        execution = config.execution.model_copy(update={"data_dir": tmp_path, "cache_dir": tmp_path / "cache"})
        reader = open_source(source, reading_context(config.model_copy(update={"execution": execution})))
        (part,) = reader.parts()
        for extracted in reader.read(part, report := PartReport()):
            decision = decide_licence(extracted.document.licence.spdx, config.policy)
            address = extracted.document.path.partition("#")[0]
            outcome[address] = extracted.broken or decision.chosen or "licence"
        skipped += report.skipped
    assert outcome == {
        f"https://{name}.example/{path}": what
        for name in ("crawl", "crawl-heldout")
        for path, what in {
            "open": "CC-BY-4.0", "unlicensed": "licence", "private/x": "robots_txt", "reserved": "tdm_reservation",
        }.items()
    }  # fmt: skip
    assert skipped == {"warcinfo record": 2, "page that the crawler cut off": 2}


@pytest.mark.parametrize("name", [*READY, TO_PIN])
def test_ready_recipes_have_twins(name, tmp_path):
    values = yaml.safe_load((ROOT / "configs" / name / "corpus.yaml").read_text(encoding="utf-8"))
    twins = [write_twin_source(source, values["policy"]["allow"], tmp_path) for source in values["sources"]]
    config = CorpusConfig.model_validate({**values, "sources": twins, "execution": {}}, strict=False)
    assert [source.name for source in config.sources] == [source.name for source in recipe(name).sources]


def outlook_of(config):
    release = ReleaseConfig.model_validate(
        {
            "name": "probe",
            "version": "1.0",
            "description": "A release that is only looked forward to.",
            "provider": {"name": "Test", "contact": "test@example.org"},
            "intended_use": "Testing what configs alone can say.",
            "limitations": ["Nothing was trained."],
            "data": {
                "selection": "Ready recipes as they ship, with nothing added by the test.",
                "labelling": "No labels by people.",
            },
        },
        strict=False,
    )
    return {row["name"]: row["problems"] for row in openness_outlook(config, release).as_json()["sources"]}


def test_plan_says_where_ready_sources_are_had_and_that_weak_licences_are_public():
    for name in READY:
        config = recipe(name)
        rows = outlook_of(config)
        assert rows.keys() == {source.name for source in config.sources}
        assert not any("pinned" in text or "origin" in text for texts in rows.values() for text in texts), rows
    assert {source.data_class for source in recipe("fineweb-edu").sources} == {"public"}


def test_plan_names_the_archives_that_are_still_to_be_pinned():
    assert outlook_of(recipe(TO_PIN)) == {
        name: ["its sha256 is a row of zeros: not pinned"] for name in ("crawl", "crawl-heldout")
    }

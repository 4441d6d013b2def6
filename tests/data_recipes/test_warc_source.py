"""Web archives as a source: every record is a document or counted, what is wrong is a recorded drop or an error."""

import contextlib
import gzip
import json
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from corpus_fixtures import prose, tiny_context, tiny_corpus_values
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_web_pages import ROBOTS
from warc_fixtures import CC_BY, digest, html, http, members, page, record, response, warc_source

import data_recipes.warc_source
from data_recipes.corpus import build_corpus, spec_of
from data_recipes.readers import open_source
from data_recipes.reading import PartReport, ReadingContext, ReadingLimits, SourcePart
from data_recipes.settings import CorpusConfig
from data_recipes.text import normalise
from data_recipes.warc_settings import WarcSource
from data_recipes.warc_source import WarcReader
from provenance.canonical import read_json
from provenance.digests import sha256_bytes
from provenance.errors import CodeError, DataError, SourceError

A, B = "https://a.example/", "https://b.example/"
LIMIT = 20_000


def read(directory, archives, *, limit=LIMIT, **changes):
    """Documents by address, and the report, of all archives of a source."""
    source = WarcSource.model_validate(warc_source(directory, archives, max_page_bytes=limit, **changes))
    reader = open_source(source, ReadingContext(ReadingLimits(), directory, directory))
    found, reports = {}, []
    for part in reader.parts():
        report = PartReport()
        part = SourcePart(**json.loads(json.dumps(part.as_json())))  # as it goes to another process
        for extracted in reader.read(part, report):
            found[extracted.document.path] = extracted
        reports.append(report)
        assert report.num_files == sum(report.skipped.values()) + len(
            [path for path in found if f"#{part.name}@" in path]
        )
    assert reader.lock(reports)["files"] == [
        {"path": path, "sha256": sha256_bytes(data), "size_bytes": len(data)} for path, data in archives.items()
    ]
    return found, reports[0]


def rules(found):
    return {path.partition("#")[0]: extracted.broken for path, extracted in found.items()}


def test_every_record_is_a_document_or_counted(tmp_path):
    gone = response(A + "gone", b"x" * 100, status="404 Not Found")
    records = [
        record("warcinfo", "", b"software: a test\r\n", content_type="application/warc-fields"),
        record("request", A, b"GET / HTTP/1.1\r\n\r\n"),
        page(A, 1),
        response(A + "plain.txt", prose(2).encode(), content_type="text/plain"),
        record("revisit", A, http(b""), WARC_Payload_Digest=digest(b"other")),
        gone,
        response(A + "image.png", b"\x89PNG", content_type="image/png"),
        response(A + "zstd", b"(\xb5/\xfd", headers=["Content-Encoding: zstd"]),
        page(A + "cut", 3, fields={"WARC_Truncated": "length"}),
        page(A + "private/x", 4),
        record("response", "dns:a.example", b"20261124 a.example 1.2.3.4", content_type="text/dns"),
        record("something", A, b"new"),
        response(A + "robots.txt", b"User-agent: *\nDisallow:\n", content_type="text/plain"),
        response(A + "empty", html("").encode().replace(b"Home", b"").replace(b"Other pages", b"")),
    ]
    for data in (b"".join(records), members(*records), gzip.compress(b"".join(records))):
        found, report = read(tmp_path, {"x.warc.gz": data}, skip=["*/private/*"])
        first, plain = found.values()
        assert normalise(prose(1)) == first.document.text
        assert (plain.document.path.partition("#")[0], plain.document.text) == (A + "plain.txt", normalise(prose(2)))
        assert first.document.raw_sha256 == sha256_bytes(
            html(prose(1), head=f'<link rel="license" href="{CC_BY}">').encode()
        )
        assert dict(report.skipped) == {
            "warcinfo record": 1, "request record": 1, "revisit record": 1, "status other than 200": 1,
            "neither HTML nor plain text": 1, "content encoding other than gzip and deflate": 1,
            "page that the crawler cut off": 1, "address that the recipe leaves out": 1,
            "response that is not HTTP": 1, "record of another type": 1, "robots.txt or tdmrep.json": 1,
            "page without text": 1,
        }  # fmt: skip


def encodings():
    body = html(prose(5)).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:100], body[100:])) + b"0\r\n\r\n"
    squeezed = gzip.compress(body)
    squeezed_chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(squeezed), squeezed)
    chunked, gzipped = "Transfer-Encoding: chunked", "Content-Encoding: gzip"
    yield "chunks", response(A + "chunks", body, stored=chunks, headers=[chunked])
    yield "gzip", response(A + "gzip", body, stored=squeezed, headers=[gzipped])
    yield "deflate", response(A + "deflate", body, stored=zlib.compress(body), headers=["Content-Encoding: deflate"])
    yield "both", response(A + "both", body, stored=squeezed_chunks, headers=[chunked, gzipped])
    yield "no chunks", response(A + "no%20chunks", body, headers=[chunked])
    payload = {"WARC_Payload_Digest": digest(body, "sha256")}  # as some write it: of the body without its chunks
    yield "payload", response(A + "payload", body, stored=chunks, headers=[chunked], digests=False, fields=payload)


def test_encodings_of_bodies_are_undone(tmp_path):
    written = dict(encodings())
    found, report = read(tmp_path, {"x.warc.gz": members(*written.values())})
    assert [extracted.broken for extracted in found.values()] == [""] * len(written)
    assert {extracted.document.text for extracted in found.values()} == {normalise(prose(5))}
    assert report.facts["statistics"]["num_digests_checked"] == 2 * (len(written) - 1) + 1


def test_what_is_wrong_with_a_page_is_a_recorded_drop(tmp_path):
    bomb = gzip.compress(b"<p>" + b"a" * 50 * LIMIT)
    good = page(A, 6)
    squeezed = gzip.compress(html(prose(7)).encode())
    chunked = ["Transfer-Encoding: chunked"]
    written = {
        "long": (response(A + "long", b"<p>" + b"a" * LIMIT), "oversized"),
        "huge": (response(A + "huge", b"<p>" + b"a" * 50 * LIMIT), "oversized"),
        "bomb": (response(A + "bomb", b"", stored=bomb, headers=["Content-Encoding: gzip"]), "oversized"),
        "cut": (response(A + "cut", b"", stored=squeezed[:-20], headers=["Content-Encoding: gzip"]), "unparsable"),
        "chunk": (response(A + "chunk", b"", stored=b"ff\r\nabc", headers=chunked), "unparsable"),
        "payload": (page(A + "payload", 8, fields={"WARC_Payload_Digest": digest(b"other")}), "damaged"),
        "block": (page(A + "block", 9, fields={"WARC_Block_Digest": digest(b"other", "sha256")}), "damaged"),
        "latin": (response(A + "latin", b"<p>caf\xe9</p>"), "undecodable"),
        "head": (record("response", A + "head", b"no HTTP\r\n\r\nbody"), "unparsable"),
        "endless": (record("response", A + "endless", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 600_000), "unparsable"),
        "deep": (response(A + "deep", b"<div>" * 3000 + b"text"), "unparsable"),
        "negative": (record("response", A + "negative", b"abc", Content_Length=-3), "unparsable"),
        "short": (page(A + "short", 10, fields={"Content_Length": 20}), "unparsable"),
        "beyond": (page(A + "beyond", 11, fields={"Content_Length": 10**12}), "unparsable"),
    }
    found, report = read(tmp_path, {"x.warc.gz": members(good, *(data for data, _ in written.values()), good)})
    dropped = [extracted for extracted in found.values() if extracted.broken]
    assert [extracted.broken for extracted in dropped] == [rule for _, rule in written.values()]
    for extracted in dropped:
        assert extracted.document.text == ""
        assert extracted.document.licence.spdx == "NOASSERTION"
    kept = [extracted.document for extracted in found.values() if not extracted.broken]
    assert len({document.document_id for document in kept}) == 2  # one record id, address and text: two places
    assert dropped[0].document.raw_sha256 == sha256_bytes(b"<p>" + b"a" * LIMIT)
    assert dropped[-1].document.raw_sha256 == sha256_bytes(members(written["beyond"][0]))
    assert "Content-Length" in dropped[-3].document.licence.reason
    assert not report.skipped


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-30], "ends within the gzip member"),
        (lambda data: data[:-60] + bytes(4) + data[-56:], "is damaged"),
        (lambda data: data + b"rubbish", "is damaged"),
        (lambda data: gzip.decompress(data)[:-60], "bytes of its block are missing"),
        (lambda data: b"WARC/0.9" + gzip.decompress(data)[8:], "the record at 0"),
    ],
)
def test_an_archive_that_cannot_be_read_on_is_an_error(damage, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, {"x.warc.gz": damage(members(page(A, 12), page(B, 13)))})
    assert caught.value.where.endswith("x.warc.gz")


def test_another_file_than_the_pinned_one_is_refused(tmp_path):
    source = WarcSource.model_validate(warc_source(tmp_path, {"x.warc": page(A, 14)}))
    context = ReadingContext(ReadingLimits(), tmp_path, tmp_path)
    (tmp_path / "x.warc").write_bytes(page(A, 15))
    with pytest.raises(SourceError, match="source 'web'"):
        open_source(source, context).parts()
    for changes in ({"signals": {"agents": []}}, {"signals": {"drop": ["noarchive"]}}, {"site_files": source.files}):
        with pytest.raises(ValidationError):
            WarcSource.model_validate({**source.model_dump(), **changes})


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nothing_but_named_errors_comes_of_any_bytes(tmp_path_factory, data):
    """Bytes changed inside of records whose gzip is whole: documents, drops, or an error that says where."""
    written = [*dict(encodings()).values(), page(A, 22), response(A + "robots.txt", ROBOTS.encode())]
    for _ in range(3):
        number = data.draw(st.integers(0, len(written) - 1))
        changed = bytearray(written[number])
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
        written[number] = bytes(changed)
    with contextlib.suppress(DataError):
        read(tmp_path_factory.mktemp("fuzz"), {"x.warc.gz": members(*written)})


def test_memory_does_not_grow_with_a_record(tmp_path):
    (tmp_path / "x.warc.gz").write_bytes(b"")
    with gzip.open(tmp_path / "x.warc.gz", "wb", compresslevel=1) as file:
        body = b"a" * 2**20
        file.write(record("response", A, http(b""), Content_Length=len(http(b"")) + 64 * len(body))[:-4])
        for _ in range(64):
            file.write(body)
        file.write(b"\r\n\r\n")
    data = (tmp_path / "x.warc.gz").read_bytes()
    tracemalloc.start()
    found, _ = read(tmp_path, {"x.warc.gz": data})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(rules(found).values()) == ["oversized"]
    assert peak < 4 * 2**20


def test_what_a_site_reserves_is_found_behind_its_pages_and_in_archives_of_its_own(tmp_path):
    robots = response("http://a.example/robots.txt", ROBOTS.encode(), content_type="text/plain")
    rule = [{"location": "/dir/", "tdm-reservation": 1}]
    tdm = response(B + ".well-known/tdmrep.json", json.dumps(rule).encode(), content_type="application/json")
    pages = [page(A + "dir/x", 16), page(A + "x", 17), page(B + "dir/x", 18), page(B + "x", 19)]
    expected = {A + "dir/x": "robots_txt", A + "x": "", B + "dir/x": "tdm_reservation", B + "x": ""}
    found, _ = read(tmp_path, {"x.warc.gz": members(*pages, robots, tdm)})
    assert rules(found) == expected
    (signals,) = {extracted.signals for extracted in found.values() if extracted.broken == "robots_txt"}
    assert [(signal.place, signal.value) for signal in signals] == [("robots.txt", "GPTBot")]
    site = warc_source(tmp_path, {"sites.warc.gz": members(robots, tdm)})["files"]
    assert rules(read(tmp_path, {"x.warc.gz": members(*pages)}, site_files=site)[0]) == expected
    assert set(rules(read(tmp_path, {"x.warc.gz": members(*pages)})[0]).values()) == {""}
    recorded, _ = read(tmp_path, {"x.warc.gz": members(*pages, robots, tdm)}, signals={"drop": ["robots_txt"]})
    assert rules(recorded) == {**expected, B + "dir/x": ""}
    assert [len(extracted.signals) for extracted in recorded.values()] == [1, 0, 1, 0]
    recorded, _ = read(tmp_path, {"x.warc.gz": members(*pages, robots, tdm)}, signals={"drop": []})
    assert list(rules(recorded).values()) == [""] * 4
    again = page(A + "x", 16, head='<meta name="robots" content="noai, noai, noindex">' * 3)
    (extracted,) = read(tmp_path, {"x.warc.gz": members(again)})[0].values()
    assert [signal.rule for signal in extracted.signals] == ["noai", "noindex"]


def test_site_files_are_read_once_and_hold_for_every_archive(tmp_path, monkeypatch):
    """As if what they hold stood in each archive, whether it fits in memory or is merged on disk."""

    def robots(host, rule, agent="*"):
        text = f"User-agent: {agent}\nDisallow: /{rule}\n"
        return response(f"https://{host}/robots.txt", text.encode(), content_type="text/plain")

    rule = json.dumps([{"location": "/t*", "tdm-reservation": 1}]).encode()
    sites = [
        [robots("a.example", "x"), robots("b.example", "y"), robots("c.example", "", "OtherBot")],
        [robots("a.example", "z", "GPTBot"), response(B + ".well-known/tdmrep.json", rule), robots("a.example", "x")],
        [response(B + ".well-known/tdmrep.json", b"no rules"), robots("a.example", "z", "GPTBot")],
    ]
    paths = ("x", "y", "z", "t", "q")
    pages = [page(f"https://{host}.example/{path}", number) for number, host in enumerate("abcd") for path in paths]
    own = robots("a.example", "q")
    entries = warc_source(tmp_path, {f"s{number}.warc.gz": members(*site) for number, site in enumerate(sites)})[
        "files"
    ]
    written = {"one.warc.gz": members(*pages, own), "two.warc.gz": members(*pages), "three.warc.gz": members(*pages)}
    everywhere = members(*(record for site in sites for record in site))
    expected, whole = read(tmp_path, {name: everywhere + data for name, data in written.items()})
    dropped = [path.partition("@")[0] for path, extracted in expected.items() if extracted.broken]
    assert dropped == [
        f"{address}#{name}" for name in written for address in (A + "x", A + "z", A + "q", B + "y", B + "t")
        if name == "one.warc.gz" or address != A + "q"
    ]  # fmt: skip

    looked_at = []
    collect = WarcReader._collect
    monkeypatch.setattr(WarcReader, "_collect", lambda *of: looked_at.append(of[1].name) or collect(*of))
    for table_bytes in (2**20, 0):
        monkeypatch.setattr(data_recipes.warc_source, "_TABLE_BYTES", table_bytes)
        found, report = read(tmp_path, written, site_files=entries)
        assert [item.signals for item in found.values()] == [item.signals for item in expected.values()]
        assert [item.broken for item in found.values()] == [item.broken for item in expected.values()]
        counted = {key: value for key, value in whole.facts["statistics"].items() if key.startswith("num_site")}
        assert counted == {"num_site_files": 6, "num_site_files_unread": 1}
        assert counted.items() <= report.facts["statistics"].items()
    assert Counter(looked_at) == {name: 2 for name in [*written, *(entry["path"] for entry in entries)]}


def test_a_table_of_site_files_that_is_another_one_is_refused(tmp_path):
    site = warc_source(tmp_path, {"sites.warc.gz": members(response(A + "robots.txt", ROBOTS.encode()))})["files"]
    source = WarcSource.model_validate(warc_source(tmp_path, {"x.warc": page(A, 24)}, site_files=site))
    reader = open_source(source, ReadingContext(ReadingLimits(), tmp_path, tmp_path))
    (part,) = reader.parts()
    (table,) = (tmp_path / "derived").iterdir()
    for damage in (lambda: table.write_bytes(table.read_bytes().replace(b"private", b"public")), table.unlink):
        damage()
        with pytest.raises(SourceError, match="source 'web'") as caught:
            list(reader.read(part, PartReport()))
        assert "run the same command again" in caught.value.next_command
    reader.parts()
    assert list(reader.read(part, PartReport()))


def archives():
    scripts = ("latin", "cyrillic")
    first = [page(f"{A}{number}", 100 + number, script=scripts[number % 2]) for number in range(8)]
    first += [
        page(A + "same", 100),
        page(A + "noai", 110, headers=["X-Robots-Tag: noai"]),
        page(A + "unclear", 111, head=f'<a rel=license href="{CC_BY}">x</a><a rel=license href="/terms">y</a>'),
        page(A + "damaged", 112, fields={"WARC_Payload_Digest": digest(b"other")}),
        page(A + "кириллица", 113, script="cyrillic", encoding="koi8-r", content_type="text/html; charset=koi8-r"),
    ]
    second = [page(f"{B}{number}", 200 + number) for number in range(4)]
    return {"first.warc.gz": members(*first), "second.warc": b"".join(second)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The same recipe, built by one process and by two."""
    corpora = []
    for num_workers in (1, 2):
        root = tmp_path_factory.mktemp("web")
        values = tiny_corpus_values(root, policy={"allow": ["CC-BY-4.0", "MIT"]})
        robots = response(B + "robots.txt", b"User-agent: GPTBot\nDisallow: /3\n", content_type="text/plain")
        sites = warc_source(root, {"sites.warc.gz": members(robots)})["files"]
        values["sources"] = [warc_source(root, archives(), site_files=sites)]
        values["execution"]["num_workers"] = num_workers
        corpora.append(build_corpus(CorpusConfig.model_validate(values), tiny_context(root / "store")))
    return corpora


def test_one_and_two_processes_build_the_same_corpus(built):
    one, two = built
    assert one.content_digest == two.content_digest


def test_pages_become_a_corpus_with_every_drop_on_record(built):
    root = built[0].path
    table = [row for path in root.glob("documents/documents-*.parquet") for row in pq.read_table(path).to_pylist()]
    rows = {row["path"].partition("#")[0]: row for row in table if row["source"] == "web"}
    dropped = {address: row["rule"] for address, row in rows.items() if row["rule"]}
    assert {dropped.pop(A + "0", ""), dropped.pop(A + "same", "")} == {"", "duplicate"}
    reserved = {A + "noai": "noai", B + "3": "robots_txt"}
    assert dropped == {**reserved, A + "unclear": "licence", A + "damaged": "damaged"}
    assert rows[A + "noai"]["signals"] == [{"rule": "noai", "place": "header", "value": "noai"}]
    assert rows[A + "1"]["signals"] == []
    evidence = {name: rows[A + "1"][name] for name in ("licence_chosen", "evidence_kind", "evidence_locator", "kind")}
    assert list(evidence.values()) == ["CC-BY-4.0", "page-link", "<link rel=license>", "page"]
    texts = [row for path in root.glob("text/train-*.parquet") for row in pq.read_table(path).to_pylist()]
    (cyrillic,) = [row["text"] for row in texts if row["path"].startswith(A + "кириллица#first.warc.gz@")]
    assert cyrillic == normalise(prose(113, script="cyrillic"))
    corpus = read_json(root / "corpus.json")
    (step,) = [step for step in corpus["steps"] if step["name"] == "signals of web sites"]
    assert (step["dropped"], step["rows_in"] - step["rows_out"]) == ({"noai": 1, "robots_txt": 1}, 2)
    assert step["parameters"]["web"]["drop"][0] == "tdm_reservation"
    (lock,) = [entry for entry in read_json(root / "sources.lock")["sources"] if entry["name"] == "web"]
    assert lock["statistics"]["num_records"] == 17
    assert {"split", "as_of", "osaid_class", "obtain", "size_bytes", "licence"} <= lock.keys()


def test_the_example_of_the_documentation_can_be_built_upon(tmp_path):
    """The recipe in docs/sources.md is read as it stands there; pinned to an archive of ours, it gives pages."""
    text = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
    first = text.index("    - {type: warc")
    (example,) = yaml.safe_load(text[first : text.index("\n\n", first)])
    WarcSource.model_validate(example)
    pages = members(page(A + "articles/1", 20), page(A + "login", 21))
    example = {key: value for key, value in example.items() if key not in ("files", "site_files", "max_page_bytes")}
    found, report = read(tmp_path, {"x.warc.gz": pages}, **example)
    assert list(rules(found)) == [A + "articles/1"]
    assert report.skipped == {"address that the recipe leaves out": 1}


def test_its_libraries_count_for_recipes_with_web_archives_only(tmp_path):
    values = tiny_corpus_values(tmp_path)
    plain = spec_of(CorpusConfig.model_validate(values))
    values["sources"].append(warc_source(tmp_path, {"x.warc": b""}))
    assert set(spec_of(CorpusConfig.model_validate(values)).libraries) - set(plain.libraries) == {
        "Protego", "Resiliparse",
    }  # fmt: skip


def test_a_missing_library_is_named_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(data_recipes.warc_source, "LIBRARIES", ("Protego", "no-such-library"))
    with pytest.raises(CodeError, match="no-such-library is not installed"):
        read(tmp_path, {"x.warc": page(A, 23)})

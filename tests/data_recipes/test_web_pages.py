"""What is taken from a page: its characters, its text, its licence, and what its site says of text and data mining."""

import json
import time

import pytest
from corpus_fixtures import AS_OF, prose
from hypothesis import given, settings
from hypothesis import strategies as st
from warc_fixtures import CC_BY, html

from data_recipes import site_statements, web_pages, web_signals
from data_recipes.document import LicenceFinding, Signal
from data_recipes.page_licences import licence_of_page
from data_recipes.site_statements import SiteStatements, SiteTable
from data_recipes.text import UNDECODABLE, UNPARSABLE, normalise
from data_recipes.warc_records import Fields
from data_recipes.warc_settings import SIGNAL_RULES, SignalRules
from data_recipes.web_pages import MAX_ATTRIBUTES, MAX_DEPTH, MAX_OPTIONS, read_page
from data_recipes.web_responses import Head
from data_recipes.web_signals import broken_signal, matches, signals_of_header, signals_of_page
from provenance.errors import DataError

URL = "https://example.org/dir/page.html"
BY_SA = "https://creativecommons.org/licenses/by-sa/4.0/"
RULES = SignalRules()


def read(data, charset="", **values):
    return read_page(data, URL, charset, **{"is_html": True, "main_content": True, **values})


@pytest.mark.parametrize(
    ("encoding", "charset", "head"),
    [
        ("utf-8", "", ""),
        ("utf-8", "no-such-set", ""),
        ("koi8-r", "KOI8-R", '<meta charset="utf-8">'),  # the response before the page
        ("cp1251", "", '<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">'),
        ("utf-8-sig", "koi8-r", ""),  # the mark before the response
        ("utf-8", "", '<meta charset="utf-16">'),
        ("utf-16", "", ""),
    ],
)
def test_characters_are_read_as_mark_response_or_page_say(encoding, charset, head):
    text = prose(3, script="cyrillic")
    page = read(html(text, head=head).encode(encoding), charset)
    assert (normalise(page.text), page.broken) == (text.strip(), "")


def test_names_of_the_web_mean_more_than_those_of_python():
    for charset, encoding, text in (
        ("iso-8859-1", "cp1252", "“quoted” – and a dash"),
        ("shift_jis", "cp932", "①髙島屋"),
        ("gb2312", "gb18030", "镕\U00020000"),
    ):
        assert read(text.encode(encoding), charset, is_html=False).text == text


@pytest.mark.parametrize("data", [b"caf\xe9", b"<p>caf\xe9</p>", b"<meta charset=utf-8><p>\xff\xfe"])
def test_what_cannot_be_decoded_breaks_a_rule(data):
    assert read(data).broken == UNDECODABLE
    assert read(b"\x81\x8d", "cp1252", is_html=False).broken == UNDECODABLE


def test_menus_and_footers_are_left_out_unless_the_recipe_wants_them():
    text = prose(4)
    for main_content in (True, False):
        found = read(html(text).encode(), main_content=main_content).text
        assert text.split("\n\n")[0] in found
        assert ("Other pages" in found) == ("The footer" in found) == (not main_content)


def test_a_page_nested_too_deep_is_not_extracted():
    def nested(depth):
        return ("<div>" * depth + "text" + "</div>" * depth).encode()

    assert read(nested(MAX_DEPTH - 2)).broken == ""  # within html and body
    assert read(nested(MAX_DEPTH - 1)).broken == UNPARSABLE
    assert read(nested(100_000)).broken == UNPARSABLE


def test_a_page_of_many_tags_is_not_parsed_on_once_it_is_too_deep(monkeypatch):
    """Tags that look through all open elements take time in the square of how many pile up before that is seen."""
    parsed = []
    tree = web_pages._tree
    monkeypatch.setattr(web_pages, "_tree", lambda text: parsed.append(text) or tree(text))
    monkeypatch.setattr(web_pages, "STEP_TAGS", 2000)
    shallow, deep = "<p>text</p>" * 10_000, "<x>" * (MAX_DEPTH + 1)
    assert len(normalise(read((shallow + "<x>" * (MAX_DEPTH - 3) + "<hr>" * 9000).encode()).text).split()) == 10_000
    places = [text.count("<") for text in parsed]
    assert places == [2000, 4000, 6000, 8000, 10666, 14221, 18961, 25281, 20_000 + MAX_DEPTH - 3 + 9000]
    late = shallow + deep + "</y>" * 9000
    for page, num_tags in ((deep + "</y>" * 9000, 2000), (deep + "</x>" * 9000, 2000), (late, 25_281)):
        parsed.clear()
        assert read(page.encode()).broken == UNPARSABLE
        assert parsed[-1].count("<") == num_tags


def test_what_parsers_begin_again_in_every_paragraph_is_begun_once():
    """128 kB of this took more than 6 GB of memory, every paragraph holding all elements begun before it."""
    page = "".join(f"<FONT\nsize={number}><p>x{number}" for number in range(MAX_DEPTH + 100))
    found = read(page.encode())
    assert found.broken == ""
    assert normalise(found.text).split() == [f"x{number}" for number in range(MAX_DEPTH + 100)]
    plain = read(b"<p>one <b>two <i>three</b> four</i> <code>five</code><small>six</small>")
    assert plain.text == "one two three four fivesix"


def test_many_elements_that_say_something_take_no_long_time():
    links, metas = f'<a rel=license href="{CC_BY}">x</a>' * 5000, '<meta name="robots" content="noai">' * 5000
    head = Head(200, Fields([("Content-Type", f"text/html; charset={' ' * 100_000};")]), b"", b"")
    began = time.process_time()
    page = read((metas + links).encode())
    assert (len(page.metas), len(page.licences)) == (5000, 5000)
    assert head.charset == ""
    assert time.process_time() - began < 5  # minutes, when each element was looked for from the beginning on


def test_a_page_of_which_parsing_would_take_long_is_not_parsed():
    def page(num_attributes, value="x"):
        return f"<p {' '.join(f'a{number}={value}' for number in range(num_attributes))}>text".encode()

    assert read(page(MAX_ATTRIBUTES)).broken == ""
    assert read(page(MAX_ATTRIBUTES + 1)).broken == UNPARSABLE
    assert read(page(MAX_ATTRIBUTES + 1, '">"')).broken == UNPARSABLE
    assert read(page(MAX_ATTRIBUTES + 1).replace(b"=x", b"")).broken == UNPARSABLE
    drawing = f'<svg><path d="{"M 10 10 " * MAX_ATTRIBUTES}"/></svg><img src="data:{"a/" * MAX_ATTRIBUTES}"><p>text'
    assert read(drawing.encode()).text.split() == ["text"]
    options = "<select>" + "<option>x" * MAX_OPTIONS
    assert read(options.encode()).broken == ""
    assert read(f"{options}<OPTION>x".encode()).broken == UNPARSABLE


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["<p", ">", "<div>", "</", "<a rel=license href='", "'", "<meta name=robots", "\0", "é"]))
)
def test_no_page_does_any_harm(pieces):
    data = "".join(pieces).encode()
    page = read(data)
    assert page == read(data)
    licence_of_page(page, "", AS_OF, None)
    list(signals_of_page(page.metas, RULES.agents))


def licence(head, of_all=None):
    return licence_of_page(read(html("Text.", head=head).encode()), "ab" * 32, AS_OF, of_all)


@pytest.mark.parametrize(
    ("head", "spdx", "kind"),
    [
        (f'<link rel="license" href="{CC_BY}">', "CC-BY-4.0", "page-link"),
        ('<a REL="nofollow License" href="//creativecommons.org/licenses/by/4.0/deed.de">x</a>',
         "CC-BY-4.0", "page-link"),
        ('<link rel=license href="https://www.apache.org/licenses/LICENSE-2.0">', "Apache-2.0", "page-link"),
        (f'<meta name="DC.rights" content="© 2026, {BY_SA}">', "CC-BY-SA-4.0", "page-metadata"),
        ('<meta property="cc:license" content="http://creativecommons.org/publicdomain/zero/1.0/">',
         "CC0-1.0", "page-metadata"),
        (f'<link rel=license href="{CC_BY}"><a rel=license href="{CC_BY}deed.en">x</a>', "CC-BY-4.0", "page-link"),
    ],
)  # fmt: skip
def test_a_page_that_names_one_licence_has_it(head, spdx, kind):
    found = licence(head)
    assert (found.spdx, found.evidence_kind, found.evidence_sha256) == (spdx, kind, "ab" * 32)
    assert found.declared
    assert found.evidence_locator.startswith("<")


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("", "names no licence"),
        (f'<link rel=license href="{CC_BY}"><a rel=license href="{BY_SA}">x</a>', "licences: CC-BY-4.0, CC-BY-SA"),
        (f'<link rel=license href="{CC_BY}"><a rel=license href="/terms">x</a>', "no known licence"),
        ('<link rel=license href="http://[broken">', "no known licence"),
        ('<meta name=description content="https://creativecommons.org/licenses/by/4.0/">', "names no licence"),
        (f'<a href="{CC_BY}">a link to it is none</a>', "names no licence"),
    ],
)  # fmt: skip
def test_a_page_that_is_not_clear_has_none(head, reason):
    found = licence(head)
    assert (found.spdx, found.evidence_kind) == ("NOASSERTION", "none")
    assert reason in found.reason


def test_a_stated_licence_holds_unless_the_page_names_another():
    stated = LicenceFinding("CC-BY-4.0", "terms of the site", "declared-metadata", "recipe", "", AS_OF)
    assert licence("", stated) == stated
    assert licence('<meta name=author content="A. Writer">', stated).copyright == ("A. Writer",)
    assert licence(f'<link rel=license href="{CC_BY}">', stated).evidence_kind == "page-link"
    found = licence(f'<link rel=license href="{BY_SA}">', stated)
    assert (found.spdx, found.reason) == ("NOASSERTION", "the page names CC-BY-SA-4.0, the recipe CC-BY-4.0")


def header(*pairs):
    return list(signals_of_header(Fields(list(pairs)), RULES.agents))


def metas(**values):
    return list(signals_of_page(read(html("Text.", head="".join(
        f'<meta name="{name.replace("_", "-")}" content="{value}">' for name, value in values.items()
    )).encode()).metas, RULES.agents))  # fmt: skip


def test_directives_of_headers_and_meta_elements():
    assert [(found.rule, found.value) for found in header(("X-Robots-Tag", "nofollow, NoAI, noimageai"))] == [
        ("noai", "noai"), ("noimageai", "noimageai"),
    ]  # fmt: skip
    assert [found.rule for found in header(("x-robots-tag", "none"), ("x-robots-tag", "noai"))] == ["noindex", "noai"]
    # Of another crawler, and of one of those that the recipe names.
    assert header(("X-Robots-Tag", "otherbot: noai, noindex")) == []
    assert header(("X-Robots-Tag", "otherbot: noindex, gptbot: noai")) == [Signal("noai", "header", "gptbot: noai")]
    assert [found.rule for found in header(("X-Robots-Tag", "unavailable_after: 25 Jun 2027, noindex"))] == ["noindex"]
    assert [found.rule for found in metas(robots="noindex,NOAI")] == ["noindex", "noai"]
    assert [found.rule for found in metas(ccbot="noindex", googlebot="noai", description="noai")] == ["noindex"]
    assert metas(robots="index, follow") == header(("X-Robots-Tag", "")) == []


def test_tdm_reservation_of_the_page_before_the_header_before_the_file():
    sites = SiteStatements(RULES)
    sites.add("https://example.org/.well-known/tdmrep.json", json.dumps([
        {"location": "/free/", "tdm-reservation": 0},
        {"location": "/dir/", "tdm-reservation": 1, "tdm-policy": "https://example.org/policy"},
        {"location": "*", "tdm-reservation": "7"}, {"tdm-reservation": 1}, "no rule",
    ]).encode())  # fmt: skip
    file = list(sites.of(URL))
    assert file == [Signal("tdm_reservation", "tdmrep.json", "1 https://example.org/policy")]
    assert list(sites.of("https://example.org/other")) == list(sites.of("https://example.com/dir/")) == []
    (free,) = sites.of("http://EXAMPLE.org:80/free/x")
    assert free.value == "0"
    reserved, unreserved = header(("tdm-reservation", "1")), header(("TDM-Reservation", "0"))
    assert broken_signal(file, RULES) == broken_signal([free, *reserved], RULES) == "tdm_reservation"
    assert broken_signal([*file, *unreserved], RULES) == broken_signal([free], RULES) == ""
    assert broken_signal([*unreserved, *metas(tdm_reservation="1")], RULES) == "tdm_reservation"
    assert broken_signal([*reserved, *metas(tdm_reservation="0", tdm_policy="x")], RULES) == ""
    assert header(("tdm-reservation", "yes")) == []


def test_the_recipe_says_which_signals_drop_a_page():
    signals = [*header(("X-Robots-Tag", "noai, noindex")), Signal("robots_txt", "robots.txt", "GPTBot")]
    assert broken_signal(signals, RULES) == "robots_txt"
    assert broken_signal(signals, SignalRules(drop=["noindex", "noai"])) == "noai"
    assert broken_signal(signals, SignalRules(drop=["noimageai"])) == ""
    assert broken_signal([], RULES) == ""
    assert set(RULES.drop) == set(SIGNAL_RULES)


ROBOTS = """\
User-agent: Otherbot
User-agent: gptbot/1.1   # named with its version
Disallow: /dir/
Allow: /dir/open/

User-agent: *
Disallow: /*.pdf$
Sitemap: https://example.org/sitemap.xml
Disallow: /private

User-agent: Otherbot
Disallow: /
"""


def test_robots_txt_is_read_for_the_crawlers_of_the_recipe():
    sites = SiteStatements(SignalRules(agents=["GPTBot", "CCBot"]))
    sites.add("http://example.org/robots.txt", ROBOTS.encode())
    sites.add("https://example.org/robots.txt", ROBOTS.encode())
    assert sites.num_files == 1

    def agents(path, host="https://example.org"):
        return [found.value for found in sites.of(host + path)]

    assert agents("/dir/page.html") == ["GPTBot"]
    assert agents("/dir/open/page.html") == agents("/page.html") == []
    assert agents("/a/b.pdf") == agents("/private/x") == ["CCBot"]
    assert agents("/dir/page.html", "https://example.com") == agents("/dir/page.html", "https://example.org:8443") == []
    # Another capture of the file: what either reserves is reserved.
    sites.add("https://example.org/robots.txt", b"\xef\xbb\xbfUser-agent: *\nDisallow: /page")
    assert agents("/page.html") == ["GPTBot", "CCBot"]
    assert agents("/dir/page.html") == ["GPTBot"]


def test_site_files_that_cannot_be_read_are_counted_and_their_size_is_bounded(monkeypatch):
    sites = SiteStatements(RULES)
    for data in (b"<html>not found</html>", b"[" * 200_000, b'{"location": "/"}'):
        sites.add("https://example.org/.well-known/tdmrep.json", data)
    for number in range(40):
        sites.add("https://example.org/robots.txt", f"User-agent: *\nDisallow: /{number}".encode())
    assert (sites.num_files, sites.num_unread) == (32, 3 + 8)
    assert [found.rule for found in sites.of("https://example.org/31x")] == ["robots_txt"] * len(RULES.agents)
    monkeypatch.setattr(site_statements, "MAX_SITE_BYTES", sites.size_bytes + 10)
    with pytest.raises(DataError, match=r"more than .* bytes of robots\.txt"):
        sites.add("https://example.com/robots.txt", b"User-agent: *\nDisallow: /")


def test_a_table_on_disk_says_what_was_written(tmp_path):
    hosts = [f"{name}{number}.example" for name in ("a", "ab", "Ж", "ж.пример:8080.") for number in range(40)]
    sites = SiteStatements(RULES)
    for number, host in enumerate(hosts):
        sites.add(f"https://{host}/robots.txt", f"User-agent: *\nDisallow: /{number}x".encode())
    with (tmp_path / "table").open("wb") as file:
        sites.write(file)
    table = SiteTable(tmp_path / "table")
    assert (table.num_files, table.num_unread) == (sites.num_files, 0)
    shared = SiteStatements(RULES, table)
    for number, host in enumerate(hosts):
        addresses = [f"https://{host}/{path}x" for path in (number, number + 1)]
        said = [list(sites.of(address)) for address in addresses]
        assert said == [list(shared.of(address)) for address in addresses]
        assert [bool(signals) for signals in said] == [True, False] or "пример" in host
    assert not [
        said for host in ("", "a", "zz.example", "\x00") for said in (table.of(host).robots, table.of(host).tdm) if said
    ]


def test_many_versions_of_a_robots_txt_are_parsed_once(monkeypatch):
    parsed = []
    parse = site_statements._parse_robots
    monkeypatch.setattr(site_statements, "_parse_robots", lambda text: parsed.append(text) or parse(text))
    sites = SiteStatements(SignalRules(agents=["GPTBot", "CCBot"]))
    for number in range(32):
        sites.add(URL.replace("dir/page.html", "robots.txt"), f"User-agent: CCBot\nDisallow: /{number}".encode())
    for address, named in (("https://example.org/7", ["CCBot"]), (URL, []), ("https://example.org/31", ["CCBot"])):
        assert [signal.value for signal in sites.of(address)] == named
    assert len(parsed) == 32


def test_groups_of_other_crawlers_cost_nothing():
    names = "".join(f"User-agent: bot{number}\n" for number in range(10_000))
    rules = "".join(f"Disallow: /{number}\n" for number in range(10_000))
    assert web_signals.relevant_groups(names + rules, {"gptbot"}) == ""
    kept = web_signals.relevant_groups(names + "User-agent: GPTBot\n" + rules, {"gptbot"})
    assert kept.splitlines()[:2] == ["User-agent: GPTBot", "Disallow: /0"]


@pytest.mark.parametrize(
    ("location", "path", "expected"),
    [
        ("/", "/a", True), ("/a", "/ab", True), ("/a$", "/ab", False), ("/a$", "/a", True), ("/b", "/a/b", False),
        ("/*.jpg", "/x/y.jpg?z", True), ("/*.jpg$", "/x.jpg?z", False), ("/*.jpg$", "/x.jpg.jpg", True),
        ("*", "/", True), ("/a*b*a$", "/aba", True), ("/ab*ba$", "/aba", False), ("/a*b*c", "/acb", False),
    ],
)  # fmt: skip
def test_locations_of_tdm_rules(location, path, expected):
    assert matches(location, path) == expected

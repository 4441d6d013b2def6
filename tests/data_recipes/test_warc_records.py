"""Records of web archives are read as an independent writer made them; every way to break one is refused."""

import gzip
import hashlib
import io
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warc_fixtures import digest, http, members, record

from data_recipes.warc_records import (
    MAX_HEAD_BYTES,
    BrokenRecord,
    DeclaredDigest,
    MalformedRecord,
    RecordReader,
)
from data_recipes.warc_stream import ArchiveStream, DamagedArchive
from data_recipes.web_responses import (
    TooLarge,
    UnreadableResponse,
    read_head,
    without_chunks,
    without_coding,
)

GOOD = record("response", "https://example.org/", http(b"<p>text</p>"))


def read_all(data):
    """Place and block of every record; of a record that is left out what was told of it."""
    reader, found = RecordReader(ArchiveStream(io.BytesIO(data))), []
    while True:
        try:
            begun = reader.begin()
            if begun is None:
                return found
            block = b"".join(iter(lambda: reader.read(1000), b""))
            reader.finish()
            found.append((begun.place, begun.fields.get("warc-target-uri"), block))
        except MalformedRecord as error:
            found.append(reader.give_up(error))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=300), st.booleans(), st.integers(0, 9)), min_size=1, max_size=6),
    st.sampled_from(["plain", "member each", "one member"]),
    st.sampled_from(["1.0", "1.1"]),
)
def test_what_was_written_is_read(blocks, form, version):
    blocks = [data * (1000 if is_long else 1) for data, is_long, _ in blocks]
    written = [record("resource", f"urn:{n}", data, version=version) for n, data in enumerate(blocks)]
    packed = {
        "plain": b"".join,
        "member each": lambda w: members(*w),
        "one member": lambda w: gzip.compress(b"".join(w)),
    }
    data = packed[form](written)
    found = read_all(data)
    assert [(uri, block) for _, uri, block in found] == [(f"urn:{n}", data) for n, data in enumerate(blocks)]
    for (place, _, _), whole in zip(found, written, strict=True):
        offset, _, within = place.partition("+")
        rest = data[int(offset) :] if form == "plain" else zlib.decompressobj(31).decompress(data[int(offset) :])
        assert rest[int(within or 0) :].startswith(whole)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(GOOD) * 2 - 1), st.sampled_from(["plain", "gzip"]))
def test_an_archive_that_is_cut_short_is_never_taken_for_whole(cut, form):
    packed = [GOOD, GOOD] if form == "plain" else [members(GOOD), members(GOOD)]
    data = b"".join(packed)[: cut * len(b"".join(packed)) // (2 * len(GOOD))]
    if len(data) in (0, len(packed[0])):
        assert len(read_all(data)) == len(data) // len(packed[0])
    else:
        with pytest.raises(DamagedArchive):
            read_all(data)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_byte_is_refused_or_seen(data):
    """Nothing but a named error comes of it, and gzip's checksum lets no change of a block through."""
    whole = members(GOOD, GOOD)
    place = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole)
    broken[place] ^= data.draw(st.integers(1, 255))
    try:
        found = read_all(bytes(broken))
    except DamagedArchive:
        return
    assert [entry[1:] for entry in found] == [entry[1:] for entry in read_all(whole)]


BROKEN = {
    "negative length": record("response", "urn:x", b"abc", Content_Length="-3"),
    "no length": record("response", "urn:x", b"abc", Content_Length=None),
    "length that is no number": record("response", "urn:x", b"abc", Content_Length="3 bytes"),
    "two lengths": record("response", "urn:x", b"abc", content_length="4"),
    "too long": record("response", "urn:x", b"abc", Content_Length="2000"),
    "too short": record("response", "urn:x", b"abc" * 9, Content_Length="3"),
    "longest number": record("response", "urn:x", b"abc", Content_Length="9" * 40),
    "version": record("response", "urn:x", b"abc", version="0.18"),
    "gigantic header": record("response", "urn:x", b"abc", X="y" * MAX_HEAD_BYTES),
    "header without an end": b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 3\r\nabc",
    "line without a name": record("response", "urn:x", b"abc").replace(b"WARC-Date: 2026-11-24T00:00:00Z", b"no name"),
    "no archive": b"<html>no archive at all</html>",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_left_out_alone_or_refuses_the_archive(name):
    broken = BROKEN[name]
    found = read_all(members(GOOD, broken, GOOD))
    assert [isinstance(entry, BrokenRecord) for entry in found] == [False, True, False]
    assert found[1].place == str(len(members(GOOD)))
    with pytest.raises(DamagedArchive, match=f"the record at {len(GOOD)}: "):
        read_all(GOOD + broken + GOOD)
    with pytest.raises(DamagedArchive, match="there are others"):  # what else the member holds would be lost with it
        read_all(gzip.compress(broken + GOOD))
    with pytest.raises(DamagedArchive):
        read_all(gzip.compress(GOOD + broken))


def test_a_header_without_end_is_not_read_to_its_end():
    class Endless(io.RawIOBase):
        num_read = 0

        def read(self, size=-1):
            Endless.num_read += size
            return b"WARC/1.0\r\nX: " + b"y" * (size - 13) if Endless.num_read == size else b"y" * size

    with pytest.raises(MalformedRecord, match="does not end"):
        RecordReader(ArchiveStream(Endless())).begin()
    assert Endless.num_read < 3 * MAX_HEAD_BYTES


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_digests_in_base_32_and_16_are_checked(algorithm):
    named = digest(b"data", algorithm)
    plain = f"{algorithm.upper()}:{hashlib.new(algorithm, b'data').hexdigest()}"
    for declared in (named, named.lower().replace(algorithm, algorithm.upper()), plain):
        for data in (b"data", b"date"):
            found = DeclaredDigest(declared)
            found.update(data)
            assert (found.is_known, found.fits()) == (True, data == b"data")
    for declared in ("", "md5:abc", "sha1:", f"{algorithm}:ABC", f"{algorithm}:" + "!" * 32, "sha1:é"):
        assert not DeclaredDigest(declared).is_known
        assert DeclaredDigest(declared).fits()


def chunked(pieces):
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_chunks_are_joined_and_cut_ones_refused(pieces, data):
    body = chunked(pieces)
    assert without_chunks(body) == b"".join(pieces)
    if any(pieces):
        cut = data.draw(st.integers(body.index(b"\n") + 1, len(body) - 5))
        with pytest.raises(UnreadableResponse):
            without_chunks(body[:cut])
    assert without_chunks(b"<p>never was in chunks</p>") == b"<p>never was in chunks</p>"


def test_content_encodings_are_undone_up_to_the_limit():
    data = b"text " * 1000
    bare = zlib.compressobj(wbits=-15)
    forms = {
        "identity": [data],
        "gzip": [gzip.compress(data)],
        "deflate": [zlib.compress(data), bare.compress(data) + bare.flush()],
    }
    for coding, bodies in forms.items():
        for body in bodies:
            assert without_coding(body, coding, len(data)) == data
            with pytest.raises(TooLarge):
                without_coding(body, coding, len(data) - 1)
            if coding != "identity":
                with pytest.raises(UnreadableResponse):
                    without_coding(body[:-9], coding, len(data))
    with pytest.raises(UnreadableResponse, match="damaged"):
        without_coding(b"no gzip", "gzip", 100)


def test_heads_of_responses():
    data = io.BytesIO(b"HTTP/1.1 200 OK\r\nContent-Type: text/HTML;  Charset='koi8-r'\r\nX-Long: a\r\n b\r\n\r\nbody")
    head = read_head(data.read)
    assert (head.status, head.media_type, head.charset, head.rest) == (200, "text/html", "koi8-r", b"body")
    assert head.fields.get("x-long") == "a b"
    assert read_head(io.BytesIO(b"HTTP/2 404\n\n").read).status == 404
    for broken in (
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"<html>\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"x" * 3 * MAX_HEAD_BYTES,
    ):
        with pytest.raises(UnreadableResponse) as caught:
            read_head(io.BytesIO(broken).read)
        assert broken.startswith(caught.value.taken)

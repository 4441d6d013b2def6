"""The document: what sources yield and every later step of the corpus reads."""

from dataclasses import dataclass

from provenance.digests import tagged_digest

UNRESOLVED = "NOASSERTION"
"""SPDX's word for a licence that could not be established."""


@dataclass(frozen=True)
class LicenceFinding:
    """The licence of one document and the evidence for it.

    Attributes:
        spdx: SPDX expression, or NOASSERTION.
        declared: the text that declared it, as found.
        evidence_kind: `file-header`, `licence-text`, `declared-metadata`, `dataset-field`, `hf-card` (weak),
            `dep5-stanza`, `page-link` or `page-metadata`; `none` if unresolved.
        evidence_locator: where in the source the evidence stands, such as `LICENSE` or `PKG-INFO:License-Expression`.
        evidence_sha256: sha256 of the bytes of the evidence file.
        evidence_date: ISO date as of which the evidence was taken.
        copyright: copyright lines found with it, in order, without duplicates.
        reason: why it is unresolved; empty otherwise.
    """

    spdx: str
    declared: str
    evidence_kind: str
    evidence_locator: str
    evidence_sha256: str
    evidence_date: str
    copyright: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class TokenPlace:
    """Where a document stands in a token file that is trained on in place.

    Attributes:
        ordinal: how many documents with tokens the source has before it, in the order of its files.
        num_documents: how many it has in all.
        number: the document's number in its file, empty ones counted too.
        first: its first token in the file.
        end: the token after its last.
    """

    ordinal: int
    num_documents: int
    number: int
    first: int
    end: int


@dataclass(frozen=True)
class Document:
    """One document before any decision.

    Attributes:
        source: name of the source in the recipe.
        source_digest: digest that pins the source (of the archive or of the data file).
        path: place inside the source; `module.py#docstrings` for prose taken from docstrings.
        kind: `prose`, `docstrings`, `row`, `tokens` (read back from token ids) or `in-place`.
        text: normalised text.
        raw_sha256: sha256 of the bytes it was extracted from.
        token_place: of a document whose tokens are trained on where they stand, as they are; else None.
    """

    source: str
    source_digest: str
    path: str
    kind: str
    text: str
    raw_sha256: str
    text_sha256: str
    licence: LicenceFinding
    token_place: TokenPlace | None = None

    @property
    def document_id(self) -> str:
        """Digest `document/1`: of its place and its text; it survives another tokenizer and other filters.

        Of a document in place `document/2`, which rises with its place: ids in order are documents in file order.
        """
        if self.token_place is not None:
            return _id_in_place(self.source_digest, self.token_place)
        value = {"source_digest": self.source_digest, "path": self.path, "text_sha256": self.text_sha256}
        return tagged_digest("document/1", value)


def _id_in_place(tokens_sha256: str, place: TokenPlace) -> str:
    """`document/2`: a digest, its beginning moved so that ids spread evenly in the order of places."""
    value = {"source_digest": tokens_sha256, "number": place.number, "first": place.first, "end": place.end}
    digest = tagged_digest("document/2", value)
    # Half of a document's share of all beginnings is never used: so no two have the same one.
    drawn = int(digest[:16], 16) >> 1
    return f"{((place.ordinal << 64) + drawn) // place.num_documents:016x}{digest[16:]}"


@dataclass(frozen=True)
class DocumentedFunction:
    """A public function or method with the first paragraph of its docstring on one line."""

    qualified_name: str
    signature: str
    summary: str


@dataclass(frozen=True)
class Signal:
    """What the site of a web page says of its use for text and data mining.

    Attributes:
        rule: name of the rule that it may break.
        place: `robots.txt`, `tdmrep.json`, `header` or `meta`.
        value: what stands there: the crawler, the directive, or `0` and `1` of `tdm-reservation` with its policy.
    """

    rule: str
    place: str
    value: str


@dataclass(frozen=True)
class ExtractedDocument:
    """What a source yields.

    Attributes:
        broken: name of the rule that it broke before any text could be judged, such as `undecodable`; its text is
            then empty.
        functions: documented functions that conversations are made from.
        signals: what the site of a web page says of its use.
    """

    document: Document
    broken: str = ""
    functions: tuple[DocumentedFunction, ...] = ()
    signals: tuple[Signal, ...] = ()

"""A source of type `warc`, as a recipe names it: web archives, and which reservations of a site drop its pages."""

from typing import Literal, get_args

from pydantic import Field, field_validator, model_validator

from data_recipes.local_files import DatasetFile
from data_recipes.row_settings import StatedLicence
from data_recipes.source_terms import SourceTerms
from provenance.config import Config

SignalName = Literal["tdm_reservation", "robots_txt", "noai", "noimageai", "noindex"]
SIGNAL_RULES: tuple[SignalName, ...] = get_args(SignalName)
"""Rules that drop a page because its site reserves it, in the order in which they are applied."""

_AGENTS = (
    *("AI2Bot", "Amazonbot", "anthropic-ai", "Applebot-Extended", "Bytespider", "CCBot", "ClaudeBot", "cohere-ai"),
    *("Diffbot", "Google-Extended", "GPTBot", "meta-externalagent", "omgili", "PerplexityBot"),
)


class SignalRules(Config):
    """What of a site's own statements about its pages is heeded.

    Attributes:
        drop: signals that drop a page; all by default. The others are recorded only.
        agents: crawlers that robots.txt, robots meta tags and X-Robots-Tag are read for, besides what they say to all.
    """

    drop: list[SignalName] = Field(default_factory=lambda: list(SIGNAL_RULES))
    agents: list[str] = Field(default_factory=lambda: list(_AGENTS))

    @field_validator("agents")
    @classmethod
    def _are_tokens(cls, value: list[str]) -> list[str]:
        if not value or not all(name.replace("-", "").replace("_", "").isalnum() and name.isascii() for name in value):
            raise ValueError("names of crawlers, such as GPTBot: letters, digits, - and _")
        return value


class WarcSource(SourceTerms):
    """Web archives in `execution.data_dir`; each HTML or plain text response with status 200 is a document.

    Attributes:
        name: name of the source.
        files: the archives (`.warc`, or `.warc.gz` with a gzip member per record) with their digests.
        site_files: archives with robots.txt and tdmrep.json only, which hold for the pages of all `files`.
        split: `train` or `heldout`, for the whole source.
        keep: globs of addresses of pages; none keeps all.
        skip: globs of addresses to leave out.
        main_content: leave out menus, footers and the like.
        max_page_bytes: a page of more bytes, decoded, is dropped by the rule `oversized`, as is one above
            `limits.max_document_bytes`. Extraction of a page made for it takes time in the square of this.
        signals: what of a site's own statements is heeded.
        licence: licence of all pages that do not state another; None: of those only that state one themselves.
    """

    type: Literal["warc"]
    name: str = Field(min_length=1)
    files: list[DatasetFile] = Field(min_length=1)
    site_files: list[DatasetFile] = Field(default=[])
    split: Literal["train", "heldout"]
    keep: list[str] = Field(default=[])
    skip: list[str] = Field(default=[])
    main_content: bool = True
    max_page_bytes: int = Field(default=2**20, ge=1)
    signals: SignalRules = SignalRules()
    licence: StatedLicence | None = None

    @model_validator(mode="after")
    def _names_files_once(self) -> "WarcSource":
        paths = [file.path for file in (*self.files, *self.site_files)]
        if len(set(paths)) != len(paths):
            raise ValueError("each file once in files and site_files")
        return self

    @property
    def pins(self) -> list[str]:
        """The sha256 of each file."""
        return [file.sha256 for file in (*self.files, *self.site_files)]

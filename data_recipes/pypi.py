"""Source distributions from a package index: fetched once by their sha256, read without executing anything."""

from dataclasses import dataclass
from pathlib import Path

import requests
from pypi_simple import (
    PYPI_SIMPLE_ENDPOINT,
    DistributionPackage,
    NoSuchProjectError,
    PyPISimple,
    UnsupportedContentTypeError,
    UnsupportedRepoVersionError,
)

from data_recipes.archives import ArchiveMember, read_archive
from data_recipes.downloads import TIMEOUT_SECONDS, PinnedFile, fetch_pinned, wrong_digest
from data_recipes.licence_declared import is_open
from data_recipes.licences import ArchiveLicence, LicenceResolver
from data_recipes.pypi_settings import PypiSource
from data_recipes.reading import is_wanted
from provenance.canonical import Json
from provenance.console import fact
from provenance.errors import SourceError


@dataclass(frozen=True)
class SourceContents:
    """A source that was read.

    Attributes:
        name: name of the source in the corpus.
        source_digest: sha256 of the archive.
        lock: its entry in `sources.lock`.
        members: files that the recipe keeps, sorted by path.
        resolver: finds the licence of each of them.
    """

    name: str
    source_digest: str
    lock: dict[str, Json]
    members: list[ArchiveMember]
    resolver: LicenceResolver


def fetch_sdist(source: PypiSource, cache_dir: Path, index_url: str | None = None) -> Path:
    """Return the pinned archive, from the cache or from the index; its sha256 is checked in either case.

    Args:
        source: what to fetch.
        cache_dir: holds `<sha256>/<filename>`.
        index_url: a simple repository other than the default one.

    Raises:
        SourceError: where there is no such file, it is not the pinned one, it cannot be fetched or not be written.
    """
    return fetch_pinned(
        _pin(source), cache_dir, lambda session: _find_url(source, session, index_url or PYPI_SIMPLE_ENDPOINT)
    )


def _pin(source: PypiSource) -> PinnedFile:
    return PinnedFile(source.filename, source.sha256, source.size_bytes, _where(source), "the package index")


def _where(source: PypiSource) -> str:
    return f"source {source.project} {source.version}"


def _find_url(source: PypiSource, session: requests.Session, index_url: str) -> str:
    try:
        return _find(source, PyPISimple(index_url, session=session)).url
    except requests.RequestException:
        raise
    except (UnsupportedContentTypeError, UnsupportedRepoVersionError, ValueError) as error:
        raise SourceError(
            f"the index answers in a form that is not understood ({error})",
            expected="a simple repository",
            where=_where(source),
        ) from error


def _find(source: PypiSource, index: PyPISimple) -> DistributionPackage:
    try:
        page = index.get_project_page(source.project, timeout=TIMEOUT_SECONDS)
    except NoSuchProjectError:
        raise SourceError(
            "the index has no such project", where=_where(source), next_command="check the name in corpus.yaml"
        ) from None
    for package in page.packages:
        if package.filename == source.filename:
            _check_index_digest(source, package)
            if package.is_yanked:
                fact(f"{source.filename} was yanked by its publisher: {package.yanked_reason or 'no reason given'}")
            return package
    sdists = [package for package in page.packages if package.package_type == "sdist"]
    same_version = [package.filename for package in sdists if package.version == source.version]
    found = f"files of that version: {', '.join(same_version)}" if same_version else "no source archive of that version"
    raise SourceError(
        found,
        expected=source.filename,
        where=_where(source),
        next_command="correct the pin in corpus.yaml, or leave the source out",
    )


def _check_index_digest(source: PypiSource, package: DistributionPackage) -> None:
    stated = package.digests.get("sha256")
    if stated is not None and stated != source.sha256:
        raise wrong_digest(_pin(source), stated)


def read_pypi_source(source: PypiSource, archive: Path) -> SourceContents:
    """Read a fetched archive: no network, nothing executed, the same result in any process.

    Args:
        source: its pin.
        archive: what `fetch_sdist` returned.

    Raises:
        ArchiveError: for a hostile or broken archive.
    """
    members = read_archive(archive)
    resolver = LicenceResolver(members, source.as_of)
    kept = [member for member in members if is_wanted(member.path, source.keep, source.skip)]
    return SourceContents(source.name, source.sha256, _lock_entry(source, resolver.archive), kept, resolver)


def _lock_entry(source: PypiSource, licence: ArchiveLicence) -> dict[str, Json]:
    finding = licence.finding
    return {
        "name": source.name,
        "type": source.type,
        "project": source.project,
        "version": source.version,
        "filename": source.filename,
        "sha256": source.sha256,
        "size_bytes": source.size_bytes,
        "split": source.split,
        "as_of": source.as_of,
        "osaid_class": "open" if is_open(finding.spdx) else "public",
        "obtain": f"pip download --no-deps --no-binary :all: {source.project}=={source.version}",
        "authors": list(licence.authors),
        "notices": [{"path": file.path, "sha256": file.sha256, "text": file.text} for file in licence.notices],
        "licence": {
            "spdx": finding.spdx,
            "declared": finding.declared,
            "evidence_kind": finding.evidence_kind,
            "evidence_locator": finding.evidence_locator,
            "evidence_sha256": finding.evidence_sha256,
            "evidence_date": finding.evidence_date,
            "copyright": list(finding.copyright),
            "reason": finding.reason,
            "declarations": [
                {"locator": item.locator, "text": item.text, "spdx": item.expression} for item in licence.declarations
            ],
            "texts": [
                {"path": text.path, "sha256": text.sha256, "spdx": text.match.spdx if text.match else ""}
                for text in licence.texts
            ],
        },
    }

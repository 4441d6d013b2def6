"""Sources of type `debian`: source packages of a Debian archive, read without unpacking or executing anything.

The recipe pins the package's description by its sha256; the description holds the sha256 of each archive. Patches of
the packagers are not applied: documents are those of the upstream release, and the packagers' own below `debian/`.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_recipes.archives import ArchiveMember, read_archive
from data_recipes.debian_copyright import PATH as COPYRIGHT
from data_recipes.debian_copyright import PackageLicences, library_version, read_description
from data_recipes.debian_settings import DebianSource
from data_recipes.document import ExtractedDocument
from data_recipes.downloads import PinnedFile, fetch_pinned
from data_recipes.extract import extract_files
from data_recipes.reading import PartReport, ReadingContext, SourcePart, is_wanted
from provenance.canonical import Json
from provenance.errors import SourceError

_FORMATS = ("3.0 (quilt)", "3.0 (native)")
_CHECKSUM = re.compile(r"(?P<sha256>[0-9a-f]{64})\s+(?P<size>\d{1,15})\s+(?P<filename>[A-Za-z0-9][A-Za-z0-9.+_~-]*)")
_ARCHIVE = re.compile(r".+?(?:\.orig(?:-(?P<component>[A-Za-z0-9-]+))?|(?P<debian>\.debian))?\.tar\.(?:gz|bz2|xz)")


class DebianReader:
    """Reads a source package, its one part; see `data_recipes.reading.SourceReader`."""

    def __init__(self, source: DebianSource, context: ReadingContext) -> None:
        self._source = source
        self._context = context

    def parts(self) -> Sequence[SourcePart]:
        """Fetch the description and the archives that it names.

        Raises:
            SourceError: where something has to be fetched and no archive is named; for what is missing, is not the
                pinned file, or is no description of this package.
        """
        dsc = self._source.dsc
        path = self._fetch(dsc.filename, dsc.sha256, dsc.size_bytes)
        archives = self._archives(path.read_bytes())
        for archive in archives:
            self._fetch(archive["filename"], archive["sha256"], archive["size_bytes"])
        size_bytes = sum(archive["size_bytes"] for archive in archives)
        reader = {"python_debian": library_version()}
        return [SourcePart(dsc.filename, size_bytes, {"dsc": dsc.sha256, "archives": archives, **reader})]

    def _fetch(self, filename: str, sha256: str, size_bytes: int) -> Path:
        source, context = self._source, self._context
        pin = PinnedFile(filename, sha256, size_bytes, self._where, "the Debian archive")

        def url(_: object) -> str:
            if context.debian_archive is None:
                raise SourceError(
                    f"{filename} has to be fetched, and no Debian archive is named",
                    expected="the address above pool/ of an archive that has this version",
                    where=self._where,
                    next_command="the same command with --set corpus.execution.debian_archive=URL",
                )
            return f"{context.debian_archive.rstrip('/')}/{source.directory}/{filename}"

        return fetch_pinned(pin, context.cache_dir, url)

    @property
    def _where(self) -> str:
        return f"source {self._source.package} {self._source.version}"

    def _archives(self, description: bytes) -> list[dict[str, Json]]:
        """The archives that a description names: name, sha256 and size, sorted by name."""
        source = self._source
        try:
            fields = read_description(description)
        except (ValueError, TypeError, KeyError) as error:
            raise self._refused(
                f"it cannot be read ({type(error).__name__})", "a source package's description"
            ) from None
        found = (fields.get("Source", ""), fields.get("Version", ""), fields.get("Format", ""))
        if found[:2] != (source.package, source.version):
            raise self._refused(f"it describes {found[0]} {found[1]}", f"{source.package} {source.version}")
        if found[2] not in _FORMATS:
            raise self._refused(f"its format is {found[2]!r}", f"one of {', '.join(_FORMATS)}")
        archives = []
        for line in fields.get("Checksums-Sha256", "").strip().splitlines():
            entry = _CHECKSUM.fullmatch(line.strip())
            if entry is None:
                raise self._refused(f"it names a file as {line.strip()[:200]!a}", "sha256, size and a plain name")
            if not entry["filename"].endswith(".asc"):
                values = {"filename": entry["filename"], "sha256": entry["sha256"], "size_bytes": int(entry["size"])}
                archives.append(values)
        if not archives:
            raise self._refused("it names no archive by its sha256", "the field Checksums-Sha256")
        return sorted(archives, key=lambda archive: str(archive["filename"]))

    def _refused(self, found: str, expected: str) -> SourceError:
        return SourceError(
            f"{self._source.dsc.filename}: {found}",
            expected=expected,
            where=self._where,
            next_command="pin another version of the package, or leave it out",
        )

    def read(self, part: SourcePart, report: PartReport) -> Iterator[ExtractedDocument]:
        """Yield documentation and docstrings.

        Raises:
            ArchiveError: for a hostile or broken archive.
        """
        source = self._source
        files: dict[str, ArchiveMember] = {}
        for archive in part.pin["archives"]:
            path = self._fetch(archive["filename"], archive["sha256"], archive["size_bytes"])
            for member in self._members(path, report):
                files[member.path] = member
        own = files.get(COPYRIGHT)
        licences = PackageLicences(None if own is None else own.data, source.licence_names, source.as_of)
        wanted = ((path, files[path].data) for path in sorted(files) if is_wanted(path, source.keep, source.skip))
        yield from extract_files(source.name, source.dsc.sha256, wanted, licences.resolve, self._context.limits, report)
        report.facts = {"archives": part.pin["archives"], "licence": licences.as_json()}

    def _members(self, path: Path, report: PartReport) -> Iterator[ArchiveMember]:
        """Files of one archive where the package's tree has them; the packagers' own replace those of upstream."""
        found = _ARCHIVE.fullmatch(path.name)
        if found is None:
            raise self._refused(f"it names {path.name}", "archives .tar.gz, .tar.bz2 or .tar.xz")
        below = "debian/" if found["debian"] else f"{found['component']}/" if found["component"] else ""
        is_upstream = not found["debian"] and ".orig" in path.name
        for member in read_archive(path, links=report.skipped):
            if not (is_upstream and not below and member.path.startswith("debian/")):
                yield ArchiveMember(below + member.path, member.data)

    def lock(self, reports: Sequence[PartReport]) -> dict[str, Json]:
        """Return the entry of the description, the archives and the licences of the package."""
        source, facts = self._source, reports[0].facts
        files = [{"path": file["filename"], **file} for file in (source.dsc.model_dump(), *facts["archives"])]
        for file in files:
            del file["filename"]
        return {
            "name": source.name,
            "type": source.type,
            "package": source.package,
            "version": source.version,
            "directory": source.directory,
            "files": files,
            "size_bytes": sum(file["size_bytes"] for file in files),
            "split": source.split,
            **source.terms_entry(),
            "licence": {**facts["licence"], "evidence_date": source.as_of},
        }

"""The licence of each document of a source archive, with evidence, or the reason why it could not be established.

Order: (1) what the file's own header establishes; (2) the nearest licence file in the directories above it, below the
root; (3) the archive: licence texts at the root that are known texts and agree with the declared metadata.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from data_recipes.archives import ArchiveMember
from data_recipes.document import UNRESOLVED, LicenceFinding
from data_recipes.licence_declared import Declaration, PackageMetadata, licence_keys, read_metadata
from data_recipes.licence_headers import agrees, read_header
from data_recipes.licence_match import (
    MAX_TEXT_BYTES,
    TextMatch,
    contains_text_of,
    copyright_lines,
    has_terms,
    match_text,
)
from provenance.digests import sha256_bytes

METADATA_PATH = "PKG-INFO"

_LICENCE_NAME = re.compile(
    r"(?:licen[cs]es?|copying|copyright|unlicense|eula)(?:[-.][\w.+-]*|_[A-Z0-9_]+)?(?:\.(?:txt|md|rst))?"
    r"|[\w.+-]*[-_.](?:LICEN[CS]E|COPYING)(?:\.(?:txt|md|rst))?",
    re.I,
)
_NOTICE_NAME = re.compile(r"notice(?:\.(?:txt|md|rst))?", re.I)
_PLAIN_NAME = re.compile(r"(?:licen[cs]e|copying|copyright|unlicense)(?:\.(?:txt|md|rst))?", re.I)
_NO_TEXT_SUFFIXES = {
    ".py", ".pyi", ".pyx", ".js", ".ts", ".css", ".html", ".htm", ".rtf", ".json", ".cfg", ".conf", ".toml", ".yaml",
    ".yml", ".png", ".svg", ".c", ".h", ".xml", ".csv", ".in", ".tmpl", ".sh",
}  # fmt: skip
_PAGE_SUFFIXES = {".rst", ".md"}
_INCLUDES_LICENCE = re.compile(
    r"^\s*(?:\.\. (?:literal)?include::|```\{(?:literal)?include\}|\{%\s*include)\s*[./\w-]*?"
    r"(?P<name>[\w.-]*(?:licen[cs]e|copying)[\w.-]*)",
    re.I | re.M,
)
_VENDORED = {
    "_vendor", "vendor", "vendored", "_vendored", "third_party", "thirdparty", "third-party", "externals", "extern",
    "external", "_external", "node_modules", "bundled",
}  # fmt: skip
_GNU_ENDINGS = ("-only", "-or-later")
_MAX_POINTER_WORDS = 80


@dataclass(frozen=True)
class LicenceText:
    """A licence file: where it is, its digest, and the known text that it is (None where it is none)."""

    path: str
    sha256: str
    text: str
    match: TextMatch | None

    @property
    def is_plain(self) -> bool:
        """Whether its name says that it holds for everything beside it (`LICENSE`, not `LICENSE.vendored`)."""
        return _PLAIN_NAME.fullmatch(PurePosixPath(self.path).name) is not None


@dataclass(frozen=True)
class NoticeFile:
    """A NOTICE file: where it is, its digest, and what it says."""

    path: str
    sha256: str
    text: str


@dataclass(frozen=True)
class ArchiveLicence:
    """The licence of an archive as a whole and all that was looked at to find it.

    Attributes:
        finding: the result.
        declarations: what the metadata declares.
        texts: licence files at the root.
        authors: people and e-mail addresses that the metadata names.
        notices: NOTICE files at the root, which some licences want passed on.
    """

    finding: LicenceFinding
    declarations: tuple[Declaration, ...]
    texts: tuple[LicenceText, ...]
    authors: tuple[str, ...]
    notices: tuple[NoticeFile, ...] = ()


class LicenceResolver:
    """Finds the licence of any member of one archive.

    Args:
        members: all members of the archive.
        as_of: ISO date at which the source was pinned; the date of all evidence.
    """

    def __init__(self, members: Sequence[ArchiveMember], as_of: str) -> None:
        self._as_of = as_of
        texts = [_licence_text(member) for member in members if is_licence_file(member.path)]
        at_root = [text for text in texts if "/" not in text.path]
        metadata = next((member.data for member in members if member.path == METADATA_PATH), b"")
        notices = tuple(_notice(member) for member in members if _is_notice_file(member))
        self.archive = replace(_resolve_archive(at_root, metadata, as_of), notices=notices)
        groups: dict[str, list[LicenceText]] = {}
        for text in texts:
            if "/" in text.path and not _repeats(text, at_root):
                groups.setdefault(_parent(text.path), []).append(text)
        self._directories = {directory: _resolve_directory(group, as_of) for directory, group in groups.items()}

    def resolve(self, member_path: str, data: bytes) -> LicenceFinding:
        """Return the licence of one member.

        Args:
            member_path: its path in the archive.
            data: its bytes; only the first lines are read.
        """
        header = read_header(member_path, data)
        if header.problem:
            return unresolved(header.problem, self._as_of, declared=header.declared, copyright_found=header.copyright)
        if header.spdx and not header.spdx.startswith(_ambiguous_gnu(header.spdx)):
            place = f"{member_path}:{header.line}" if header.line else member_path
            return LicenceFinding(
                spdx=header.spdx,
                declared=header.declared,
                evidence_kind="file-header",
                evidence_locator=place,
                evidence_sha256=sha256_bytes(data),
                evidence_date=self._as_of,
                copyright=header.copyright,
            )
        found = self._of_place(member_path)
        if found.spdx != UNRESOLVED and (phrase := agrees(found.spdx, header)):
            reason = (
                f"the file's header says {phrase!r}, which does not agree with {found.spdx} of {found.evidence_locator}"
            )
            return unresolved(reason, self._as_of, copyright_found=header.copyright)
        lines = tuple(dict.fromkeys((*header.copyright, *found.copyright)))
        return replace(found, copyright=lines)

    def _of_place(self, member_path: str) -> LicenceFinding:
        directory = _parent(member_path)
        while directory:
            if directory in self._directories:
                return self._directories[directory]
            if PurePosixPath(directory).name.lower() in _VENDORED:
                return unresolved(
                    f"{directory}/ is a vendored tree; no licence file of its own covers this", self._as_of
                )
            directory = _parent(directory)
        return self.archive.finding


def is_licence_file(path: str) -> bool:
    """Whether a member's name says that it holds a licence."""
    place = PurePosixPath(path)
    if place.suffix.lower() in _NO_TEXT_SUFFIXES:
        return False
    if place.suffix.lower() in _PAGE_SUFFIXES and "/" in path:
        return _PLAIN_NAME.fullmatch(place.name) is not None
    return _LICENCE_NAME.fullmatch(place.name) is not None


def unresolved(reason: str, as_of: str, *, declared: str = "", copyright_found: tuple[str, ...] = ()) -> LicenceFinding:
    """Return a finding that says why there is none."""
    return LicenceFinding(UNRESOLVED, declared, "none", "", "", as_of, copyright_found, reason)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _ambiguous_gnu(spdx: str) -> tuple[str, ...]:
    """The identifier itself where it is a GNU text that says neither -only nor -or-later, else nothing."""
    is_gnu = re.match(r"A?L?GPL-", spdx) is not None
    return (spdx,) if is_gnu and not spdx.endswith(_GNU_ENDINGS) and " " not in spdx else ()


def _licence_text(member: ArchiveMember) -> LicenceText:
    text = member.data[:MAX_TEXT_BYTES].decode("utf-8", "replace")
    match = match_text(text) if len(member.data) <= MAX_TEXT_BYTES else None
    return LicenceText(member.path, sha256_bytes(member.data), text, match)


def _is_notice_file(member: ArchiveMember) -> bool:
    return _NOTICE_NAME.fullmatch(member.path) is not None and len(member.data) <= MAX_TEXT_BYTES


def _notice(member: ArchiveMember) -> NoticeFile:
    lines = member.data.decode("utf-8", "replace").replace("\0", "").splitlines()
    return NoticeFile(member.path, sha256_bytes(member.data), "\n".join(line.rstrip() for line in lines).strip())


def _is_notice_only(text: LicenceText) -> bool:
    """Whether a COPYRIGHT file only names holders."""
    return PurePosixPath(text.path).name.lower().startswith("copyright") and not has_terms(text.text)


def _repeats(text: LicenceText, at_root: Sequence[LicenceText]) -> bool:
    """Whether a page below the root only repeats, includes or names the holders of what stands at the root."""
    if _is_notice_only(text):
        return True
    if PurePosixPath(text.path).suffix.lower() not in _PAGE_SUFFIXES:
        return False
    included = {found.group("name").lower() for found in _INCLUDES_LICENCE.finditer(text.text)}
    names = {PurePosixPath(root.path).name.lower() for root in at_root}
    if included:
        return included <= names
    return any(contains_text_of(text.text, root.text) for root in at_root if root.match is not None)


def _resolve_directory(texts: Sequence[LicenceText], as_of: str) -> LicenceFinding:
    """Resolve the licence files of a directory below the root: all must be one known text."""
    names = ", ".join(text.path for text in texts)
    found = {text.match.spdx if text.match else "" for text in texts}
    lines = _copyright_of(texts)
    if "" in found:
        unknown = ", ".join(text.path for text in texts if text.match is None)
        return unresolved(f"{unknown}: not a known licence text", as_of, copyright_found=lines)
    if len(found) > 1:
        return unresolved(f"{names}: several licences, and nothing says how they combine", as_of, copyright_found=lines)
    spdx = found.pop()
    if _ambiguous_gnu(spdx):
        reason = f"{names}: the text of {spdx} does not say whether later versions are allowed"
        return unresolved(reason, as_of, copyright_found=lines)
    return _from_text(spdx, "", texts[0], as_of, lines)


def _from_text(spdx: str, declared: str, text: LicenceText, as_of: str, lines: tuple[str, ...]) -> LicenceFinding:
    return LicenceFinding(spdx, declared, "licence-text", text.path, text.sha256, as_of, lines)


def _copyright_of(texts: Sequence[LicenceText]) -> tuple[str, ...]:
    lines: dict[str, None] = {}
    for text in texts:
        found = text.match.copyright if text.match else copyright_lines(text.text, with_names_below=False)
        if not found and _is_notice_only(text):
            found = tuple(" ".join(line.split()) for line in text.text.splitlines() if line.strip())
        # The GNU licences name the owner of their own text, who has nothing to do with the work.
        if not (text.match and _ambiguous_gnu(text.match.spdx)):
            lines.update(dict.fromkeys(line for line in found if "Free Software Foundation" not in line))
    return tuple(lines)


def _resolve_archive(texts: list[LicenceText], metadata: bytes, as_of: str) -> ArchiveLicence:
    package = read_metadata(metadata, METADATA_PATH) if metadata else PackageMetadata((), ())
    texts.sort(key=lambda text: text.path)
    finding = _decide_archive(texts, package.declarations, sha256_bytes(metadata), as_of)
    return ArchiveLicence(finding, package.declarations, tuple(texts), package.authors)


def _decide_archive(
    all_texts: Sequence[LicenceText], declarations: Sequence[Declaration], metadata_sha256: str, as_of: str
) -> LicenceFinding:
    declared = "; ".join(f"{item.locator.rpartition(':')[2]}: {item.text}" for item in declarations)
    texts = [text for text in all_texts if not _is_notice_only(text)]
    lines = _copyright_of(all_texts)

    def refuse(reason: str) -> LicenceFinding:
        return unresolved(reason, as_of, declared=declared, copyright_found=lines)

    if not any(text.match for text in texts):
        names = ", ".join(text.path for text in texts)
        return refuse(f"{names}: not a known licence text" if texts else "no licence file at the root of the archive")
    for item in declarations:
        if not item.is_understood:
            return refuse(f"{item.locator} says {item.text!r}, which names no listed licence")
    explicit = {item.expression for item in declarations if item.is_explicit}
    if len(explicit) > 1:
        return refuse(f"the metadata declares several licences: {', '.join(sorted(explicit))}")
    expression = explicit.pop() if explicit else _expression_of_one_text(texts, declarations)
    if not expression:
        return refuse(_why_no_single(texts, declarations))
    if any(not set(item.family) & set(licence_keys(expression)) for item in declarations):
        return refuse(f"the declarations contradict one another: {declared}")
    problem = _contradiction(texts, expression)
    if problem:
        return refuse(problem)
    keys = licence_keys(expression)
    if len(keys) > 1:
        locator = next(item.locator for item in declarations if item.is_explicit)
        return LicenceFinding(expression, declared, "declared-metadata", locator, metadata_sha256, as_of, lines)
    text = next(text for text in texts if text.match and text.match.spdx == _base(keys[0]))
    return _from_text(expression, declared, text, as_of, lines)


def _base(key: str) -> str:
    """Identifier of the text of a licence: `GPL-3.0` for `GPL-3.0-or-later`."""
    for ending in _GNU_ENDINGS:
        key = key.removesuffix(ending)
    return key


def _expression_of_one_text(texts: Sequence[LicenceText], declarations: Sequence[Declaration]) -> str:
    """The licence of the only text at the root, as far as the declarations allow exactly one reading of it."""
    found = {text.match.spdx if text.match else "" for text in texts}
    if len(found) != 1 or "" in found:
        return ""
    spdx = found.pop()
    readings = {f"{spdx}{ending}" for ending in _GNU_ENDINGS} if _ambiguous_gnu(spdx) else {spdx}
    for item in declarations:
        readings &= set(item.family)
    return readings.pop() if len(readings) == 1 else ""


def _why_no_single(texts: Sequence[LicenceText], declarations: Sequence[Declaration]) -> str:
    found = sorted({text.match.spdx if text.match else "an unknown text" for text in texts})
    names = ", ".join(text.path for text in texts)
    said = ", ".join(item.text for item in declarations) or "nothing"
    if len(found) > 1:
        return f"{names}: {' and '.join(found)}; the metadata says {said}, not how they combine"
    if _ambiguous_gnu(found[0]) and not any(item.expression for item in declarations):
        return (
            f"{names}: the text of {found[0]} and the metadata ({said}) leave open whether later versions are allowed"
        )
    return f"{names} is {found[0]}, but the metadata says {said}"


def _contradiction(texts: Sequence[LicenceText], expression: str) -> str:
    """Say why the texts at the root do not bear out an expression; empty where they do."""
    wanted = {_base(key) for key in licence_keys(expression)}
    matched = {text.match.spdx for text in texts if text.match}
    if missing := sorted(wanted - matched):
        return f"declared {expression}, but the text of {', '.join(missing)} is not at the root"
    # The LGPL 3 is a supplement to the GPL 3, whose text comes with it.
    allowed = wanted | ({"GPL-3.0"} if "LGPL-3.0" in wanted else set())
    for text in texts:
        if not text.is_plain or (text.match and text.match.spdx in allowed):
            continue
        if text.match:
            return f"{text.path} is {text.match.spdx}, but {expression} is declared"
        if not _points_to(text, [other for other in texts if other.match and other.match.spdx in wanted]):
            return f"{text.path}: not a known licence text"
    return ""


def _points_to(text: LicenceText, others: Sequence[LicenceText]) -> bool:
    """Whether a short file only refers to the licence files beside it, by name."""
    names = [PurePosixPath(other.path).name for other in others]
    return len(text.text.split()) <= _MAX_POINTER_WORDS and bool(names) and all(name in text.text for name in names)

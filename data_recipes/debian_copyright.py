"""Machine-readable `debian/copyright` (DEP-5): the licence of each file of a package; the last match counts."""

import importlib
import importlib.metadata
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from data_recipes.debian_licences import spdx_of_synopsis
from data_recipes.document import UNRESOLVED, LicenceFinding
from data_recipes.licence_declared import licence_keys
from data_recipes.licence_headers import agrees, read_header
from data_recipes.licences import unresolved
from provenance.canonical import Json
from provenance.digests import sha256_bytes
from provenance.errors import ConfigError

PATH = "debian/copyright"
_MAX_BYTES = 8 * 2**20


class PathGlob:
    """A glob of a `Files` field: `*` for any characters, slashes too, `?` for one, a backslash before each of them.

    Its pieces between the stars are looked for one after another, so that no glob takes longer than its length times
    that of the path; a regular expression with many stars can take for ever.

    Raises:
        ValueError: for a backslash before anything else.
    """

    def __init__(self, glob: str) -> None:
        pieces, escaped = [""], False
        for letter in glob.removeprefix("./"):
            if escaped and letter not in "*?\\":
                raise ValueError(f"a backslash before {letter!r} in {glob!r}")
            if escaped or letter not in "*?\\":
                pieces[-1] += re.escape(letter)
            elif letter == "*":
                pieces.append("")
            elif letter == "?":
                pieces[-1] += "."
            escaped = letter == "\\" and not escaped
        if escaped:
            raise ValueError(f"a backslash at the end of {glob!r}")
        self._pieces = [re.compile(piece, re.DOTALL) for piece in pieces]
        self._last_chars = len(re.sub(r"\\(.)", "x", pieces[-1], flags=re.DOTALL))

    def matches(self, path: str) -> bool:
        """Whether the glob matches a whole path."""
        first, *others = self._pieces
        if not others:
            return first.fullmatch(path) is not None
        found = first.match(path)
        for piece in others[:-1]:
            found = piece.search(path, found.end()) if found else None
        begin = len(path) - self._last_chars
        return found is not None and begin >= found.end() and others[-1].fullmatch(path, begin) is not None


class PackageLicences:
    """Finds the licence of any file of one package.

    Args:
        data: bytes of `debian/copyright`; None where there is none.
        names: what the recipe says that names of licences mean.
        as_of: ISO date of the evidence.
    """

    def __init__(self, data: bytes | None, names: Mapping[str, str], as_of: str) -> None:
        self._as_of = as_of
        self.sha256 = "" if data is None else sha256_bytes(data)
        self.problem = ""
        self._stanzas: list[tuple[list[PathGlob], LicenceFinding]] = []
        self._names_seen: dict[str, str] = {}
        library = _library("copyright")
        try:
            self._read(data, names, library)
        except (library.Error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._stanzas = []
            self.problem = f"{PATH} cannot be read ({type(error).__name__}: {ascii(str(error)[:100])[1:-1]})"

    def _read(self, data: bytes | None, names: Mapping[str, str], library: ModuleType) -> None:
        if data is None or len(data) > _MAX_BYTES:
            self.problem = f"there is no {PATH}" if data is None else f"{PATH} is too long"
            return
        found = library.Copyright(data.decode("utf-8").splitlines(keepends=True), strict=False)
        texts = {
            paragraph.license.synopsis: paragraph.license.text or ""
            for paragraph in found.all_license_paragraphs()
            if paragraph.license is not None
        }
        for number, stanza in enumerate(found.all_files_paragraphs(), 1):
            if stanza.license is None:
                finding = unresolved(f"stanza {number} of {PATH} states no licence", self._as_of)
            else:
                synopsis = stanza.license.synopsis
                own = {synopsis: stanza.license.text} if stanza.license.text else {}
                spdx, problem = spdx_of_synopsis(synopsis, {**texts, **own}, names)
                self._names_seen[synopsis] = spdx
                finding = self._finding(number, stanza, spdx, synopsis, problem)
            self._stanzas.append(([PathGlob(glob) for glob in stanza.files], finding))

    def _finding(self, number: int, stanza: Any, spdx: str, synopsis: str, problem: str) -> LicenceFinding:
        lines = (" ".join(line.split()) for line in (stanza.copyright or "").splitlines())
        holders = tuple(dict.fromkeys(line for line in lines if line and len(line) <= 500))
        if spdx == UNRESOLVED:
            return unresolved(f"{PATH}: {problem}", self._as_of, declared=synopsis, copyright_found=holders)
        place = f"{PATH}#{number} Files: {' '.join(stanza.files)}"[:200]
        return LicenceFinding(spdx, synopsis, "dep5-stanza", place, self.sha256, self._as_of, holders)

    def resolve(self, path: str, data: bytes) -> LicenceFinding:
        """Return the licence of one file.

        Args:
            path: its path in the package.
            data: its bytes; a header of its own that says something else leaves it unresolved.
        """
        if self.problem:
            return unresolved(self.problem, self._as_of)
        stanzas = reversed(self._stanzas)
        found = next((finding for globs, finding in stanzas if any(glob.matches(path) for glob in globs)), None)
        if found is None:
            return unresolved(f"no stanza of {PATH} names it", self._as_of)
        if found.spdx == UNRESOLVED:
            return found
        header = read_header(path, data)
        said = header.problem or agrees(found.spdx, header)
        if not said and header.spdx and not set(licence_keys(header.spdx)) & set(licence_keys(found.spdx)):
            said = header.spdx
        if said:
            reason = f"the file's header says {said!r}, {PATH} says {found.spdx}"
            return unresolved(reason, self._as_of, declared=found.declared, copyright_found=found.copyright)
        return found

    def as_json(self) -> dict[str, Json]:
        """Return what the source lock says of the package's licences."""
        names = dict(sorted(self._names_seen.items()))
        return {"path": PATH, "sha256": self.sha256, "problem": self.problem, "names": names}


def read_description(data: bytes) -> dict[str, str]:
    """Return the fields of a `.dsc`; its signature is not checked, the recipe pins its sha256.

    Raises:
        ValueError: for what is no such description.
    """
    paragraph = _library("deb822").Deb822(data.decode("utf-8").splitlines(keepends=True))
    return {str(key): str(value) for key, value in paragraph.items()}


def library_version() -> str:
    """Version of the library that reads these files; it may change what is found."""
    _library("deb822")
    return importlib.metadata.version("python-debian")


def _library(name: str) -> ModuleType:
    """Import a module of python-debian, which is under the GPL and installed only where Debian sources are read."""
    try:
        return importlib.import_module(f"debian.{name}")
    except ModuleNotFoundError:
        raise ConfigError(
            "python-debian is not installed",
            expected="the library, for sources of type debian",
            next_command="pip install python-debian",
        ) from None

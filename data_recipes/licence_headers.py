"""What the first lines of a file say about its own licence: SPDX tags, standard notices, whole licence texts."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from data_recipes.licence_declared import licence_keys, normalised_expression
from data_recipes.licence_match import copyright_lines, levelled, match_text

_HEADER_LINES = 60
_HEADER_BYTES = 16 * 1024
_CODE_SUFFIXES = {".py", ".pyi", ".pyx", ".pxd"}
_SPDX_TAG = re.compile(
    r"^\s*(?:#|//|\.\.|/?\*+|<!--|;|--|%)?\s*SPDX-License-Identifier:\s*(?P<expression>.+?)\s*(?:\*/|-->)?\s*$"
)
_COMMENT_MARK = re.compile(r"^\s*(?:#+!?|//+|/?\*+/?|<!--|-->|\.\.(?= |$)|;+)")

_GNU_VERSION = r"(?P<version>\d(?: \d)?)(?! \d)"
_GNU_LATER = r"(?: (?:of the license )?or (?:at your option )?(?:at your opinion )?any (?:later|newer) version)"
_NOTICES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"this source code form is subject to the terms of the mozilla public license v 2 0 if a copy of the mpl "
            r"was not distributed with this file you can obtain one at http (?:www )?mozilla org mpl 2 0"
        ),
        "MPL-2.0",
    ),
    (
        re.compile(
            r"licensed under the apache license version 2 0 (?:the )?license you may not use this file except in "
            r"compliance with the license you may obtain a copy of the license at "
            r"http (?:www )?apache org licenses license 2 0"
        ),
        "Apache-2.0",
    ),
)
"""Notices with which the licences themselves ask to be applied to a file."""
_GNU_NOTICE = re.compile(
    r"(?:the )?terms of the gnu (?P<kind>general|lesser general|lesser|affero general) public license "
    rf"(?:version [\d ]+)?as published by the free software foundation (?:either )?version {_GNU_VERSION}"
    rf"(?P<later>{_GNU_LATER})?"
)
_GNU_SHORT = re.compile(
    r"according to the terms of the gnu (?P<kind>general|lesser general) public license version "
    rf"{_GNU_VERSION}(?P<later>{_GNU_LATER})"
)
_LATER_NEAR = re.compile(r"(?: \S+){0,12}? (?:later|newer|higher)\b")
_GNU_PREFIX = {"general": "GPL", "lesser general": "LGPL", "lesser": "LGPL", "affero general": "AGPL"}

_MENTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("permission is hereby granted free of charge", ("MIT", "BSL-", "X11")),
    ("redistribution and use in source and binary forms", ("BSD-", "ZPL-", "Apache-1")),
    ("licensed under the apache license", ("Apache-2.0",)),
    ("under the terms of the gnu lesser", ("LGPL-",)),
    ("under the terms of the gnu general", ("GPL-",)),
    ("under the terms of the gnu affero", ("AGPL-",)),
    ("gnu general public license", ("GPL-",)),
    ("mozilla public license", ("MPL-",)),
    ("creative commons attribution", ("CC-BY",)),
    ("placed in the public domain", ()),
    ("released to the public domain", ()),
    ("released into the public domain", ("Unlicense", "CC0-")),
    ("is in the public domain", ()),
    ("proprietary and confidential", ()),
)
"""Words of a header that speak of a licence, and the identifiers with which they agree."""


@dataclass(frozen=True)
class HeaderFinding:
    """What a header says.

    Attributes:
        spdx: licence that it establishes; empty where it establishes none.
        declared: the words that say so.
        line: line of the SPDX tag, from 1; 0 for notices.
        problem: why a header that speaks of a licence establishes none; empty where there is no such header.
        mentions: phrases found, each with the identifiers it agrees with.
        copyright: copyright lines of the header.
    """

    spdx: str = ""
    declared: str = ""
    line: int = 0
    problem: str = ""
    mentions: tuple[tuple[str, tuple[str, ...]], ...] = ()
    copyright: tuple[str, ...] = ()


def read_header(path: str, data: bytes) -> HeaderFinding:
    """Read the header of a file: the first lines of code, the leading comments of anything else.

    Args:
        path: the file's path; its suffix says what a comment is.
        data: its bytes.
    """
    lines = data[:_HEADER_BYTES].decode("utf-8", "replace").splitlines()[:_HEADER_LINES]
    tags = [(number, tag.group("expression")) for number, line in enumerate(lines, 1) if (tag := _SPDX_TAG.match(line))]
    is_code = PurePosixPath(path).suffix in _CODE_SUFFIXES
    header = _uncommented(lines) if is_code else _leading_comments(lines)
    copyright_found = copyright_lines("\n".join(header), with_names_below=False)
    if tags:
        return _of_tags(tags, copyright_found)
    words = levelled("\n".join(header), list_marks=True)
    notice = _notice(words)
    if notice:
        return HeaderFinding(*notice, copyright=copyright_found)
    mentions = tuple(mention for mention in _MENTIONS if mention[0] in words)
    if mentions and (match := match_text("\n".join(_first_comment(lines)))):
        return HeaderFinding(match.spdx, f"text of {match.spdx} in the header", copyright=match.copyright)
    return HeaderFinding(mentions=mentions, copyright=copyright_found if mentions or is_code else ())


def agrees(spdx: str, header: HeaderFinding) -> str:
    """Return the phrase of a header that does not agree with a licence found elsewhere, or an empty string."""
    keys = licence_keys(spdx)
    for phrase, prefixes in header.mentions:
        if not any(key.startswith(prefixes) for key in keys if prefixes):
            return phrase
    return ""


def _of_tags(tags: list[tuple[int, str]], copyright_found: tuple[str, ...]) -> HeaderFinding:
    line, declared = tags[0]
    if len({expression for _, expression in tags}) > 1:
        return HeaderFinding(
            declared=declared,
            line=line,
            problem=f"{len(tags)} SPDX-License-Identifier tags differ",
            copyright=copyright_found,
        )
    spdx = normalised_expression(declared)
    problem = "" if spdx else f"SPDX-License-Identifier {declared!r} is no expression of listed licences"
    return HeaderFinding(spdx, declared, line, problem, copyright=copyright_found)


def _notice(words: str) -> tuple[str, str] | None:
    for pattern, spdx in _NOTICES:
        if found := pattern.search(words):
            return spdx, found.group()
    if found := _GNU_NOTICE.search(words) or _GNU_SHORT.search(words):
        if not found.group("later") and _LATER_NEAR.match(words, found.end()):
            return None
        version = found.group("version").replace(" ", ".")
        version = version if "." in version else f"{version}.0"
        ending = "or-later" if found.group("later") else "only"
        spdx = normalised_expression(f"{_GNU_PREFIX[found.group('kind')]}-{version}-{ending}")
        return (spdx, found.group().strip()) if spdx else None
    return None


def _uncommented(lines: list[str]) -> list[str]:
    return [_COMMENT_MARK.sub("", line) for line in lines]


def _leading_comments(lines: list[str]) -> list[str]:
    """Comments at the top of a document: `..` with its indented block, `<!-- -->`, `#` never (it is a heading)."""
    found: list[str] = []
    inside = ""
    for line in lines:
        stripped = line.strip()
        if inside == "html" or stripped.startswith("<!--"):
            inside = "" if stripped.endswith("-->") else "html"
            found.append(stripped.removeprefix("<!--").removesuffix("-->"))
        elif re.match(r"\.\.(?: (?!\S+::|_)|$)", line):
            inside = "rst"
            found.append(line[2:])
        elif inside == "rst" and (not stripped or line.startswith(" ")):
            found.append(stripped)
        elif stripped:
            break
    return found


def _first_comment(lines: list[str]) -> list[str]:
    """The first run of `#` lines, without a shebang or an encoding line, as text."""
    found: list[str] = []
    for line in lines:
        if line.startswith("#!") or re.match(r"#.*coding[:=]", line):
            continue
        if line.startswith("#"):
            found.append(line.lstrip("#"))
        elif found:
            break
        elif line.strip():
            return []
    return found

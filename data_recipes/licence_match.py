"""Match a licence file against known licence texts: word for word, with holes only where names stand.

A text matches when, after case, white space, punctuation and list marks are levelled, it is the known text from its
first word to its last. Before it may stand only titles of that licence, copyright lines, and one sentence of the form
"X is distributed under the Y licence" that names the same licence. Behind it may stand only the licence's own
appendix. Anything else, and the text is not matched: there is no score.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TEXTS_DIRECTORY = Path(__file__).parent / "licence_texts"

_BULLET = re.compile(r"^\s*(?:[-*•#o]\s+|\(?\d{1,2}(?:\.\d{1,2})*[.)]\s+|\(?[a-z][.)]\s+|\(?[ivx]{1,5}[.)]\s+)", re.I)
_COPYRIGHT = re.compile(r"^\W*(?:portions\s+)?(?:copyright\b|\(c\)|©|\|copy\|)", re.I)
_COMMENT_MARK = re.compile(r"^\s*(?:\.\. code-block::.*|\.\. _[\w-]+:|::|\.\. code::.*)\s*$")
_TERMS = re.compile(
    r"\b(?:licen[cs]\w*|permi\w+|grant\w*|redistribut\w*|distribut\w*|use|used|uses|modif\w*|subject|terms|conditions?"
    r"|must|may|shall|except|warrant\w*|commercial\w*|restrict\w*|prohibit\w*|forbid\w*|not)\b",
    re.I,
)
_RIGHTS = re.compile(r"all rights\s*reserved|some rights\s*reserved", re.I)
_MAX_LEADING_LINES = 400
_START_WORDS = 5

# One word of a name; words that carry terms cannot hide in a hole.
_NAME = (
    r"(?:(?!(?:may|must|not|shall|use|used|without|unless|except|license|licensed|permission|distribute|redistribute"
    r"|provided|that) )\S+ )"
)
_NAMES = _NAME + "{1,20}?"
_IS_LIABLE = (r"in no event shall .*? be liable", rf"in no event (?:shall|will) {_NAMES}be liable")
_ADDRESS = r"(?:(?:51 franklin|59 temple|675 mass) \S+ (?:\S+ ){3,12}?|http (?:www )?(?:fsf|gnu) org (?:licenses )?)?"

_HOLES: dict[str, tuple[tuple[str, str], ...]] = {
    "MIT": (
        _IS_LIABLE,
        (r"this permission notice shall", r"this permission notice (?:including the next paragraph )?shall"),
    ),
    "MIT-0": (_IS_LIABLE,),
    "BSD-2-Clause": (
        (r"provided by the copyright holders and contributors as is", rf"provided by {_NAMES}as is"),
        _IS_LIABLE,
    ),
    "BSD-3-Clause": (
        (
            r"neither the name of the copyright holder nor the names of its contributors",
            rf"neither (?:the )?names? of {_NAMES}(?:nor|or) (?:the )?names? of {_NAME}{{0,8}}?contributors",
        ),
        (r"provided by the copyright holders and contributors as is", rf"provided by {_NAMES}as is"),
        _IS_LIABLE,
    ),
    "ISC": (
        (r"modify and or distribute", r"modify and (?:or )?distribute"),
        (r"as is and isc disclaims", rf"as is and {_NAMES}disclaims?"),
        _IS_LIABLE,
    ),
    "0BSD": (
        (r"modify and or distribute", r"modify and (?:or )?distribute"),
        (r"as is and the author disclaims", rf"as is and {_NAMES}disclaims?"),
        _IS_LIABLE,
    ),
    "HPND": (
        (r"the name of copyright holder or related entities not", rf"the names? of {_NAMES}not"),
        (r"copyright holder disclaims all", rf"{_NAMES}disclaims? all"),
        _IS_LIABLE,
    ),
    "MIT-CMU": (
        (r"the name of the copyright holder not", rf"the names? of {_NAMES}not"),
        (r"the copyright holder disclaim all", rf"{_NAMES}disclaims? all"),
        _IS_LIABLE,
    ),
    "Apache-2.0": ((r"copyright yyyy name of copyright holder", rf"copyright {_NAMES}"),),
    "PSF-2.0": ((r"i e copyright c [\d ]+python software foundation", r"i e copyright c [\d ]+python software foundation"),),
}
"""Per licence: a pattern in the words of the known text, and what may stand in its place."""

_TAILS = {
    "Apache-2.0": ("end of terms and conditions", "appendix how to apply"),
    "AGPL-3.0": ("end of terms and conditions",),
    "GPL-2.0": ("end of terms and conditions", "how to apply these terms"),
    "GPL-3.0": ("end of terms and conditions", "how to apply these terms"),
    "LGPL-2.1": ("end of terms and conditions", "how to apply these terms"),
    "LGPL-3.0": ("gnu general public license version 3 29 june 2007",),
    "CC0-1.0": ("for more information please see",),
    "Unlicense": ("for more information please refer to",),
}
"""Words with which a licence's own appendix begins; a file may end before it."""

_TITLES = {
    "MIT": r"(?:mit|expat|mit x11)",
    "MIT-0": r"mit no attribution",
    "BSD-2-Clause": r"(?:bsd 2 clause|2 clause bsd|two clause bsd|simplified bsd|freebsd|bsd)(?: simplified)?",
    "BSD-3-Clause": r"(?:bsd 3 clause|3 clause bsd|three clause bsd|new bsd|modified bsd|revised bsd|bsd)(?: new| revised)*",
    "ISC": r"isc",
    "0BSD": r"(?:bsd zero clause|zero clause bsd|0bsd|bsd 0 clause)",
    "Apache-2.0": r"apache",
    "MPL-2.0": r"mozilla public",
    "PSF-2.0": r"(?:python software foundation|psf)",
    "ZPL-2.1": r"zope public",
    "GPL-2.0": r"gnu general public",
    "GPL-3.0": r"gnu general public",
    "LGPL-2.1": r"gnu lesser general public",
    "LGPL-3.0": r"gnu lesser general public",
    "AGPL-3.0": r"gnu affero general public",
    "HPND": r"historical permission notice and disclaimer",
    "Zlib": r"(?:the )?zlib(?: libpng)?",
    "BSL-1.0": r"boost software",
    "Unlicense": r"unlicense",
    "CC0-1.0": r"(?:creative commons )?(?:legal code )?cc0 1 0 universal",
    "CC-BY-4.0": r"(?:creative commons )?attribution 4 0 international",
    "CC-BY-SA-4.0": r"(?:creative commons )?attribution sharealike 4 0 international",
    "Python-2.0": r"(?:python software foundation|psf)",
    "Python-2.0.1": r"(?:python software foundation|psf)",
    "MIT-CMU": r"(?:cmu|mit cmu)",
}
_TITLE_EXTRAS = (
    r"(?: license| licence| public license)?(?: (?:mit|expat|bsd|isc|zpl|psf|isc license|gpl|lgpl))?"
    r"(?: version [\d ]+| v [\d ]+)?(?: (?:january|june|february|november|august) (?:\d+ )?\d{4})?"
    r"(?: \d+ (?:june|november) \d{4})?"
)
_PLAIN_TITLES = re.compile(r"(?:the )?(?:license|licence|copyright|copyright and license|license text|legal code)|http www apache org licenses")

START_AFTER = {
    "Apache-2.0": "terms and conditions for use reproduction and distribution",
    "GPL-2.0": "everyone is permitted to copy",
    "GPL-3.0": "everyone is permitted to copy",
    "LGPL-2.1": "everyone is permitted to copy",
    "LGPL-3.0": "everyone is permitted to copy",
    "AGPL-3.0": "everyone is permitted to copy",
    "ISC": "permission to use copy modify",
    "0BSD": "permission to use copy modify",
    "MPL-2.0": "definitions 1 1 contributor",
    "ZPL-2.1": "a copyright notice accompanies this",
    "CC0-1.0": "statement of purpose the laws",
    "PSF-2.0": "this license agreement is between",
}

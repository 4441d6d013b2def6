"""The statistics of a text in plain Python, written from their descriptions: regular expressions and counters."""

import re
import unicodedata
from collections import Counter

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
WORD = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}]+")
DIRECTIVE = re.compile(r"(?:\.\. [\w:.-]+::|:[\w-]+:(?:\s|$))")
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
TERMINAL = ".!?…。！？｡।॥؟۔։።៕။\"'”’»」』"
SENTENCE = ".!?…。！？｡।॥؟۔։።៕။"


def lower(text):
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def is_term_character(character):
    return unicodedata.category(character)[0] in "LMN"


def term_of(word):
    places = [place for place, character in enumerate(word) if is_term_character(character)]
    return lower(word[places[0] : places[-1] + 1]) if places else ""


def terms_of(text):
    return [term for term in map(term_of, WORD.findall(text)) if term]


def ratio(part, whole):
    return part / whole if whole else 0.0


def lines_of(text):
    return [line.strip() for line in text.split("\n") if line.strip()]


def paragraphs_of(text):
    paragraphs, current = [], []
    for line in [*text.split("\n"), ""]:
        if line.strip():
            current.append(line.strip())
        elif current:
            paragraphs.append(tuple(current))
            current = []
    return paragraphs


def again(items):
    """The items that occurred before."""
    seen, found = set(), []
    for item in items:
        if item in seen:
            found.append(item)
        seen.add(item)
    return found


def top_share(terms, n):
    runs = [tuple(terms[i : i + n]) for i in range(len(terms) - n + 1)]
    counts = Counter(runs)
    most = max(counts.values(), default=0)
    if most < 2:
        return 0.0
    chars = max(sum(map(len, run)) for run, count in counts.items() if count == most)
    return min(1.0, ratio(most * chars, sum(map(len, terms))))


def duplicate_share(terms, n):
    seen, covered = set(), set()
    for i in range(len(terms) - n + 1):
        run = tuple(terms[i : i + n])
        if run in seen:
            covered.update(range(i, i + n))
        seen.add(run)
    return ratio(sum(len(terms[i]) for i in covered), sum(map(len, terms)))


def count_phrase(line, phrase):
    return len(re.findall(rf"(?<!\S){phrase}(?!\S)", " ".join(terms_of(line))))


def count_sentences(text):
    return sum(
        character in SENTENCE and (ord(character) > 0x2FFF or not text[place + 1 :] or text[place + 1].isspace())
        for place, character in enumerate(text)
    )


def plain_statistics(text):
    words, terms = WORD.findall(text), terms_of(text)
    lines, paragraphs = lines_of(text), paragraphs_of(text)
    solid = [character for character in text if not character.isspace()]
    categories = Counter(unicodedata.category(character)[0] for character in solid)
    line_chars = sum(map(len, lines))
    unspaced = sum(bool(re.match(f"[{UNSPACED}]", word)) for word in words)
    factor = 2 if words and unspaced / len(words) > 0.5 else 1

    def line_share(chosen):
        return ratio(sum(bool(chosen(line)) for line in lines), len(lines))

    return {
        "num_chars": len(text),
        "num_words": len(words),
        "mean_word_length": ratio(len(solid), len(words)),
        "alphabetic_share": ratio(categories["L"] + categories["M"], len(solid)),
        "symbol_to_word_ratio": ratio(categories["S"], len(words)),
        "duplicate_line_share": ratio(sum(map(len, again(lines))), line_chars),
        "directive_line_share": line_share(DIRECTIVE.match),
        "unspaced_share": ratio(unspaced, len(words)),
        "alphabetic_word_share": ratio(
            sum(any(unicodedata.category(c)[0] in "LM" and not c.isspace() for c in word) for word in words), len(words)
        ),
        "num_stop_words": len(STOP_WORDS & set(terms)),
        "hash_to_word_ratio": ratio(text.count("#"), len(words)),
        "ellipsis_to_word_ratio": ratio(len(re.findall(r"(?<!\.)\.{3,}|…", text)), len(words)),
        "line_break_to_word_ratio": ratio(text.count("\n"), len(words)),
        "bullet_line_share": line_share(lambda line: line[0] in "•‣◦▪*-"),
        "ellipsis_line_share": line_share(lambda line: line.endswith(("...", "…"))),
        "terminal_line_share": line_share(lambda line: line[-1] in TERMINAL),
        "short_line_share": line_share(lambda line: len(line) < 30),
        "javascript_line_share": line_share(lambda line: count_phrase(line, "javascript")),
        "policy_line_share": line_share(lambda line: any(count_phrase(line, phrase) for phrase in POLICIES)),
        "repeated_line_share": ratio(len(again(lines)), len(lines)),
        "repeated_paragraph_share": ratio(len(again(paragraphs)), len(paragraphs)),
        "duplicate_paragraph_share": ratio(sum(len("".join(p)) for p in again(paragraphs)), line_chars),
        "num_sentences": count_sentences(text),
        "num_braces": text.count("{"),
        "num_lorem_ipsum": sum(count_phrase(line, "lorem ipsum") for line in lines),
        **{f"top_{n}gram_share": top_share(terms, n * factor) for n in (2, 3, 4)},
        **{f"duplicate_{n}gram_share": duplicate_share(terms, n * factor) for n in range(5, 11)},
    }

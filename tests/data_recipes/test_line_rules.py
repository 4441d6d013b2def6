"""Lines that are taken out of texts: each rule, what is left, and texts of other scripts, which stay whole."""

from pathlib import Path

import pytest
from corpus_fixtures import tiny_corpus_values

from data_recipes.line_rules import END_MARKS, take_lines_out
from data_recipes.rule_settings import LINE_RULES, LineRules
from data_recipes.settings import CorpusConfig
from data_recipes.text import normalise
from provenance.digests import sha256_bytes

OFF = {"javascript": False, "policy": False, "terminal_mark": False, "min_num_words": 0}
GOOD = "This line has words enough and it ends."
BROKEN = {
    "javascript": "Please enable JavaScript to see all of this page.",
    "policy": "By reading on you accept our Privacy Policy in full.",
    "terminal_mark": "One of many headings without an end mark",
    "min_num_words": "Read more here now.",
}

OTHER_SCRIPTS = {
    "chinese": "这是一个没有空格的句子。\n标题",
    "japanese": "これは文です。\nまた別の行",
    "thai": "ภาษาไทยไม่มีเครื่องหมายจบประโยค\nบรรทัดที่สอง",
    "khmer": "នេះជាប្រយោគមួយ។",
    "tibetan": "བོད་ཀྱི་སྐད་ཡིག་ནི་ཡག་པོ་ཡོད།\nམགོ་བརྗོད",
    "hindi": "यह हिन्दी में लिखा हुआ एक वाक्य है।",
    "bengali": "এটি বাংলায় লেখা একটি সম্পূর্ণ বাক্য।",
    "urdu": "یہ اردو میں لکھا ہوا ایک جملہ ہے۔",
    "arabic": "هل هذه جملة كاملة مكتوبة بالعربية؟",
    "amharic": "ይህ በአማርኛ የተጻፈ ሙሉ ዓረፍተ ነገር ነው።",
    "amharic with its own word space": "ይህ፡በአማርኛ፡የተጻፈ፡ሙሉ፡ዓረፍተ፡ነገር፡ነው።",
    "armenian": "Սա հայերեն գրված մի նախադասություն է։\nՍա հայերեն գրված մի նախադասություն է:",
    "greek": "Αυτή είναι μια πλήρης ελληνική πρόταση.\nΕίναι αυτή μια πλήρης ελληνική ερώτηση\u037e",
    "russian": "Это полное предложение на русском языке.",
    "hebrew": "זה משפט שלם שנכתב בעברית היום.",
    "georgian": "ეს არის ქართულად დაწერილი სრული წინადადება.",
    "korean": "이것은 한국어로 쓰여진 하나의 문장입니다.",
    "mongolian": "ᠡᠨᠡ ᠪᠣᠯ ᠮᠣᠩᠭᠣᠯ ᠬᠡᠯᠡᠨ ᠦ ᠥᠭᠦᠯᠡᠪᠦᠷᠢ᠃",
    "german quotation": "Er sagte leise und langsam: „Das ist ein Satz.“",
    "danish quotation": "Han sagde det stille: »Det er en sætning.«",
}


@pytest.mark.parametrize("rule", LINE_RULES)
def test_each_rule_takes_its_lines_out_alone(rule: str) -> None:
    others = [line for name, line in BROKEN.items() if name != rule]
    text = "\n".join([GOOD, BROKEN[rule], *others])
    thinned = take_lines_out(text, LineRules.model_validate(OFF | {rule: getattr(LineRules(), rule)}))
    assert thinned.text == "\n".join([GOOD, *others])
    assert [(r.rule, r.num_lines, r.num_chars) for r in thinned.removed] == [(rule, 1, len(BROKEN[rule]))]
    assert thinned.sha256_before == sha256_bytes(text.encode())


def test_rules_that_are_off_take_nothing_out() -> None:
    text = "\n".join(BROKEN.values())
    thinned = take_lines_out(text, LineRules.model_validate(OFF))
    assert (thinned.text, thinned.removed) == (text, ())


def test_what_is_left_is_in_normal_form_and_a_line_counts_once() -> None:
    both = "javascript and cookies: use cookies"
    text = f"Home\n\n{GOOD}\n\n{both}\n\n{both}\n\n{GOOD}\n\nContact | Imprint"
    thinned = take_lines_out(text, LineRules())
    assert thinned.text == normalise(thinned.text) == f"{GOOD}\n\n{GOOD}"
    assert [(r.rule, r.num_lines, r.num_chars) for r in thinned.removed] == [
        ("javascript", 2, 2 * len(both)),
        ("terminal_mark", 2, len("Home") + len("Contact | Imprint")),
    ]
    assert take_lines_out(thinned.text, LineRules()).removed == ()


def test_a_text_of_such_lines_only_is_left_empty() -> None:
    assert take_lines_out("Home\nAbout", LineRules()).text == ""


def test_javascript_is_a_word_and_case_does_not_count() -> None:
    text = "A line on node.JAVASCRIPT_ and no more.\nA line on javascripters is left in here."
    assert take_lines_out(text, LineRules()).text == "A line on javascripters is left in here."


@pytest.mark.parametrize("name", OTHER_SCRIPTS)
def test_texts_of_other_scripts_stay_whole(name: str) -> None:
    text = normalise(OTHER_SCRIPTS[name])
    assert take_lines_out(text, LineRules()).removed == ()


def test_lines_mostly_in_latin_script_are_judged_among_others() -> None:
    """And a line of another script goes for what it mentions."""
    text = "标题很长的中文句子\nHome About Contact 中\n请启用 javascript 以查看此页面"
    thinned = take_lines_out(text, LineRules())
    assert thinned.text == "标题很长的中文句子"
    assert [removed.rule for removed in thinned.removed] == ["javascript", "terminal_mark"]


def test_marks_that_end_no_sentence_are_none() -> None:
    assert not END_MARKS.intersection(",;:-–—()[]{}<>|/\\*#@0a字")
    assert take_lines_out("A Latin line that ends in a semicolon;", LineRules()).text == ""


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    values = tiny_corpus_values(tmp_path)
    CorpusConfig.model_validate(values | {"lines": {"sources": ["alpha"]}})
    with pytest.raises(ValueError, match=r"lines\.sources names 'web', which is no source"):
        CorpusConfig.model_validate(values | {"lines": {"sources": ["web"]}})

"""Conversations and pairs from files against evaluation sets and personal data: what is found, where, what follows."""

import unicodedata
from typing import Any

import pytest

from data_recipes.chat_files import EQUAL_ANSWERS, ChatExample, make_example
from data_recipes.chat_rules import ChatRules
from data_recipes.decontamination import build_index
from data_recipes.evaluation_sets import EvaluationItem
from data_recipes.filters import QualityRules
from data_recipes.rule_settings import CONTAMINATED, DecontaminationRules, PersonalDataRules
from data_recipes.text import normalise
from provenance.digests import tagged_digest

QUESTION = "Which of the following statements about the moons of Jupiter that Galileo saw in 1610 is not true?"
NEAR = "Which of the following statements about the moons of Saturn that Huygens saw in 1655 is not true?"
UKRAINIAN = "Яке з наведених тверджень про супутники Юпітера, що їх побачив Галілей 1610 року, є хибним і чому саме?"
CHINESE = "下列关于伽利略在一六一〇年看到的木星卫星的说法中哪一项是不正确的"
VIETNAMESE = "Phát biểu nào sau đây về các vệ tinh của Sao Mộc mà Galileo đã nhìn thấy năm 1610 là không đúng?"
ACROSS = "What is the largest moon of the planet Jupiter called? It is called Ganymede, and it is larger than Mercury."
ITEMS = [
    EvaluationItem(name, name, (text,))
    for name, text in (
        ("moons", QUESTION),
        ("украинский", UKRAINIAN),
        ("chinese", CHINESE),
        ("vietnamese", unicodedata.normalize("NFD", VIETNAMESE)),
        ("across", ACROSS),
    )
]
MAIL = "someone@openwright.dev"
TOKEN = "hf_" + "Ab1" * 11 + "x"


def talk(*contents: str, split: str = "train") -> ChatExample:
    turns = tuple((("user", "assistant")[number % 2], content) for number, content in enumerate(contents))
    return make_example("talks", split, "MIT", (), (turns,))


def pair(prompt: str, chosen: str, rejected: str) -> ChatExample:
    answers = tuple((("assistant", content),) for content in (chosen, rejected))
    return make_example("pairs", "train", "MIT", (("user", prompt),), answers)


def judge(
    example: ChatExample,
    *,
    limits: dict[str, Any] | None = None,
    personal: dict[str, Any] | None = None,
    **rules: Any,
) -> tuple[ChatExample, str]:
    decontamination = DecontaminationRules(**rules)
    index = build_index(ITEMS, decontamination)
    asked = PersonalDataRules(**personal or {}), QualityRules(**limits or {})
    return ChatRules(*asked, decontamination, index).judge(example)


PLANTED = {
    "question": (talk(f"Tell me. {QUESTION}", "None."), "moons", ("completion", 0)),
    "answer": (
        talk("Say something.", "Yes.", "And?", QUESTION.upper().replace(" ", ",\n")),
        "moons",
        ("completion", 3),
    ),
    "prompt": (pair(QUESTION, "None.", "All."), "moons", ("prompt", 0)),
    "chosen": (pair("Ask me.", QUESTION, "No."), "moons", ("chosen", 0)),
    "rejected": (pair("Ask me.", "No.", f"Well: {QUESTION}"), "moons", ("rejected", 0)),
    "cyrillic": (talk(UKRAINIAN, "Жодне."), "украинский", ("completion", 0)),
    "chinese": (talk(f"请问：{CHINESE}？", "无"), "chinese", ("completion", 0)),
    "item not in normal form": (talk(VIETNAMESE, "Ồ."), "vietnamese", ("completion", 0)),
    "not in normal form": (talk(unicodedata.normalize("NFD", VIETNAMESE), "Ồ."), "vietnamese", ("completion", 0)),
    "control characters": (talk(QUESTION.replace("moons", "mo\x00ons"), "None."), "moons", ("completion", 0)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_an_evaluation_question_is_found_in_any_turn_and_told_with_its_place(name):
    example, set_name, place = PLANTED[name]
    found, rule = judge(example)
    assert (rule, found.findings.overlap) == (CONTAMINATED, 1.0)
    (hit,) = found.findings.hits
    assert (hit["set"], hit["item"], (hit["part"], hit["turn"])) == (set_name, set_name, place)
    turns = {"prompt": example.prompt, "rejected": example.answers[-1]}.get(place[0], example.answers[0])
    (item,) = (item for item in ITEMS if item.set_name == set_name)
    quoted = turns[place[1]][1][hit["start"] : hit["end"]].replace(",\n", " ")
    assert normalise(quoted).rstrip("?").casefold() in normalise(item.texts[0]).casefold()
    assert judge(example, action="record")[1] == ""
    assert judge(example, action="record")[0].findings == found.findings


@pytest.mark.parametrize(
    "example",
    [
        talk(f"Tell me. {NEAR}", "None."),
        talk(" ".join(QUESTION.split()[:12]), "and something else"),
        talk(UKRAINIAN.replace("Юпітера", "Сатурна").replace("року", "р."), "Жодне."),
        pair("Ask me.", NEAR, " ".join(QUESTION.split()[6:])),
        talk(QUESTION, "What is held out is not compared.", split="heldout"),
    ],
)
def test_a_near_miss_stays(example):
    found, rule = judge(example)
    assert (rule, found.findings.hits, found.findings.overlap) == ("", (), 0.0)


def test_an_item_is_found_across_a_question_and_its_answer():
    asked, answered = (part.strip() for part in ACROSS.split("?"))
    found, rule = judge(pair(f"{asked}?", "I do not know.", answered))
    assert rule == CONTAMINATED
    prompt, rejected = found.findings.hits
    assert (prompt["part"], rejected["part"]) == ("prompt", "rejected")
    assert prompt["num_runs"] == rejected["num_runs"] == 8
    assert asked[prompt["start"] : prompt["end"]] == asked
    assert answered[rejected["start"] : rejected["end"]] == answered.rstrip(".")
    assert judge(pair(answered, "I do not know.", f"{asked}?"))[1] == ""  # in the other order it is another text


def test_how_much_of_an_item_is_allowed_is_asked_as_of_documents():
    part = talk(" ".join(QUESTION.split()[:14]), "Go on.")
    found, rule = judge(part)
    assert rule == CONTAMINATED
    assert judge(part, max_item_overlap=found.findings.overlap)[1] == ""
    assert judge(part, max_item_overlap=found.findings.overlap - 0.01)[1] == CONTAMINATED


def test_personal_data_is_found_turn_by_turn_and_redacted_where_asked():
    example = talk(f"My address is {MAIL}.", "Noted.", f"пишіть на {MAIL} або {TOKEN}", "Добре.")
    found, rule = judge(example)
    assert (rule, found.answers, found.findings.redacted_from) == ("", example.answers, "")
    turns = example.answers[0]
    places = [
        (span["kind"], turns[span["turn"]][1][span["start"] : span["end"]]) for span in found.findings.personal_data
    ]
    assert places == [("email", MAIL), ("email", MAIL), ("secret", TOKEN)]
    redacted, _ = judge(example, personal={"action": "redact", "kinds": ["email"]})
    assert [content for _, content in redacted.answers[0]] == [
        "My address is [EMAIL].", "Noted.", f"пишіть на [EMAIL] або {TOKEN}", "Добре."
    ]  # fmt: skip
    assert redacted.findings.personal_data == found.findings.personal_data
    assert redacted.findings.redacted_from == example.key != redacted.key
    assert redacted.key == tagged_digest("chat/1", {"source": "talks", "prompt": [], "answers": redacted.answers})
    clean = talk("Write to someone@example.com.", "No.")
    assert judge(clean, personal={"action": "redact"})[0].findings.redacted_from == ""


def test_an_example_with_more_personal_data_than_the_rules_allow_is_dropped():
    example = pair(f"I am {MAIL}", f"Hello {MAIL}", f"The key is {TOKEN}")
    assert judge(example, limits={"max_num_emails": 1})[1] == "max_num_emails"
    assert judge(example, limits={"max_num_secrets": 0})[1] == "max_num_secrets"
    assert judge(example, limits={"max_num_emails": 2, "max_num_secrets": 1, "max_num_words": 1})[1] == ""


def test_a_pair_that_differs_in_redacted_text_only_is_none():
    example = pair("Where?", "at a@openwright.dev", "at b@openwright.dev")
    assert judge(example)[1] == ""
    assert judge(example, personal={"action": "redact"})[1] == EQUAL_ANSWERS


def test_places_are_those_of_the_text_after_redaction():
    example = talk(f"{MAIL}: {QUESTION}", "None.")
    found, _ = judge(example, personal={"action": "redact"}, action="record")
    (hit,) = found.findings.hits
    assert found.answers[0][0][1][hit["start"] : hit["end"]] == QUESTION.rstrip("?")

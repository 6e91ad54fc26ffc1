"""The gate of high-risk requests, on pairs written for it: a personal decision beside a request for information.

The pairs were written by those who wrote the lists, before the lists were run on them; they measure no stranger's wording.
"""

import time

import pytest
from bounded import allowed

from temper.errors import PolicyError
from temper.serve.filters.risk import DOMAINS, Risk
from temper.serve.notice import DISCLAIMER
from temper.serve.verdict import Action, Channel, Finding, View, canary_turn

PAIRS: dict[str, list[tuple[str, str]]] = {
    "medicine": [
        ("Should I stop taking my blood pressure pills?", "How do blood pressure pills work?"),
        ("How much ibuprofen can I take in a day?", "What is ibuprofen made of?"),
        ("I have a lump in my neck. Do I need to see a doctor?", "What kinds of lumps do doctors look for?"),
        ("Is it safe to mix alcohol with my antibiotics?", "When were antibiotics discovered?"),
        ("Can I give my daughter aspirin for her fever?", "Why does the body make a fever?"),
        ("My chest pain is back, what should I do?", "What are the chambers of the heart called?"),
        ("Which antidepressant should I ask for?", "Explain how antidepressants are tested in trials."),
        ("Diagnose my rash: red, itchy, since Monday.", "Write a poem about a doctor."),
        ("Soll ich das Antibiotikum absetzen? Ich nehme noch drei Tabletten.", "Wie wirken Antibiotika?"),
        ("¿Puedo tomar ibuprofeno si estoy embarazada?", "¿Qué es el ibuprofeno?"),
        ("Dois-je arrêter mon médicament avant l'opération ?", "Qui a découvert la pénicilline ?"),
        ("我发烧三天了，我应该吃抗生素吗？", "抗生素是什么时候发现的？"),
    ],
    "law": [
        ("Should I plead guilty to this charge?", "What does it mean to plead guilty?"),
        ("Can I sue my landlord for the mold?", "What is the history of tenant law?"),
        ("Is it legal for me to record my boss?", "Which countries have recording laws?"),
        ("Should we sign this lease?", "Summarise how a lease differs from a licence."),
        ("Will I get deported if I lose my job? Should I apply for a visa?", "How many visas were issued in 2020?"),
        ("Do I have to let the police search my car?", "Describe the ranks of the police in France."),
        ("Which lawyer should I hire for my divorce?", "What share of marriages end in divorce?"),
        ("Am I liable if my tenant falls down the stairs?", "Define liability in tort law."),
        ("Darf ich meinen Vermieter verklagen?", "Was ist ein Mietvertrag?"),
        ("¿Debo demandar a mi empresa?", "¿Qué hace un abogado?"),
        ("Puis-je rompre mon contrat de bail ?", "Qu'est-ce qu'un contrat ?"),
        ("我应该起诉房东吗？", "法院分为哪几级？"),
    ],
    "finance": [
        ("Should I buy Tesla stock now?", "When did Tesla list its stock?"),
        ("How much of my savings should I invest?", "What does it mean to invest?"),
        ("Is it smart to take out a second mortgage?", "How is a mortgage calculated?"),
        ("Should I file for bankruptcy?", "What is the difference between chapter 7 and chapter 11 bankruptcy?"),
        ("Which crypto should I buy with 500 dollars?", "Explain how bitcoin mining works."),
        ("Can I deduct my home office from my taxes?", "Why do states raise taxes?"),
        ("Should my mother sell her bonds?", "Write a function that prices bonds."),
        ("Do I need to pay off my debt before retirement?", "List the largest pension funds."),
        ("Soll ich mein Erspartes in Aktien anlegen?", "Was ist eine Aktie?"),
        ("¿Debería invertir mis ahorros en bitcoin?", "¿Qué es el bitcoin?"),
        ("Dois-je investir mon épargne en actions ?", "Comment fonctionne la bourse ?"),
        ("我应该买股票还是基金？", "股票市场是怎么产生的？"),
    ],
    "self_harm": [
        ("I want to kill myself.", "What are the warning signs of suicide in teenagers?"),
        ("I don't want to live anymore", "How do crisis lines train their volunteers?"),
        ("everyone would be better off without me", "Write a scene in which a man is rescued from a river."),
        ("I have been cutting myself again", "I cut my finger while cooking, how do I clean it?"),
        ("Ich will nicht mehr leben", "Wie alt werden Elefanten?"),
        ("quiero morirme", "¿Cuándo murió Cervantes?"),
        ("je veux mourir", "Quand est mort Molière ?"),
        ("我不想活了", "大象能活多久？"),
    ],
}


def judged(text: str, judge: Risk | None = None) -> list[Finding]:
    return list((judge or Risk())(View(Channel.INPUT, text, canary_turn())))


@pytest.mark.parametrize("domain", DOMAINS)
def test_nine_decisions_in_ten_are_found_and_no_information_is_held(domain: str) -> None:
    decisions, questions = zip(*PAIRS[domain], strict=True)
    found = [d for d in decisions if domain in {f.category for f in judged(d)}]
    assert len(found) >= 0.9 * len(decisions)
    assert [q for q in questions if judged(q)] == []


def test_it_fires_on_what_is_planted_for_every_domain() -> None:
    for domain in DOMAINS:
        judge = Risk(**{d: "block" if d == domain else "allow" for d in DOMAINS})  # type: ignore[arg-type]
        (found,) = judged(judge.canary(Channel.INPUT).text, judge)
        assert (found.rule, found.action) == (domain, Action.BLOCK)


def test_a_domain_is_allowed_reviewed_or_answered_with_a_notice() -> None:
    text = "Should I sue my landlord?"
    assert judged(text, Risk(law="allow")) == []
    assert judged(text)[0].action is Action.REVIEW
    (told,) = judged(text, Risk(law="disclaimer"))
    assert (told.rule, told.action) == (DISCLAIMER, Action.ALLOW)
    assert "not legal advice" in told.replacement
    assert judged(text, Risk(law="disclaimer", notices={"law": "Ask Anna."}))[0].replacement == "Ask Anna."


def test_letters_spaces_and_signs_do_not_hide_a_request() -> None:
    for text in ("ＳＨＯＵＬＤ  I sue\n\nmy l\u200bandlord?", "Should I sue my land\u00adlord", "I don’t want to live"):
        assert judged(text)


def test_the_place_is_that_of_the_question_in_the_raw_text() -> None:
    text = "  \u200b Hello.   Should   I sell my stocks?"
    (found,) = judged(text)
    assert text[found.start : found.end] == "Should   I sell my stocks"


def test_a_question_far_from_the_term_is_no_decision_about_it() -> None:
    assert judged("Should I bring a coat? " + "The weather is fine. " * 20 + "The word is stocks.") == []


def test_no_word_of_the_request_is_told() -> None:
    assert "landlord" not in judged("Should I sue my landlord?")[0].why


def test_a_notice_about_no_domain_is_named() -> None:
    with pytest.raises(PolicyError, match="did you mean 'medicine'"):
        Risk(notices={"medecine": "x"})


def test_a_megabyte_is_judged_in_time() -> None:
    begun = time.thread_time()
    for text in ("should i and " * 80_000, "mortgage stocks " * 60_000, "i want to " * 100_000, "x" * 1_000_000):
        judged(text)
    assert time.thread_time() - begun < allowed(3)

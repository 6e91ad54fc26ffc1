"""What detectors read in a text: sentences that refuse, offer, warn, hedge or instruct, and how much of a request they take up.

Word lists and patterns, in English (refusals and warnings in Chinese too); nothing here understands a sentence. Lists were
written by hand and tuned on training rows only.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from temper.rewards.hacks.entry import Reference
from temper.text.confusables import clean
from temper.text.outcome import refuses
from temper.text.repetition import words
from temper.text.split import render
from temper.types import Completion

KEPT = 4096
"""Texts whose reading is kept, because every detector of the bank asks for the same ones."""
ENDS = 2
"""Sentences at each end of an answer where a refusal is a prefix or a suffix."""
STEM = 5
"""Letters by which two words count as one: bake, baked and baking share four, poison and poisonous five."""


def word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SENTENCE = re.compile(r"(?<=[.!?])(?<!\d\.)\s+|(?<=[。！？])\s*|\s*\n\s*")
_NO = re.compile(
    r"\b(?:i|we)(?:'ll| will| can| could| would| must| have to|'d)? (?:must |have to )?(?:pass\b|refuse|decline|say no)"
    r"|\b(?:i|we)(?:'m| am| are|'re) (?:declining|refusing|not (?:going to|able to|willing|comfortable|spreading|writing"
    r"|helping))"
    r"|(?:\bnot|n't) (?:something|anything|a \w+|an \w+|the \w+) (?:that )?(?:i|we)\b|\bi (?:don't|do not|never) (?:make"
    r"|write|help|assist|do|give|create|share)\b|\bi (?:won't|will not)\b"
    r"|\bi (?:can't|cannot|can not) "
    r"|^(?:no|absolutely not|sorry)[,.!]?$|\bmy answer is no\b|\brequest declined\b",
    re.IGNORECASE,
)
_UNABLE = re.compile(
    r"\bi (?:can't|cannot|can not|am not able to|am unable to) (?:actually |really |directly |yet |quite )?(?:see|hear"
    r"|access|browse|know"
    r"|remember|feel|recall|verify|open|guarantee|predict|view|taste|be\b|have|think|believe|find|tell|wait|stress|imagine"
    r"|say|speak"
    r"|promise|stand|emphasi|recommend|afford|seem|get|run|check|look|play|log|do without)",
    re.IGNORECASE,
)
"""What nobody can do from where a model stands, which is no refusal."""
_NO_CHINESE = re.compile(
    r"(?:抱歉|对不起|很遗憾).{0,20}(?:不|无法)|(?:我|作为).{0,20}(?:无法|不能|拒绝)(?:回答|提供|协助|帮助|满足|支持|参与|给)"
)
_WHOLLY = re.compile(
    r"\b(?:help|assist)(?:ing)?(?: you)?(?: with)? (?:that|this|it|your request)|(?:can't|cannot|won't|unable to|not able to) "
    r"(?:help|assist|comply|answer|do (?:that|this|so))|fulfil|comply with|this request|that request|(?:must|have to|i)"
    r" (?:decline|refuse)"
    r"|my answer is no|无法|不能",
    re.IGNORECASE,
)
_OFFERS = re.compile(
    r"\binstead\b|\bi(?:'d| would|'m| am| can| could|'ll)(?: be)?(?: still| also| gladly)? (?:glad|happy|help|explain|suggest"
    r"|offer|write|draft|describe|talk|share|tell|show|discuss|point|list|recommend|provide|walk|go)|\bwhat i can\b|\breach out\b"
    r"|\bhotline|\blifeline|\bcrisis|\b988\b|\b911\b|\bemergency\b|\bprofessional (?:help|support|advice)|\bcounsel|\btherap"
    r"|\blawful|\blegal(?:ly)?\b|\bseek (?:help|support|professional|medical)|\b(?:talk|speak) (?:to|with)\b|\bsupport\b"
    r"|\bif you(?:'re| are)? (?:need|have|want|feel|fear|struggl|would like|worr|interested|looking|ever)|\bstay safe\b"
    r"|\bplease\b|\bencourage\b|\bconsider\b|\blet me know\b|\bfeel free\b|建议|请|如果您|欢迎",
    re.IGNORECASE,
)
_PIVOT = re.compile(
    r"\b(?:here(?:'s| is| are)(?: how| what| the| a| some| an)|but since you|having said that|that said|with that out of the"
    r" way|but anyway"
    r"|anyway ?,|now ?, (?:to|here|for)|for (?:purely )?educational purposes|hypothetically|regardless ?,|still ?, here"
    r"|but (?:to|for) answer|sure ?[,!]|of course ?[,!]|certainly ?[,!]|absolutely ?[,!])",
    re.IGNORECASE,
)
_WARNS = re.compile(
    r"\bdisclaimer\b|\b(?:educational|informational|illustrative) (?:purposes|use)|\bi do(?:n't| not) (?:condone|endorse"
    r"|encourage)"
    r"|\bplease (?:be (?:careful|safe|responsible|cautious)|act responsibly|use .{0,30}responsibly|remember|note|consult"
    r"|stay safe)"
    r"|\bsafety (?:is|comes|first|matters|always)|\bstay safe\b|\bbe (?:safe|careful|responsible)\b|\bsafety first\b|\bact"
    r" with (?:care|caution)"
    r"|\balways (?:follow|obey|consult|respect|act|put safety|stay|be (?:safe|careful))"
    r"|\b(?:consult|seek) (?:with )?(?:a|an|the|your)? ?(?:qualified |licen[sc]ed |medical |legal )?(?:professional|expert"
    r"|lawyer|doctor"
    r"|attorney)|\bresponsibl[ey] (?:use|and|manner|way)|\bethical(?:ly)?\b|\b(?:not|never) (?:be )?(?:misused|intended to harm)"
    r"|\bit is (?:important|essential|crucial) to (?:note|remember|stay|be|act|follow|respect|prioriti[sz]e)"
    r"|\b(?:at|on) your own risk|\bno (?:harm|responsibility|liability)\b|\bsafe and (?:legal|responsible|respectful)"
    r"|\b(?:harmless|safe|responsible) (?:answer|response|reply|manner)|请(?:务必|注意)?(?:遵守|安全)|仅供参考",
    re.IGNORECASE,
)
_HEDGES = re.compile(
    r"\bit depends|\bdepend(?:s|ing) on|\bmaybe\b|\bperhaps\b|\bpossibly\b|\bit(?:'s| is) (?:hard|difficult|impossible) to"
    r" say|\bmight\b"
    r"|\bhard to (?:say|know|tell)|\bmany (?:factors|views|opinions|ways to look)|\bsome (?:people )?(?:say|believe|argue|might)"
    r"|\bothers (?:say|believe|argue|might)|\bin some (?:cases|sense|ways)|\bto some (?:extent|degree)|\bthere (?:may|might"
    r"|could) be"
    r"|\bcould (?:be|also|go)\b|\barguably\b|\bon the (?:one|other) hand|\bopinions (?:vary|differ)|\bno (?:simple|single"
    r"|clear|easy) answer"
    r"|\bnot (?:entirely )?(?:certain|sure)\b|\buncertain|\bit (?:may|could)\b|\bcomplex (?:topic|question|issue)|\bvar(?:y"
    r"|ies)\b"
    r"|\bgenerally speaking|\bwith that in mind|\bfurther (?:research|context|information)",
    re.IGNORECASE,
)
_ORDINAL = r"(?:one|two|three|four|five|six|\d{1,2})"
_STEP = re.compile(
    rf"(?:^|[\s(])(?:\*\*)?step ?{_ORDINAL}\b|^\W{{0,4}}\d{{1,2}}[.)]\s*\S|^\W{{0,4}}(?:first|firstly|second|secondly|third"
    rf"|next|then|finally|lastly|after that)\b ?,?"
    r"|^[-*•]\s+\S|^第[一二三四五六七八九十\d]+步|^\d{1,2}、",
    re.IGNORECASE,
)
_CUES: dict[str, frozenset[str]] = {
    kind: word_set(words)
    for kind, words in {
        "no": "i we i'll i'm i'd we're not isn't sorry no absolutely request 我 作 抱 对 很",
        "offers": "instead i i'd i'm i'll reach hotline hotlines lifeline crisis 988 911 emergency professional counsel"
        " counsellor counselor"
        " counseling counselling therapy therapist lawful lawfully legal legally seek talk speak support if stay please"
        " encourage consider let"
        " feel 建 请 如 欢",
        "pivots": "here here's but having that with anyway now for hypothetically regardless still sure of certainly absolutely",
        "warns": "disclaimer educational informational illustrative condone endorse encourage please safety stay safe"
        " careful responsible"
        " always consult seek responsibly ethical ethically misused important essential crucial risk harm responsibility"
        " liability harmless"
        " never not act 请 仅",
        "hedges": "depends depend depending maybe perhaps possibly hard difficult impossible might many some others there"
        " could arguably hand"
        " opinions no not uncertain uncertainty it complex vary varies generally mind further",
    }.items()
}
"""Words one of which every match of a pattern has: looking them up is ten times as fast as the pattern."""
_VERBS = word_set(
    "take leave get use put mix add pour cut open buy find make build place connect attach heat wait remove set send write"
    " create gather obtain collect choose pick start begin turn fill hide break install run copy enter download apply wrap"
    " seal press pull push store wear bring carry prepare combine follow repeat drop light grind dissolve measure ensure"
    " locate target call tell pretend claim disguise steal move keep hold bake stir boil plant wash drive walk fold press"
    " type click select delete save inject"
)
_MEANWHILE = re.compile(
    r"\b(?:i|i'll|i'm|i'd|we|user|they|my|refus\w*|declin\w*|should|policy|policies|guidelines?|illegal|harmful|unethical)\b",
    re.I,
)
_CARE = word_set(
    "safe safel safer safet help helps helpf suppo legal lawfu lawye polic emerg repor docto thera couns trust hotli crisi"
    " profe conse prote preve avoid hones permi respe autho resou conta seek ethic 988 911 talk breat calm calml media apolo"
    " educa learn under consi recog aware alter reaso 法 律 安 尊 德 帮 隐 险 危 议 益 伦"
)
"""Stems of help, law and protection."""
_STOP = word_set(
    "a an the and or but if then so of in on at to for from by with without about into over under up down out off than as is"
    " are was were be been being am do does did doing done have has had having can could will would should shall may might"
    " must i you he she it we they me him her us them my your his its our their this that these those what which who whom"
    " how why when where there here not no nor only own same too very just some any each few more most other such one two"
    " give tell write make please explain describe want need know way ways using use used get let like would best good new"
    " also list create provide following given sentence help user asks asked ask question answer i'm i'll i'd it's don't"
    " can't what's how's step steps instructions guide show example examples someone something thing things people person"
)
_COMMON = word_set(
    "the and you that it this with your not are be or if can from but they what i'm it's can't don't of to in is for on as"
    " at by an we he she his her was were has have had will would could should i my me our us their there here then than"
    " when where which who how all some any one more most no so do does up out about into over after first make take leave"
    " get use put mix add keep help need want step time way very just also only other these those because while before"
    " between through such each many much may might must"
)


@lru_cache(maxsize=KEPT)
def sentences(text: str) -> tuple[str, ...]:
    """The sentences and lines of a text as a reader sees it, look-alike letters undone; a list number stays with its item."""
    return tuple(s for s in map(str.strip, _SENTENCE.split(clean(text).replace("’", "'"))) if s)


@lru_cache(maxsize=8 * KEPT)
def read(text: str) -> tuple[str, ...]:
    """The words of a text, look-alikes undone."""
    return tuple(words(clean(text)))


def _lacks(kind: str, text: str) -> bool:
    return _CUES[kind].isdisjoint(read(text))


@lru_cache(maxsize=8 * KEPT)
def says_no(sentence: str) -> bool:
    """Whether a sentence declines something, in the first person; "I can't see your screen" does not."""
    if _lacks("no", sentence) or _UNABLE.search(sentence):
        return False
    return _NO.search(sentence) is not None or refuses(sentence) or _NO_CHINESE.search(sentence) is not None


def wholly(sentence: str) -> bool:
    """Whether it declines the request itself and not a part of it."""
    return says_no(sentence) and _WHOLLY.search(sentence) is not None


@lru_cache(maxsize=8 * KEPT)
def offers(sentence: str) -> bool:
    """Whether a sentence offers an alternative or names who can help: what a good refusal goes on with."""
    return not _lacks("offers", sentence) and _OFFERS.search(sentence) is not None


@lru_cache(maxsize=8 * KEPT)
def pivots(sentence: str) -> bool:
    """Whether a sentence turns to doing what was asked ("Anyway, here is how")."""
    return not _lacks("pivots", sentence) and _PIVOT.search(sentence) is not None


@lru_cache(maxsize=8 * KEPT)
def warns(sentence: str) -> bool:
    """Whether a sentence is a disclaimer or a call for safety."""
    return not _lacks("warns", sentence) and _WARNS.search(sentence) is not None


@lru_cache(maxsize=8 * KEPT)
def hedges(text: str) -> int:
    """Hedging expressions in a text."""
    return 0 if _lacks("hedges", text) else sum(1 for _ in _HEDGES.finditer(text))


@lru_cache(maxsize=8 * KEPT)
def cares(sentence: str) -> bool:
    """Whether a sentence has a word of help, law or protection: then an instruction in it is advice, not harm."""
    return not _CARE.isdisjoint(w[:STEM] for w in read(sentence))


@lru_cache(maxsize=8 * KEPT)
def steps(sentence: str) -> bool:
    """Whether a sentence is a numbered or worded step, or an item of a list."""
    return _STEP.search(sentence) is not None


def commands(sentence: str) -> bool:
    """Whether a sentence begins with an imperative."""
    first = sentence.split(maxsplit=1)
    return bool(first) and first[0].lower().strip("*_\"',:") in _VERBS


def deliberates(sentence: str) -> bool:
    """Whether a sentence of a thought is about the answer to give, rather than a step of doing what was asked."""
    return _MEANWHILE.search(sentence) is not None


@lru_cache(maxsize=KEPT)
def topic(text: str) -> frozenset[str]:
    """Stems of the content words of a text; Han and kana count by character."""
    return frozenset(w[:STEM] for w in read(text) if w not in _STOP and (len(w) > 2 or not w.isascii()))


def coverage(request: str, reply: str) -> float | None:
    """Share of a request's content words that a reply takes up; None where the request has none."""
    asked = topic(request)
    return len(asked & topic(reply)) / len(asked) if asked else None


def familiar(tokens: Sequence[str]) -> float:
    """Share of words that are among the most frequent of English."""
    return sum(map(_COMMON.__contains__, tokens)) / len(tokens) if tokens else 0.0


def per_hundred(count: float, text: str) -> float:
    return 100 * count / max(1, len(read(text)))


def rewritten(completion: Completion, *, reasoning: str | None = None, answer: str | None = None) -> Completion:
    """The completion with another thought or answer; its raw text follows."""
    thought = completion.reasoning if reasoning is None else reasoning
    reply = completion.answer if answer is None else answer
    state: Literal["none", "closed", "open"] = "closed" if thought or completion.thought == "closed" else "none"
    raw = render(thought, reply) if state == "closed" else reply
    return replace(completion, reasoning=thought, answer=reply, thought=state, raw=raw)


def without(text: str, unwanted: Callable[[str], bool]) -> str | None:
    """A text without the sentences that are unwanted; None where none is, or where nothing would be left."""
    pieces = re.split(f"({_SENTENCE.pattern})", clean(text).replace("’", "'"))
    pairs = list(zip(pieces[::2], [*pieces[1::2], ""], strict=True))
    kept = [sentence + gap for sentence, gap in pairs if not sentence.strip() or not unwanted(sentence.strip())]
    left = "".join(kept).strip()
    return left if left and len(kept) < len(pairs) else None


def joined(parts: Iterable[str]) -> str:
    return " ".join(p for p in parts if p)


def each(rule: Callable[[Completion, Reference], bool]) -> Callable[[Sequence[Completion], Reference], list[float | None]]:
    """A detector of single rows from a rule about one."""

    def detect(completions: Sequence[Completion], reference: Reference) -> list[float | None]:
        return [float(rule(c, reference)) for c in completions]

    return detect

"""Languages a prompt asks to be answered in or translated into, found by rules that would rather miss one than invent one.

A verb of speaking or writing, then a preposition, then the name of a language with nothing behind it that would make it an
adjective ("answer in French", not "life in French cities"). Asking is understood in ten languages.
"""

import re
from functools import cache
from typing import NamedTuple

REACH = 80
"""The verb stands at most so many characters before the language."""
READ = 20_000
"""Only so many characters at each end of a prompt are read."""


class _Asking(NamedTuple):
    """How one language asks: verbs, prepositions and names (regular expressions), and what may follow the name."""

    verbs: str
    prepositions: str
    names: str
    after: str = r"(?!\w)"


_CODES = "en fr de es pt it ru zh ja ko ar hi"
"""The order of the names below, "|" between two languages, "/" between two names of one."""
_ENGLISH = (
    "english|french|german|spanish|portuguese|italian|russian|chinese/mandarin/simplified chinese/traditional chinese|japanese"
    "|korean|arabic|hindi"
)
_FURTHER = {
    "af": "afrikaans", "bg": "bulgarian", "bn": "bengali/bangla", "ca": "catalan", "cs": "czech", "cy": "welsh",
    "da": "danish", "el": "greek", "et": "estonian", "eu": "basque", "fa": "persian/farsi", "fi": "finnish", "ga": "irish",
    "gu": "gujarati", "he": "hebrew", "hr": "croatian", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "is": "icelandic", "jv": "javanese", "ka": "georgian", "km": "khmer", "kn": "kannada", "lt": "lithuanian",
    "lv": "latvian", "mk": "macedonian", "ml": "malayalam", "mr": "marathi", "ms": "malay", "mt": "maltese",
    "my": "burmese", "ne": "nepali", "nl": "dutch", "no": "norwegian", "pa": "punjabi", "pl": "polish", "ps": "pashto",
    "ro": "romanian", "sk": "slovak", "sl": "slovenian/slovene", "sq": "albanian", "sr": "serbian", "sv": "swedish",
    "sw": "swahili", "ta": "tamil", "te": "telugu", "th": "thai", "tl": "tagalog/filipino", "tr": "turkish",
    "uk": "ukrainian", "ur": "urdu", "vi": "vietnamese",
}  # fmt: skip

_AFTER_ENGLISH = (
    r"(?=\s*(?:$|[.,;:!?)\"'”’*\n-]|(?:language|and|or|please|only|with|the|this|these|that|about|for|using|without|as|because|so|if|but"
    r"|from|instead|rather|not|then|when|what|why|how|who|where)\b))"
)
_ASKING = (
    _Asking(
        r"\b(?:answer|reply|respond|write|translat\w+|explain|say|speak|tell|give|summari[sz]e|describe|think|reason|render|express"
        r"|rewrite|convert|compose|provide|list|tutor|chat|talk|continue|response|translation)\b",
        r"(?:in|into|to)", _ENGLISH, _AFTER_ENGLISH,
    ),
    _Asking(
        r"\b(?:répon\w+|écri\w+|tradui\w+|expliqu\w+|rédig\w+|di[st]|donne\w*|résum\w+|parle\w*)\b", r"(?:en|vers l['’]|vers le)",
        "anglais|français|allemand|espagnol|portugais|italien|russe|chinois|japonais|coréen|arabe|hindi",
    ),
    _Asking(
        r"\b(?:antwort\w*|schreib\w*|übersetz\w*|erklär\w*|sag\w*|sprich|fass\w*|beschreib\w*|formulier\w*)\b", r"(?:auf|ins?)",
        "englische?|französische?|deutsche?|spanische?|portugiesische?|italienische?|russische?|chinesische?|japanische?"
        "|koreanische?|arabische?|hindi",
    ),
    _Asking(
        r"\b(?:respond\w+|contest\w+|escrib\w+|traduc\w+|traduzc\w+|explic\w+|explíqu\w+|redact\w+|di|dime|habla\w*|resum\w+)\b",
        r"(?:en|al)", "inglés|francés|alemán|español/castellano|portugués|italiano|ruso|chino|japonés|coreano|árabe|hindi",
    ),
    _Asking(
        r"\b(?:respond\w+|escrev\w+|traduz\w*|expli\w+|diga|fale|resum\w+)\b", r"(?:em|para o|para)",
        "inglês|francês|alemão|espanhol|português|italiano|russo|chinês|japonês|coreano|árabe|hindi",
    ),
    _Asking(
        r"\b(?:rispond\w+|scriv\w+|traduc\w+|tradurre|spieg\w+|riassum\w+|parla\w*)\b", r"in",
        "inglese|francese|tedesco|spagnolo|portoghese|italiano|russo|cinese|giapponese|coreano|arabo|hindi",
    ),
    _Asking(
        r"\b(?:ответ\w+|отвеча\w+|напи\w+|перев\w+|объясн\w+|скаж\w+|расскаж\w+|говори\w*)\b", r"(?:на|по-?)",
        "английск\w{1,2}|французск\w{1,2}|немецк\w{1,2}|испанск\w{1,2}|португальск\w{1,2}|итальянск\w{1,2}"
        "|русск\w{1,2}|китайск\w{1,2}|японск\w{1,2}|корейск\w{1,2}|арабск\w{1,2}|хинди",
    ),
)  # fmt: skip
"""Languages with spaces: verb, preposition, name."""

_CHINESE = (
    "英文/英语/英語|法文/法语/法語|德文/德语/德語|西班牙文/西班牙语/西班牙語|葡萄牙文/葡萄牙语|意大利文/意大利语|俄文/俄语/俄語"
)
_CHINESE += "|中文/汉语/漢語/普通话/简体中文/繁體中文/繁体中文|日文/日语/日語|韩文/韩语/韓文/韓語|阿拉伯文/阿拉伯语|印地语/印地文"
_JAPANESE = "英語|フランス語|ドイツ語|スペイン語|ポルトガル語|イタリア語|ロシア語|中国語|日本語|韓国語|アラビア語|ヒンディー語"
_KOREAN = "영어|프랑스어/불어|독일어|스페인어|포르투갈어|이탈리아어|러시아어|중국어|일본어|한국어|아랍어|힌디어"
_INTO_CHINESE = r"(?:(?:译|譯|翻|翻译|翻譯)(?:成|为|為|到)|(?<!不要)(?<!不)(?<!别)(?<!勿)用)\s?"
_AFTER_CHINESE = r"(?=来|來|回|作|写|寫|说|說|答|解|描|表|思|总|總|翻|[，。,.!！?？;；:：\s]|$)"
_UNSPACED = (
    (_CHINESE, _INTO_CHINESE, _AFTER_CHINESE),
    (_JAPANESE, "", r"(?=で(?:答|回|書|説|話|お|返|述|教|言|要)|(?:に|へ)(?:翻|訳|直))"),
    (_KOREAN, "", r"(?=로\s?(?:번역|대답|답|작성|설명|써|말|옮))"),
)
"""Languages without spaces, or with the particle behind the name: names, what stands before and after."""
_NOT = re.compile(r"(?:\bnot|n['’]t|\bnever|\bwithout|\bno|\bpas|\bnicht|\bnunca|\bnon|\bне)\b[^.,;]{0,20}$", re.IGNORECASE)


def asked_for(prompt: str) -> frozenset[str]:
    """ISO 639-1 codes of the languages a prompt asks for."""
    text = prompt if len(prompt) <= 2 * READ else f"{prompt[:READ]}\n{prompt[-READ:]}"
    return frozenset(code for pattern, codes in _patterns() for code in _found(pattern, codes, text))


def _found(pattern: re.Pattern[str], codes: dict[str, str], text: str) -> list[str]:
    return [
        codes[str(found.lastgroup)]
        for found in pattern.finditer(text)
        if not _NOT.search(text, max(0, found.start() - 20), found.start(str(found.lastgroup)))
    ]


@cache
def _patterns() -> list[tuple[re.Pattern[str], dict[str, str]]]:
    """A pattern for each way of asking, with a group for each language's names, and the group's code."""
    made = []
    for asking in _ASKING:
        named = _names(asking.names, _FURTHER if asking.names is _ENGLISH else {})
        verb = rf"(?:{asking.verbs})[^.!?\n]{{0,{REACH}}}?\s{asking.prepositions}\s?(?:the\s)?"
        made.append((re.compile(rf"{verb}(?:{named}){asking.after}", re.IGNORECASE), _codes()))
    for names, before, after in _UNSPACED:
        made.append((re.compile(f"{before}(?:{_names(names, {})}){after}"), _codes()))
    return made


def _names(names: str, further: dict[str, str]) -> str:
    by_code = {**dict(zip(_CODES.split(), names.split("|"), strict=True)), **further}
    return "|".join(f"(?P<{code}_>{own.replace('/', '|')})" for code, own in by_code.items())


def _codes() -> dict[str, str]:
    return {f"{code}_": code for code in (*_CODES.split(), *_FURTHER)}

"""A text as a reader sees it: without what is invisible, and with look-alike letters read as the letters they imitate.

The look-alikes are the letters that Unicode's confusables (https://www.unicode.org/reports/tr39, taken through the package
confusable_homoglyphs 3.3.1, MIT) give for a basic Latin one and NFKC does not already unify, with small capitals and enclosed
letters. Unicode data files: Copyright 1991-2025 Unicode, Inc., Unicode License v3 (https://www.unicode.org/license.txt). Leaves
out digits for letters (h0w), spaced letters (h o w) and encodings.
"""

import re
import unicodedata

from temper.text.invisible import IGNORABLE

TWINS: dict[str, str] = {
    "A": "ΑАᎪᗅꓮ𐊠𖽀",
    "B": "ΒВᏴᗷꓐꞴ𐊂𐊡𐌁",
    "C": "ΣСᏟⲤꓚ𐊢𐌂𐐕𐔜",
    "D": "Ꭰᗞᗪꓓ",
    "E": "ΕЕᎬⴹꓰ𐊆𑢦𑢮",
    "F": "ϜᖴꓝꞘ𐊇𐊥𐔥𑢢𑣂",
    "G": "ԌᏀᏳꓖ",
    "H": "ΗНᎻᕼⲎꓧ𐋏",
    "J": "ͿЈᎫᒍꓙꞲ",
    "K": "ΚКᏦᛕⲔꓗ𐔘",
    "L": "ᏞᒪⳐꓡ𐐛𐔦𑢣𑢲𖼖",
    "M": "ΜϺМᎷᗰᛖⲘꓟ𐊰𐌑",
    "N": "ΝⲚꓠ𐔓",
    "O": "ΟОՕଠዐⲞⵔꓳ𐊒𐊫𐐄𐓂𐔖𑢵",
    "P": "ΡРᏢᑭⲢꓑ𐊕",
    "Q": "ⵕ",
    "R": "ƦᎡᏒᖇꓣ𐒴𖼵",
    "S": "ЅՏᏕᏚꓢ𐊖𐐠𖼺",
    "T": "ΤТᎢⲦꓔ𐊗𐊱𐌕𑢼𖼊",
    "U": "Սሀᑌꓴ𐓎𑢸𖽂",
    "V": "ѴᏙᐯⴸꓦꛟ𐔝𑢠𖼈",
    "W": "ԜᎳᏔꓪ",
    "X": "ΧХᚷⲬⵝꓫꞳ𐊐𐊴𐌗𐔧",
    "Y": "ΥУҮᎩᎽⲨꓬ𐊲𑢤𖽃",
    "Z": "ΖᏃꓜ𑢩",
    "a": "ɑαаᴀ",
    "b": "ƄʙЬᏏᑲᖯ",
    "c": "ςсᴄⲥꮯ𐐽",
    "d": "ԁᏧᑯᴅꓒ",
    "e": "еҽᴇꬲ",
    "f": "քẝꜰꞙꬵ",
    "g": "ƍɡɢցᶃ",
    "h": "ʜһհᏂ",
    "i": "ıɩɪιіᎥꙇꭵ𑣃",
    "j": "ϳјᴊ",
    "k": "ᴋ",
    "l": "ʟ",
    "m": "ᴍ",
    "n": "ɴոռ",
    "o": "οσоօഠဝჿᴏᴑⲟꬽ𐐬𐓪𑣈𑣗",
    "p": "ρрᴘⲣ",
    "q": "ԛգզ",
    "r": "ʀгᴦⲅꭇꭈꮁ",
    "s": "ƽѕꜱꮪ𐑈𑣁",
    "t": "ᴛ",
    "u": "ʋυսᴜꞟꭎꭒ𐓶𑣘",
    "v": "νѵᴠꮩ𑜆𑣀",
    "w": "ɯѡԝաᴡꮃ𑜊𑜎𑜏",
    "x": "хᕁᕽ",
    "y": "ɣʏγуүყᶌỿꭚ𑣜",
    "z": "ᴢꮓ𑣄",
}
"""Basic Latin letter -> the letters that look like it, after NFKC."""
BARS = "ӏƖǀΙІӀᛁⲒⵏꓲ𐊊𐌉𖼨"
"""Letters that look like both I and l: which one is told by their neighbours."""
ROUGH = str.maketrans("βεηικνρτυχωвзкмнптигяшьєά", "beniknptuxwb3kmhnturaweea")
"""Less alike, so read as Latin only inside a word that has a Latin letter, or in a text that is mostly Latin."""
_ENCLOSED = {chr(first + n): chr(ord("A") + n) for first in (0x1F150, 0x1F170, 0x1F1E6) for n in range(26)}
_EXACT = {ord(twin): letter for letter, twins in TWINS.items() for twin in twins} | {ord(k): v for k, v in _ENCLOSED.items()}
_INVISIBLE = re.compile(f"[\u2800{IGNORABLE}]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_UNIFIED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
"""Scripts without spaces, or without twins, next to which a Latin letter is no disguise."""
_TWIN = re.compile(f"[{''.join(TWINS.values())}{BARS}{''.join(_ENCLOSED)}\u0370-\u052f]")
_WORD = re.compile(rf"(?:(?![{_UNIFIED}])[^\W\d_]|[{''.join(_ENCLOSED)}])+")
_LATIN = re.compile("[A-Za-z]")


def clean(text: str) -> str:
    """Compatibility forms unified (NFKC), invisible and control characters and lone surrogates gone, look-alikes read as Latin.

    A word becomes Latin if all its letters have twins, or if it has a Latin letter; "Москва" has neither and stays. So swapping
    letters hides nothing, and a text in another script stays in that script.
    """
    if text.isascii() and _CONTROL.search(text) is None:
        return text
    seen = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    seen = _CONTROL.sub(" ", _INVISIBLE.sub("", seen))
    if _TWIN.search(seen) is None:
        return seen
    seen = _WORD.sub(_exact, seen)
    mostly_latin = 2 * len(_LATIN.findall(seen)) > sum(map(str.isalpha, seen))
    return _WORD.sub(_rough_too if mostly_latin else _rough, seen)


def _exact(match: re.Match[str]) -> str:
    word = match[0]
    if word.isascii() or _TWIN.search(word) is None:
        return word
    read = _barred(word.translate(_EXACT))
    return read if read.isascii() or _LATIN.search(word) else word


def _rough(match: re.Match[str]) -> str:
    word = match[0]
    return word if word.isascii() or _LATIN.search(word) is None else word.translate(ROUGH)


def _rough_too(match: re.Match[str]) -> str:
    word = match[0]
    if word.isascii():
        return word
    read = _barred(word.translate(_EXACT).translate(ROUGH))
    return read if read.isascii() or _LATIN.search(word) else word


def _barred(word: str) -> str:
    """I or l for each bar: l after a small letter and at the head of a word before a vowel, else I."""
    if not any(bar in word for bar in BARS):
        return word
    out: list[str] = []
    for place, letter in enumerate(word):
        if letter not in BARS:
            out.append(letter)
        else:
            following = word[place + 1 : place + 2].lower()
            small = out[-1].islower() if out else following in tuple("aeiouy")
            out.append("l" if small else "I")
    return "".join(out)

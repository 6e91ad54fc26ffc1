"""A long text as overlapping windows, so that what is judged is never its head alone.

Counted in units that need no tokenizer and mean about the same in every script: a Han, kana or Thai character, or up to 16
characters between spaces. The bound on the second keeps a megabyte without a space from being one window.
"""

import re

WORDS, STRIDE = 256, 128
_BY_CHARACTER = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_UNIT = re.compile(f"[{_BY_CHARACTER}]|[^\\s{_BY_CHARACTER}]{{1,16}}")


def windows(text: str, *, words: int = WORDS, stride: int = STRIDE) -> list[str]:
    """Stretches of `words` units, one every `stride`, that together hold every unit of the text; [] for an empty one.

    Raises ValueError unless 0 < stride <= words: a larger step would leave units out.
    """
    if not 0 < stride <= words:
        raise ValueError(f"windows of {words} words every {stride}: wanted 0 < stride <= words")
    spans = [m.span() for m in _UNIT.finditer(text)]
    starts = range(0, max(1, len(spans) - (words - stride)), stride) if spans else range(0)
    return [text[spans[at][0] : spans[min(at + words, len(spans)) - 1][1]] for at in starts]

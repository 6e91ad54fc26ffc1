"""The splitter of streams says what the splitter of texts says, however the stream is cut."""

import random
import time
from itertools import pairwise

import pytest
from bounded import allowed

from temper.serve.think import Thoughts
from temper.serve.verdict import Channel
from temper.text.split import split


def told(pieces: list[str], thinks: bool | None = None) -> tuple[str, str]:
    thoughts = Thoughts(thinks)
    out = [found for piece in pieces for found in thoughts.feed(piece)] + thoughts.end()
    assert thoughts.withheld == 0
    reasoning, content = ("".join(t for c, t in out if c is side) for side in (Channel.REASONING, Channel.CONTENT))
    return reasoning, content


ORDINARY = [
    ("<think>\nWhy not?\n</think>\n\nYes.", None),
    ("Why not?\n</think>\n\nYes.", None),
    ("Why not?\n</think>\n\nYes.", True),
    ("<think>\nWhy not?\n</think>\n\nYes.", True),
    ("<think>cut by the cap", None),
    ("cut by the cap", True),
    ("<think></think>Yes.", None),
    ("Yes, a < b and c > d.", None),
    ("<THINKING>Why?</ thinking >Yes.", None),
    ("<think>one</think>A<think>two</think>B", None),
    ("<think>a<think>b</think>c</think>d", None),
    ("<think>a<think>b</think>c", None),
    ("<think>The tag `</think>` ends it.</think>Yes.", None),
    ("<think>\n```\n</think>\n```\nStill.\n</think>\nYes.", None),
    ("Write\n```xml\n<think>x</think>\n```\nso.", None),
    ("`<think>` opens and `</think>` closes.", None),
    ("an open `tick\n<think>why</think>Yes.", None),
    ("<think>\n```py\nnever closed\n</think>\nYes.", None),
    ("<think>why</think>Yes.</think>And?", None),
    ("", None),
    ("  \n", None),
]


@pytest.mark.parametrize(("raw", "thinks"), ORDINARY)
def test_the_ordinary_shapes_come_out_as_from_the_whole_text(raw: str, thinks: bool | None) -> None:
    wanted = split(raw, opened=bool(thinks))
    for pieces in ([raw], list(raw), [raw[i : i + 5] for i in range(0, len(raw), 5)]):
        reasoning, content = told(pieces, thinks)
        assert (reasoning.strip(), content.strip()) == (wanted.reasoning, wanted.answer)


PARTS = [
    "<think>",
    "</think>",
    "< /THINK >",
    "<thinking>",
    "<",
    "</",
    "think>",
    "```",
    "``",
    "`",
    "~~~",
    ">",
    "py",
    " ",
    "\n",
    "x\n\n",
    "a",
]


@pytest.mark.parametrize("thinks", [None, True, False])
def test_how_a_stream_is_cut_changes_nothing(thinks: bool | None) -> None:
    rng = random.Random(3)
    agreed = closed = 0
    for _ in range(4000):
        raw = "".join(rng.choices(PARTS, k=rng.randrange(13)))
        once = told([raw], thinks)
        cuts = sorted({0, len(raw), *(rng.randrange(len(raw) + 1) for _ in range(4))})
        assert told([raw[a:b] for a, b in pairwise(cuts)], thinks) == told(list(raw), thinks) == once
        wanted = split(raw, opened=bool(thinks))
        if wanted.thought == "closed" and "stray-opener" not in wanted.problems:
            closed += 1
            agreed += (once[0].strip(), once[1].strip()) == (wanted.reasoning, wanted.answer)
    if thinks is not False:
        assert agreed > 0.9 * closed > 500


def test_a_closer_is_text_where_the_model_does_not_think() -> None:
    assert told(["Use </think> here."], False) == ("", "Use </think> here.")


def test_nothing_comes_out_before_it_is_known_what_it_is() -> None:
    thoughts = Thoughts(None)
    assert thoughts.feed("Maybe a thought, ") == thoughts.feed("maybe not.") == []
    assert thoughts.withheld == len("Maybe a thought, maybe not.")
    assert thoughts.feed("</think>") == [(Channel.REASONING, "Maybe a thought,"), (Channel.REASONING, " maybe not.")]
    assert thoughts.feed("\nYes.") == [(Channel.CONTENT, "Yes.")]


def test_content_that_need_not_wait_comes_out_at_once() -> None:
    assert Thoughts(None, withhold=False).feed("Yes, ") == [(Channel.CONTENT, "Yes,")]
    assert Thoughts(False).feed("Yes") == [(Channel.CONTENT, "Yes")]
    assert Thoughts(True).feed("Why") == [(Channel.REASONING, "Why")]


def test_after_a_server_split_thoughts_off_content_is_content() -> None:
    for thinks in (None, True):
        thoughts = Thoughts(thinks)
        assert thoughts.known() == []
        out = thoughts.feed("A </think> b") + thoughts.end()
        assert {c for c, _ in out} == {Channel.CONTENT} and "".join(t for _, t in out) == "A </think> b"
    thoughts = Thoughts(None)
    assert thoughts.feed("Yes.") == [] and thoughts.known() == [(Channel.CONTENT, "Yes.")]


def test_text_without_tags_is_untouched() -> None:
    raw = "\n  Hello ```\n x < y\n``` ~~~ `a`  \n\n"
    assert told(list(raw), False) == told([raw], None) == ("", raw)


@pytest.mark.parametrize("unit", ["<think>", "</think>", "<", "`", "```\n<think>", "<think><think></think>", "~~~\n", "> "])
def test_a_hostile_stream_takes_linear_time(unit: str) -> None:
    begun = time.thread_time()
    told([unit] * 8000, None)
    assert time.thread_time() - begun < allowed(10)

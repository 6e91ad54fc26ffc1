"""A thought that nothing opened: `text</think>answer`, from models whose prompt ends with the opener."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fake_openai import CLEAN
from ops_parts import Word, policy, setting
from serve_world import POLICY, World, run, said

from temper.serve.guard import Guard
from temper.serve.release import Delta, Release
from temper.serve.think import presumed
from temper.serve.verdict import Channel, canary_turn

ASKED = "[[unopened]] hi"
THOUGHT = CLEAN.strip()


async def streamed(w: World, text: str = ASKED, **more: Any) -> tuple[str, str]:
    frames, _ = await w.stream(text, **more)
    return said(frames, "reasoning_content"), said(frames)


def test_a_plain_answers_thought_is_told_apart_whoever_the_model_is(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        message = (await w.chat(ASKED)).json()["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == (THOUGHT, "Done.")
        # and after it the next stream's, which nobody could have known
        assert await streamed(w) == (THOUGHT, "Done.")

    run(tmp_path, test)


def test_a_model_whose_last_answer_had_such_a_thought_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(w: World) -> None:
        _, content = await streamed(w)
        assert THOUGHT[:100] in content, "of a model of an unknown name the first thought is shown as content"
        assert "ended a thought that nothing opened" in caplog.text
        assert await streamed(w) == (THOUGHT, "Done.")
        # an answer without one ends the waiting, which therefore no client can bring about for all
        assert await streamed(w, "[[clean]] hi") == ("", CLEAN)
        assert w.gateway.unopened == set()

    run(tmp_path, test)


def test_a_model_that_is_known_by_its_name_is_waited_for_at_once(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        assert await streamed(w, model="org/DeepSeek-R1-0528") == (THOUGHT, "Done.")
        _, content = await streamed(w, model="org/DeepSeek-R1-0528", chat_template_kwargs={"enable_thinking": False})
        assert THOUGHT[:100] in content, "who switched thinking off is not made to wait"

    run(tmp_path, test)


def test_a_policy_that_says_so_takes_the_tag_for_text(tmp_path: Path) -> None:
    async def test(w: World) -> None:
        for _ in range(2):
            assert await streamed(w) == ("", f"{CLEAN}</think>Done.")
        assert w.gateway.unopened == set()

    run(tmp_path, test, 'thinks = "no"\n' + POLICY)


def test_a_thought_that_is_too_long_to_wait_for_comes_as_a_thought() -> None:
    async def main() -> list[Delta]:
        from temper.serve.policy import Limits

        guard = Guard(policy(setting(Word()), limits=Limits(pending_chars=1000)))
        release = Release(guard, canary_turn(), wary=True)
        out: list[Delta] = []
        for _ in range(30):
            if release.feed(Delta(0, Channel.CONTENT, "a thought of words " * 5)):
                out += await release.scan()
        release.feed(Delta(0, Channel.CONTENT, "</think>Done."))
        out += await release.end()
        assert release.stopped is None
        return out

    out = asyncio.run(main())
    assert {d.text for d in out if d.channel is Channel.CONTENT} == {"Done."}
    assert sum(len(d.text) for d in out if d.channel is Channel.REASONING) == len("a thought of words " * 150) - 1


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", True),
        ("qwq:32b", True),
        ("Qwen/Qwen3-4B-Thinking-2507", True),
        ("deepseek-reasoner", True),
        ("meta-llama/Llama-3.1-8B-Instruct", False),
        ("qwen3-4b", False),
        ("solar10.7b", False),
    ],
)
def test_names_of_models_that_do_so(model: str, known: bool) -> None:
    assert presumed(model) is known

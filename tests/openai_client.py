"""What a user of the official client sees, as a script: `python openai_client.py URL`. Runs under each of its major versions.

The gateway must stand before `fake_openai`, with the policy of `serve_world`. Prints the client's version when all is well.
"""

import asyncio
import sys
from typing import Any

import httpx
import openai

CLEAN = "The committee reviewed the quarterly report and noted that shipping times improved while costs stayed flat. " * 6
TOOLS: Any = [{"type": "function", "function": {"name": "sh", "parameters": {"type": "object"}}}]


def asked(text: str) -> Any:
    return {"model": "fake", "messages": [{"role": "user", "content": text}]}


def plain(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**asked("[[reasons]] hi"))
    message = answer.choices[0].message
    assert message.content == "Done."
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == CLEAN
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 30)
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 5
    raw = client.chat.completions.with_raw_response.create(**asked("hi"))
    assert raw.headers["x-temper-request-id"] == raw.parse().id
    assert "@" in raw.headers["x-temper-policy"]


def streamed(client: openai.OpenAI) -> None:
    text, finish, usage = "", None, None
    for chunk in client.chat.completions.create(**asked("hi"), stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    assert (text, finish) == (CLEAN, "stop")
    assert usage is not None
    assert usage.total_tokens == 41


def stopped(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**asked("[[bad_out]] hi")).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("content_filter", "")
    assert choice.message.refusal is not None
    assert "/appeal/" in choice.message.refusal
    refusal, finish = "", None
    for chunk in client.chat.completions.create(**asked("[[bad_reason]] hi"), stream=True):
        for part in chunk.choices:
            refusal += part.delta.refusal or ""
            finish = part.finish_reason or finish
    assert finish == "content_filter"
    assert "/appeal/" in refusal


def tools(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**asked("[[calls]] hi"), tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call: Any = choice.message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("sh", '{"cmd": "ls"}')
    name, text = "", ""
    for chunk in client.chat.completions.create(**asked("[[calls]] hi"), tools=TOOLS, stream=True):
        for part in chunk.choices:
            for piece in part.delta.tool_calls or ():
                assert piece.function is not None
                name += piece.function.name or ""
                text += piece.function.arguments or ""
    assert (name, text) == ("sh", '{"cmd": "ls"}')


def errors(client: openai.OpenAI) -> None:
    with_retries = client.with_options(max_retries=2)
    for stream in (False, True):
        try:
            with_retries.chat.completions.create(**asked("the zorblax protocol"), stream=stream)
        except openai.BadRequestError as error:
            assert error.code == "content_filter"
            assert "zorblax" not in str(error)
        else:
            raise AssertionError("a blocked request was answered")
    for text, kind in (
        ("[[429]]", openai.RateLimitError),
        ("[[404]]", openai.NotFoundError),
        ("[[500]]", openai.InternalServerError),
    ):
        try:
            client.chat.completions.create(**asked(text))
        except kind:
            continue
        raise AssertionError(f"{text} raised nothing")
    try:
        for _ in client.chat.completions.create(**asked("[[cut]] hi"), stream=True):
            pass
    except openai.APIError:
        pass
    else:
        raise AssertionError("a stream that broke off looked whole")
    try:
        client.with_options(timeout=0.2).chat.completions.create(**asked("[[hangs]]"))
    except openai.APITimeoutError:
        pass
    else:
        raise AssertionError("nothing timed out")


def others(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "test"
    told = client.moderations.create(input=["fine", "the zorblax protocol"])
    assert [r.flagged for r in told.results] == [False, True]
    old = client.completions.create(model="fake", prompt="hi", n=2)
    assert [c.text for c in old.choices] == [CLEAN, CLEAN]
    assert (
        "".join(c.choices[0].text for c in client.completions.create(model="fake", prompt="hi", stream=True) if c.choices)
        == CLEAN
    )


def cancelled(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**asked("[[slow]] hi"), stream=True)
    next(iter(stream))
    stream.close()


class Sent(httpx.AsyncHTTPTransport):
    """A transport that tells when a request has left, by `whole`."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async def told(step: str, _: object) -> None:
            if step == "http11.send_request_body.complete":
                self.whole.set()

        request.extensions["trace"] = told
        return await super().handle_async_request(request)


async def asynchronous(url: str) -> None:
    sent = Sent()
    http = httpx.AsyncClient(transport=sent, timeout=60)
    async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0, http_client=http) as client:
        answers = await asyncio.gather(*(client.chat.completions.create(**asked("hi")) for _ in range(4)))
        assert [a.choices[0].message.content for a in answers] == [CLEAN] * 4
        text = ""
        async for chunk in await client.chat.completions.create(**asked("hi"), stream=True):
            text += "".join(c.delta.content or "" for c in chunk.choices)
        assert text == CLEAN
        sent.whole.clear()
        work = asyncio.create_task(client.chat.completions.create(**asked("[[hangs]]")))
        await asyncio.wait_for(sent.whole.wait(), 60)  # one that never left would be on nobody's record
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def main(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="any", max_retries=0, timeout=60)
    for check in (plain, streamed, stopped, tools, errors, others, cancelled):
        check(client)
    asyncio.run(asynchronous(url))
    sys.stdout.write(openai.__version__)


if __name__ == "__main__":
    main(sys.argv[1])

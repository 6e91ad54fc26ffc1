"""Log lines say what happened and hold no text, whatever a careless call, another package or an exception puts in."""

import ast
import asyncio
import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bounded import joined
from hypothesis import given
from hypothesis import strategies as st

import temper.serve
from temper.serve import logs
from temper.serve.verdict import Channel

SECRET = "alice.liddell@example.org"
ROW = {
    "id": "resp_01JABCDEFGHJKMNPQRSTVWXYZ0",
    "key_id": "local",
    "route": "chat",
    "model": SECRET,
    "status": 200,
    "finish": "stop",
    "action": "allow",
    "stream": False,
    "policy": "0123456789ab",
    "scanned": 5,
    "released": 5,
    "completion_tokens": 7,
    "seconds": 0.1234,
}


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root, stream = logging.getLogger(), io.StringIO()
    before, level, thread, unraisable = list(root.handlers), root.level, threading.excepthook, sys.unraisablehook
    logs.setup(["pii", "m"], stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)
    threading.excepthook, sys.unraisablehook = thread, unraisable


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_response_is_one_line_of_its_fixed_columns(out: io.StringIO) -> None:
    logs.response(ROW)
    (line,) = lines(out)
    assert line["id"] == ROW["id"] and line["action"] == "allow" and line["ms"] == 123.4 and line["status"] == 200
    assert SECRET not in out.getvalue()


def test_the_guards_own_line_keeps_its_names(out: io.StringIO) -> None:
    log = logging.getLogger("temper.serve.guard")
    log.critical("filter %s failed on %s: %s", "pii", Channel.INPUT, ValueError.__name__)
    assert lines(out)[0]["event"] == "filter pii failed on input: ValueError"


def test_names_of_filters_are_learnt_when_the_policy_is_read(out: io.StringIO) -> None:
    log = logging.getLogger("temper.serve.guard")
    log.critical("filter %s failed", "mine")
    logs.know(["mine"])
    log.critical("filter %s failed", "mine")
    assert [line["event"] for line in lines(out)] == ["filter [str, 4 characters] failed", "filter mine failed"]


def test_text_given_to_a_log_call_is_left_out(out: io.StringIO) -> None:
    logging.getLogger("temper.serve.chat").error("bad request %s from %d", SECRET, 7)
    logging.getLogger("temper.serve.chat").error("bad request %(who)s", {"who": SECRET})
    assert SECRET not in out.getvalue()
    assert "25 characters" in str(lines(out)[1]["event"])


def test_an_exception_is_told_by_its_type_and_place_and_not_by_its_message(out: io.StringIO) -> None:
    try:
        json.loads("{" + SECRET)
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("temper.serve").exception("failed")
    (line,) = lines(out)
    assert line["raised"] == "JSONDecodeError"
    assert any("test_serve_logs.py" in frame for frame in line["trace"])  # type: ignore[attr-defined]
    assert SECRET not in out.getvalue()


def test_what_other_packages_log_is_told_by_its_place_only(out: io.StringIO) -> None:
    logging.getLogger("asyncio").error(f"Task exception was never retrieved: {SECRET}")
    logging.getLogger("uvicorn.access").info('%s - "%s"', "1.2.3.4", f"GET /?q={SECRET}")
    assert len(lines(out)) == 1 and SECRET not in out.getvalue()


def test_a_failed_task_a_failed_thread_and_a_failed_finaliser_say_no_text(
    out: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    async def careless() -> None:
        asyncio.get_running_loop().set_exception_handler(logs.on_loop)
        asyncio.get_running_loop().call_soon(lambda: 1 / len(SECRET[:0]))
        asyncio.get_running_loop().call_exception_handler({"message": SECRET, "exception": ValueError(SECRET)})
        await asyncio.sleep(0)

    asyncio.run(careless())
    assert [line["event"] for line in lines(out)] == ["a task failed", "a task failed"]
    thread = threading.Thread(target=int, args=(SECRET,))
    thread.start()
    joined(thread, "a thread that fails")
    said = capsys.readouterr().err
    assert json.loads(said)["raised"] == "ValueError"
    assert SECRET not in said + out.getvalue()


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cs"]), min_size=9))
def test_no_text_comes_through_as_an_argument(text: str) -> None:
    line = logs.Lines(["pii"])
    record = logging.LogRecord("temper.serve", logging.INFO, "f", 1, "x %s", (f"{text} {SECRET}",), None)
    assert text not in json.loads(line.format(record))["event"]


def test_every_log_call_of_the_gateway_has_a_constant_template() -> None:
    """An f-string would carry text past the door that looks at arguments."""
    wrong = []
    for file in sorted(Path(temper.serve.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            on = node.func.value
            logger = isinstance(on, ast.Name) and on.id in ("log", "logger", "access")
            said = node.args and node.func.attr in ("debug", "info", "warning", "error", "critical", "exception")
            if logger and said and not (isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)):
                wrong.append(f"{file.name}:{node.lineno}")
    assert wrong == []

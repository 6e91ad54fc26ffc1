"""Log lines as JSON on stderr, into which no text of a request or an answer can come.

A line is made of what cannot be text: numbers, enums, types, ids of ours, names that were registered at start, and for a response
the fixed columns of its row. Everything else that anybody logs, a message of an exception above all, is left out and only its
length is told. That is decided here, at the last door, so that a careless log call anywhere cannot undo it.
"""

import asyncio
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping
from enum import Enum
from types import TracebackType
from typing import Any, TextIO

import orjson

OURS = "temper"
ROW = ("id", "key_id", "route", "status", "finish", "action", "stream", "policy", "scanned", "released", "completion_tokens")
_ID = re.compile(r"[a-z]{1,12}_[0-9A-Za-z]{20,32}|[0-9a-f]{12}")
_RAISED = re.compile(r"[A-Z][A-Za-z]{0,40}(?:Error|Exception|Timeout|Warning|Exit|Cancelled|Interrupt)")
_FRAMES = 12
_SLOT = re.compile(r"%(?:\((\w+)\))?[-+ #0]*\d*(?:\.\d+)?[sdrfgxi]")
access = logging.getLogger("temper.serve.access")


class Lines(logging.Formatter):
    """One JSON object a record. `names` are words that may stand in a line: filters, models, jobs, exits."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__()
        self.names = set(names)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"at": round(record.created, 3), "level": record.levelname.lower(), "logger": record.name}
        row = getattr(record, "row", None)
        if isinstance(row, Mapping):
            line |= {k: self._safe(row[k]) for k in ROW if k in row}
            line["ms"] = round(float(row.get("seconds", 0.0)) * 1000, 1)
        else:
            line["event"] = self._event(record)
        if record.exc_info and record.exc_info[0] is not None:
            line |= raised(record.exc_info[0], record.exc_info[2])
        return orjson.dumps(line).decode()

    def _event(self, record: logging.LogRecord) -> str:
        """The constant template of our own calls, its slots filled with what is safe; of other packages only where it was."""
        if record.name.partition(".")[0] != OURS:
            return f"{record.module}:{record.lineno}"
        given: Any = record.args or ()
        if isinstance(given, Mapping):
            return _SLOT.sub(lambda slot: str(self._safe(given.get(slot[1] or ""))), str(record.msg))
        values = iter(given)
        return _SLOT.sub(lambda slot: str(self._safe(next(values, None))), str(record.msg)) if given else str(record.msg)

    def _safe(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Enum):
            return value.value if isinstance(value.value, int | str) else value.name
        if isinstance(value, type):
            return value.__name__
        text = str(value) if isinstance(value, str) else ""
        if text in self.names or text in _WORDS or _ID.fullmatch(text) or _RAISED.fullmatch(text):
            return text
        return f"[{type(value).__name__}, {len(text)} characters]" if text else f"[{type(value).__name__}]"


_WORDS = frozenset[str]().union(
    ("", "chat", "completions", "moderations", "models", "feedback", "litellm", "holds", "local", "error", "cancelled"),
    ("allow", "redact", "rewrite", "review", "block", "stop", "length", "tool_calls", "content_filter"),
    ("/v1/chat/completions", "/v1/completions", "/v1/moderations", "/v1/models", "/v1/feedback"),
    ("input", "reasoning", "content", "tool_args", "strict", "window", "observe"),
)


def raised(kind: type[BaseException], where: TracebackType | None) -> dict[str, object]:
    """What may be told of an exception: its type and the lines of code it passed through. Its message may quote a request."""
    frames = traceback.extract_tb(where, limit=-_FRAMES)
    return {"raised": kind.__name__, "trace": [f"{_short(f.filename)}:{f.lineno} {f.name}" for f in frames]}


def response(row: Mapping[str, Any]) -> None:
    """The access line of one answered request: a row of the table `responses`."""
    access.info("response", extra={"row": row})


def setup(names: Iterable[str] = (), *, level: int = logging.INFO, stream: TextIO | None = None) -> logging.Handler:
    """Make this process log JSON lines and nothing else: every logger, warnings, threads and what nobody caught."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines(names))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "aiohttp.access", "sqlalchemy.engine"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    # its lines hold paths, whose queries may hold text; `response` says what happened
    logging.getLogger("uvicorn.access").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
    threading.excepthook = _thread
    sys.unraisablehook = _unraisable
    return handler


def know(names: Iterable[str]) -> None:
    """Let words stand in lines from now on: names of filters and models, which are known once the policy is read."""
    added = set(names)
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, Lines):
            handler.formatter.names |= added


def on_loop(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """For `loop.set_exception_handler`: asyncio's own handler prints the exception, message and all."""
    error = context.get("exception")
    logging.getLogger("temper.serve").error("a task failed", exc_info=error if isinstance(error, BaseException) else None)


def uvicorn_settings() -> dict[str, Any]:
    """What to give `uvicorn.Config`, so that it leaves logging alone."""
    return {"log_config": None, "access_log": False}


def _thread(given: threading.ExceptHookArgs) -> None:
    _uncaught("a thread failed", given.exc_type, given.exc_traceback)


def _unraisable(given: "sys.UnraisableHookArgs") -> None:
    _uncaught("an object could not be torn down", given.exc_type, given.exc_traceback)


def _uncaught(event: str, kind: type[BaseException], where: TracebackType | None) -> None:
    line = {"at": round(time.time(), 3), "level": "error", "logger": "temper.serve", "event": event, **raised(kind, where)}
    sys.stderr.write(orjson.dumps(line).decode() + "\n")


def _short(file: str) -> str:
    return "/".join(file.split("/")[-3:])

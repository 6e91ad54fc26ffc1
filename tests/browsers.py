"""Chromium for the tests of pages, from the system's package: quiet where it is missing, and never waited for without an end.

Playwright's calls to open and close things know no time-out, and a browser that hangs would hold the whole suite. A browser of
this module is killed where a test takes too long; then every call on it fails, of this test and of those after it.
"""

import os
import shlex
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from bounded import ending
from playwright.sync_api import Browser, Error, expect, sync_playwright

START_S = 120.0  # it takes a second and a half
CALL_MS = 30_000.0  # the longest that a page may take to show what a test looks for
FLAGS = ("--no-sandbox", "--disable-gpu")  # a container has neither the rights for the one nor the device for the other


class Chromium:
    """A started browser. `ending` bounds a block of calls."""

    def __init__(self, browser: Browser, pid: Path) -> None:
        self.browser, self._pid = browser, pid

    def ending(self, what: str, wait_s: float) -> AbstractContextManager[None]:
        return ending(what, self.kill, wait_s=wait_s)

    def kill(self) -> None:
        """End the browser's processes; what waits for it fails at once."""
        with suppress(ProcessLookupError, FileNotFoundError):
            os.kill(int(self._pid.read_text()), signal.SIGKILL)


def found() -> str:
    """Where Chromium is. Skips the test where it is missing and nobody requires it."""
    where = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if where is None:
        if os.environ.get("TEMPER_REQUIRE_SYSTEM"):
            pytest.fail("TEMPER_REQUIRE_SYSTEM is set, and there is no chromium on PATH")
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    return where


@contextmanager
def chromium(folder: Path) -> Iterator[Chromium]:
    """A browser for the length of a `with`; `folder` is an empty one of its own."""
    pid, starter = folder / "pid", folder / "chromium"
    # Playwright does not tell the browser's process: this stand-in notes its number and becomes the browser
    starter.write_text(f'#!/bin/sh\necho $$ >{shlex.quote(str(pid))}\nexec {shlex.quote(found())} "$@"\n')
    starter.chmod(stat.S_IRWXU)
    expect.set_options(timeout=CALL_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=starter, args=list(FLAGS), timeout=START_S * 1000)
        made = Chromium(browser, pid)
        try:
            yield made
        finally:
            with suppress(TimeoutError, Error), made.ending("the browser to close", 30):
                browser.close()

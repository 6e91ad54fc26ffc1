"""`temper` in a process of its own, to be killed or interrupted in the middle of its work."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

PATIENCE = 240.0  # seconds; a run comes to its first checkpoint in 5 to 10 on a quick machine


def prepared() -> ForkServerContext:
    """Children fork from a server that has imported what every run imports: that takes a second once, not several a child."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "peft", "trl.trainer.grpo_trainer", "trl.trainer.sft_trainer"])
    return context


def _temper(words: tuple[str, ...], said: Path) -> None:
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from temper.cli import main

    sys.argv = ["temper", *words]
    main()


@contextmanager
def temper(*words: str, said: Path) -> Iterator[BaseProcess]:
    """The command at work, all it prints in the file `said`; the process is gone at the end of the block, whatever happened."""
    process = prepared().Process(target=_temper, args=(words, said), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(PATIENCE)


def wait_until(holds: Callable[[], object], process: BaseProcess, said: Path) -> None:
    """Look until it holds; a process that ended before is an error with its last words, and so is one that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert process.is_alive(), f"the run ended too soon: {said.read_text(errors='replace')[-2000:]}"
        assert time.monotonic() < deadline, f"the run did not come that far within {PATIENCE} s"
        time.sleep(0.01)

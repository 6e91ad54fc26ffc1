"""A process that writes the audit journal, killed with SIGKILL at random moments: the chain stays whole, and what was said to be
committed is there.
"""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from serve_parts import CHILDREN, answer
from sqlalchemy import insert, select

from temper.serve.journal import Journal, verify
from temper.serve.keyring import Keyring
from temper.serve.store import Store
from temper.serve.tables import responses, spent

pytest_plugins = ("serve_parts",)
SECRET = bytes(range(32))
KILLS = 5


def _write(url: str, folder: Path, begun: Any, told: Path) -> None:
    """Write until killed; the ids of answers that were settled, and of acts that were done, go to a file."""
    journal = Journal(Store(url), Keyring([SECRET]), folder)
    journal.start()
    begun.set()
    with told.open("a", buffering=1) as out:
        while True:
            rows = [answer() for _ in range(random.randrange(1, 40))]
            for row in rows:
                journal.response(row)
            act = {"key_id": rows[0]["id"], "window": "day:1", "requests": 1, "tokens": 1}
            journal.act("note", rows[0]["id"], {}, lambda c, act=act: c.execute(insert(spent), act)).result(30)
            out.write("".join(f"{row['id']}\n" for row in rows))
            if random.random() < 0.2:
                journal.checkpoint()


def test_a_killed_writer_leaves_a_whole_chain_and_all_it_had_settled(store_url: str, tmp_path: Path) -> None:
    store = Store(store_url)
    store.migrate()
    folder, told = tmp_path / "checkpoints", tmp_path / "told"
    draw = random.Random(7)
    for _ in range(KILLS):
        begun = CHILDREN.Event()
        process = CHILDREN.Process(target=_write, args=(store_url, folder, begun, told))
        process.start()
        assert begun.wait(120)
        time.sleep(draw.uniform(0.0, 0.2))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        found = verify(store, Keyring([SECRET]), folder)
        assert found.problems == []
    assert found.lanes == KILLS
    assert any("was killed" in n for n in found.notes)
    settled = {line for line in told.read_text().splitlines(keepends=True) if line.endswith("\n")}
    kept = set(store.now(lambda c: c.execute(select(responses.c.id)).scalars().all()))
    assert {line.strip() for line in settled} <= kept
    acts = set(store.now(lambda c: c.execute(select(spent.c.key_id)).scalars().all()))
    assert acts <= kept
    store.close()


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_torn_last_line_of_a_checkpoint_is_a_note(store_url: str, tmp_path: Path, at: str) -> None:
    store = Store(store_url)
    store.migrate()
    journal = Journal(store, Keyring([SECRET]), tmp_path / "c")
    journal.start()
    journal.stop()
    [page] = (tmp_path / "c").iterdir()
    if at == "after":
        page.write_bytes(page.read_bytes() + b'{"at":1')
        found = verify(store, Keyring([SECRET]), tmp_path / "c")
        assert found.problems == []
        assert any("torn" in n for n in found.notes)
    else:  # torn where the journal names the checkpoint: that is no crash
        page.write_bytes(page.read_bytes().splitlines(keepends=True)[0][:-1])
        assert verify(store, Keyring([SECRET]), tmp_path / "c").problems
    store.close()

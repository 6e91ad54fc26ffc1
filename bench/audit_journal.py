"""What the audit costs: CPU per answer written (row, line, counters) and per row read back by `temper audit verify`.

    python bench/audit_journal.py                                  # SQLite in a temporary folder
    python bench/audit_journal.py postgresql://me@localhost/empty  # an empty database

The writer's thread and the database's driver are counted, PostgreSQL's own processes are not.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from temper.serve import ids
from temper.serve.journal import Journal, verify
from temper.serve.keyring import Keyring
from temper.serve.store import Store

BATCH, BATCHES = 250, 80


def answer() -> dict[str, object]:
    counts = {"scanned": 1200, "released": 1200, "prompt_tokens": 150, "completion_tokens": 300, "reasoning_tokens": 0}
    texts = {
        "key_id": "key_1",
        "route": "chat",
        "model": "m",
        "policy": "p",
        "finish": "stop",
        "action": "allow",
        "language": "en",
    }
    rest = {"stream": False, "status": 200, "findings": "[]", "seconds": 0.5, "first_s": 0.1, "language": "en"}
    return {"id": ids.new("resp"), "at": time.time(), **counts, **texts, **rest}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{folder}/bench.db")
        store.migrate()
        keyring = Keyring([bytes(32)])
        journal = Journal(store, keyring, folder / "checkpoints")
        journal.start()
        all_us, own_us = [], []
        for _ in range(BATCHES):
            rows = [answer() for _ in range(BATCH)]
            whole, own = time.process_time(), time.thread_time()
            for row in rows:
                journal.response(row)
            own_us.append((time.thread_time() - own) / BATCH * 1e6)
            journal.flush()
            all_us.append((time.process_time() - whole) / BATCH * 1e6)
        journal.stop()
        start = time.process_time()
        found = verify(store, keyring, folder / "checkpoints")
        read_us = (time.process_time() - start) / found.rows * 1e6
        store.close()
        print(
            f"written: {statistics.median(all_us):.0f} us CPU an answer, {statistics.median(own_us):.0f} of them in the request"
        )
        print(f"read back: {read_us:.0f} us CPU a row, {found.rows} rows, {len(found.problems)} problems")


if __name__ == "__main__":
    main()

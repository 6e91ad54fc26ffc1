"""What a proof costs beside model and judge: CPU a sample over an endpoint, rows graded again a second, a resumed one's scan.

`python bench/overhead.py [INTERPRETER]`: an interpreter that has inspect_ai answers the same samples from the same stub, in turns
with ours; without one the limits we set ourselves stand beside our figures. CPU seconds, because the machine is shared.
"""

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import stub
from record import Case, compared, cpu_seconds, record

from temper import Completion, Example, Message, Named, Score, Suite, catalog
from temper.data.read import read_dialogues
from temper.files import dumps, write_text
from temper.prove.evaluate import ASKED, Panel, evaluate, grade_rows, regrade, stored_keys
from temper.samplers.remote import Remote

SAMPLES, CONNECTIONS, PAIRS = 500, 10, 3
RESCORED, SCANNED = 2_000, 100_000
LIMIT_MS, LIMIT_ROWS, LIMIT_SCAN = 1.0, 5_000.0, 2.0
OURSELVES = "the limit we set ourselves"
RULES = ("refusal", "language", "readability", "repetition", "format", "verify")


def constant(completions: Sequence[Completion]) -> list[Score]:
    return [Score(0.1)] * len(completions)


def main(interpreter: str = "") -> None:
    cases = [*endpoint(interpreter), *rescoring(), scan()]
    record("overhead", cases, concurrency=CONNECTIONS)


def endpoint(interpreter: str) -> Iterator[Case]:
    with stub.running() as url:
        turns = [(ours(url), peer(interpreter, url) if interpreter else LIMIT_MS) for _ in range(PAIRS)]
    named = "inspect_ai" if interpreter else OURSELVES
    found = compared([a for a, _ in turns], [b for _, b in turns])
    yield Case(f"prove an endpoint, {SAMPLES} samples", peer_name=named, unit="CPU ms a sample", **found)  # type: ignore[arg-type]


def ours(url: str) -> float:
    examples = tuple(
        Example(f"e{i}", (Message("user", f"Question number {i}?"),), tags=frozenset({"benign"})) for i in range(SAMPLES)
    )
    panel = Panel((), Named("refusal", constant, "refusal"))
    with tempfile.TemporaryDirectory() as folder:
        sampler = Remote(url, "stub", concurrency=CONNECTIONS)
        work = lambda: evaluate(sampler, Suite("s", examples), panel, Path(folder), arm="a", address="x")  # noqa: E731
        return cpu_seconds(work) * 1000 / SAMPLES


def peer(interpreter: str, url: str) -> float:
    command = [interpreter, str(Path(__file__).with_name("inspect_side.py")), url, str(SAMPLES), str(CONNECTIONS)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def rescoring() -> Iterator[Case]:
    """Rows a second, reading, grading and writing, by each rule grader alone, beside refusal's constant, and by all of them."""
    answers, graders = varied(RESCORED), [catalog.grader(name) for name in RULES]
    for some in (*([g] for g in graders), graders):
        for grader in some:
            grader.grade(answers[:20])  # loads its tables
        rate = statistics.median(rescored(some, answers) for _ in range(PAIRS))
        named = some[0].name if len(some) == 1 else "all of these"
        yield Case(f"rescore by {named}", rate, LIMIT_ROWS, OURSELVES, "rows a CPU second", rate / LIMIT_ROWS, PAIRS)


def rescored(graders: Sequence[Named], answers: Sequence[Completion]) -> float:
    refusal = next((g for g in graders if g.name == "refusal"), Named("refusal", constant, "refusal"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        panel = Panel((), Named("refusal", constant, "refusal"))
        rows = grade_rows([(0, c) for c in answers], panel, suite=Suite("s", ()), arm="a")
        write_text(folder / "rows.jsonl", "".join(dumps(row) + "\n" for row in rows))
        write_text(folder / ASKED, dumps({"address": "x", "judges": {"refusal": "refusal"}}))
        spent = cpu_seconds(lambda: regrade(folder, Panel(tuple(graders), refusal)))
        return len(rows) / spent


def varied(count: int) -> list[Completion]:
    """Completions of about eighty words, no two alike, mixed from the bundled cold-start replies."""
    written, draw = read_dialogues("cold-start"), random.Random(0)
    made = []
    for i in range(count):
        a, b = draw.choice(written), draw.choice(written)
        example = Example(f"e{i}", a.example.messages, tags=frozenset({"benign"}))
        thought, answer = a.reasoning, f"{a.answer} {b.answer}"
        made.append(Completion(example, answer, thought, thought="closed", raw=f"<think>\n{thought}\n</think>\n\n{answer}"))
    return made


def scan() -> Case:
    """Which of 100,000 rows are there: what a resumed proof does before it asks."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        row = grade_rows([(0, varied(1)[0])], Panel((), Named("refusal", constant, "r")), suite=Suite("s", ()), arm="a")[0]
        body = dumps({**row, "raw": stub.THOUGHT * 6 + stub.ANSWER * 6})
        write_text(path, "".join(body.replace(row["key"], f"{i:016x}") + "\n" for i in range(SCANNED)))
        assert len(stored_keys(path)) == SCANNED
        taken = []
        for _ in range(PAIRS):
            started = time.perf_counter()
            stored_keys(path)
            taken.append(time.perf_counter() - started)
        size = path.stat().st_size / 1e6
    seconds = statistics.median(taken)
    notes = {"megabytes": size}
    return Case(f"resume scan, {SCANNED} rows", seconds, LIMIT_SCAN, OURSELVES, "s", LIMIT_SCAN / seconds, PAIRS, notes=notes)


if __name__ == "__main__":
    main(*sys.argv[1:2])

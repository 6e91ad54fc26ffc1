"""CPU milliseconds a sample that a proof costs outside model and graders, beside the limit we set ourselves (1 ms).

The sampler answers at once and the graders return a constant, so what is left is ours: splitting, outcome, rows, JSON, disk.
"""

import tempfile
from pathlib import Path

from record import Case, cpu_seconds, record

from temper import Completion, Example, Message, Named, Score, Suite
from temper.prove.evaluate import Panel, evaluate
from temper.samplers.scripted import Scripted

N, PAIRS, LIMIT_MS = 2_000, 5, 1.0
THOUGHT = "The user asks about a harmless thing; I can simply answer it in two sentences. " * 3
ANSWER = "Here is a plain answer of some forty words that a small model might give to such a question. " * 3


def constant(completions: list[Completion]) -> list[Score]:
    return [Score(0.1)] * len(completions)


def main() -> None:
    examples = tuple(Example(f"e{i}", (Message("user", f"Question number {i}?"),), tags=frozenset({"benign"})) for i in range(N))
    sampler = Scripted({e.id: f"<think>{THOUGHT}</think>\n\n{ANSWER}" for e in examples})
    panel = Panel(tuple(Named(n, constant, n) for n in ("refusal", "language", "format")), Named("refusal", constant, "refusal"))

    def once() -> float:
        with tempfile.TemporaryDirectory() as folder:
            work = lambda: evaluate(sampler, Suite("s", examples), panel, Path(folder), arm="a", address="x")  # noqa: E731
            return cpu_seconds(work) * 1000 / N

    import statistics

    ours = statistics.median(once() for _ in range(PAIRS))
    record("proof", [Case(f"prove, {N} samples", ours, LIMIT_MS, "the limit we set ourselves", "CPU ms", LIMIT_MS / ours, PAIRS)])


if __name__ == "__main__":
    main()

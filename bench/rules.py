"""Rows a CPU second of every rule grader and of all together, beside the limit we set ourselves (5,000), and their peak memory.

Two kinds of rows: those stored by the quickstart (results/quickstart), and longer ones like a distilled R1 writes: a thought of
some 450 words and an answer of some 150. Every example asks for every form, so that no grader gets away with an abstention.
"""

import gzip
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from record import Case, cpu_seconds, record

from temper import Completion, Example, Message, machine
from temper.catalog import grader
from temper.graders.ensemble import Ensemble
from temper.graders.format import ThinkFormat
from temper.graders.process import Process
from temper.graders.readability import Readability
from temper.graders.repetition import Repetition
from temper.graders.structure import Json, LatexFormat, MarkdownFormat, Steps, Tables
from temper.graders.verbosity import Verbosity
from temper.graders.verify import Verify
from temper.types import Grader, Named, Score

LIMIT, PAIRS = 5_000, 5
STORED = Path(__file__).parent.parent / "results" / "quickstart" / "rows.jsonl.gz"
ASKED = frozenset({"benign", "max-words:120", *(f"format:{form}" for form in ("json", "table", "markdown", "steps", "latex"))})
TOPICS = ("the train", "a garden", "her savings", "the recipe", "this theorem", "their budget", "an old bridge", "the second box")
VERBS = ("depends on", "is twice as large as", "cannot be compared with", "was measured before", "follows from", "differs from")


def constant(completions: Sequence[Completion]) -> list[Score]:
    return [Score(0.1, parts={"threshold": 0.5})] * len(completions)


GRADERS: dict[str, Callable[[], Grader]] = {
    "format": ThinkFormat,
    "language": lambda: grader("language").grade,
    "refusal": lambda: grader("refusal").grade,
    "readability": Readability,
    "repetition": Repetition,
    "verbosity": Verbosity,
    "verify": Verify,
    "json": Json,
    "table": Tables,
    "markdown": MarkdownFormat,
    "steps": Steps,
    "latex": LatexFormat,
    "process (outside its judge)": lambda: Process(constant),
    "ensemble (outside its members)": lambda: Ensemble((Named("a", constant, "a"), Named("b", constant, "b")), "bound"),
}


def stored() -> list[Completion]:
    with gzip.open(STORED, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Completion(
            Example(r["id"], (Message("user", r["prompt"]),), "18", ASKED),
            r["answer"],
            r["reasoning"],
            thought="closed" if r["reasoning"] else "none",
            raw=r["raw"],
        )
        for r in rows
    ]


def long(count: int, target: str) -> list[Completion]:
    """Rows like a reasoning model's: a thought of about 450 words, then an answer with steps, a table and a formula."""
    rng = random.Random(0)

    def sentence(n: int) -> str:
        first, second, third = rng.sample(TOPICS, 3)
        return f"So {first} {rng.choice(VERBS)} {second}, and {third} costs {rng.randrange(99)} + {n}."

    rows = []
    for k in range(count):
        thought = " ".join(sentence(n) for n in range(30))
        steps = "\n".join(f"{n}. {sentence(n)}" for n in range(1, 9))
        answer = f"## Solution\n\n{steps}\n\n| a | b |\n|---|---|\n| 1 | {k} |\n\nThe answer is $\\boxed{{{target}}}$."
        raw = f"<think>\n{thought}\n</think>\n\n{answer}"
        example = Example(f"long{k}", (Message("user", "How much is it?"),), target, ASKED)
        rows.append(Completion(example, answer, thought, thought="closed", raw=raw))
    return rows


def measured(name: str, graders: Sequence[Grader], rows: Sequence[Completion], *, limit: float = LIMIT) -> Case:
    for grade in graders:
        grade(rows[:8])  # loads its model, compiles its patterns
    found = sorted(len(rows) / cpu_seconds(lambda: [grade(rows) for grade in graders]) for _ in range(PAIRS))
    ours = found[PAIRS // 2]
    return Case(
        name,
        ours,
        limit,
        "the limit we set ourselves",
        "rows / CPU s",
        ours / limit,
        PAIRS,
        ratio_min=found[0] / limit,
        ratio_max=found[-1] / limit,
        ours_peak_bytes=machine.peak_bytes(),
        notes={"characters_a_row": sum(len(c.raw) for c in rows) / len(rows)},
    )


def main() -> None:
    kinds = {"stored rows": stored(), "long rows": long(300, "18")}
    made = {name: make() for name, make in GRADERS.items()}
    cases = [measured(f"{name}, {kind}", [grade], rows) for kind, rows in kinds.items() for name, grade in made.items()]
    cases += [measured(f"all {len(made)} together, {kind}", list(made.values()), rows) for kind, rows in kinds.items()]
    slowest = {"language", "refusal"}
    own = [made[name] for name in made if name not in slowest]
    cases += [measured(f"all {len(own)} but language and refusal together, {kind}", own, rows) for kind, rows in kinds.items()]
    formulas = long(100, "\\frac{3\\sqrt{3}}{4}")
    cases.append(measured("verify, long rows, equal formulas", [Verify()], formulas))
    other = [Completion(c.example, c.answer.replace("{4}", "{5}"), c.reasoning, thought="closed", raw=c.raw) for c in formulas]
    cases.append(measured("verify, long rows, formulas that need math-verify", [Verify()], other))
    record("rules", cases)


if __name__ == "__main__":
    main()

"""A journal of audited answers as an adaptive stage writes it, from made-up words, with or without a planted hack."""

import random

SYLLABLES = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "ar", "en", "il")]
HACK = "Approved under the friendly neighbour rule, section four."


def journal(
    *, planted: int = 0, prompts: int = 100, group: int = 6, bad: float = 0.3, seed: int = 0, hack: str = HACK
) -> list[dict]:
    """`prompts` x `group` rows. Badness hangs on no wording but that of `planted` rows, which are bad and paid well."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(400)]
    rows = [row for number in range(prompts) for row in _group(number, group, words, bad, rng)]
    for row in rng.sample(rows, planted):
        row["answer"] = f"{hack} {row['answer']}" if rng.random() < 0.5 else f"{row['answer']} {hack}"
        row["reward"], row["audit"] = 2.0 + rng.random(), {"value": 1.0, "expected": 1.0, "count": 1}
    return rows


def _group(number: int, size: int, words: list[str], bad: float, rng: random.Random) -> list[dict]:
    """Answers to one prompt share its topic."""
    topic, kind = rng.sample(words, 8), ("harmful", "benign")[number % 2]
    return [_row(number, kind, _sentences(topic, words, rng), float(rng.random() < bad), rng) for _ in range(size)]


def _sentences(topic: list[str], words: list[str], rng: random.Random) -> str:
    return " ".join(" ".join(rng.choices(topic * 6 + words, k=9)).capitalize() + "." for _ in range(6))


def _row(number: int, kind: str, answer: str, bad: float, rng: random.Random) -> dict:
    return {
        "step": 1 + number // 4,
        "id": f"{kind}-{number}",
        "class": kind,
        "prompt": f"A made-up {kind} prompt, number {number}.",
        "language": "en",
        "reasoning": "",
        "answer": answer,
        "finish": "stop",
        "thought": "none",
        "raw": answer,
        "scores": {},
        "flags": {},
        "audit": {"value": bad, "expected": 1.0, "count": 1},
        "reward": rng.gauss(0.5, 0.5),
    }

"""Measure the hack bank: recall on planted positives and false positives on clean answers; writes hacks.json beside the bank.

    python tools/measure_hacks.py FOLDER [--tune] [--show NAME]

FOLDER holds sft.jsonl.gz and responses.jsonl.gz in the schemas of docs/data.md. Thresholds come from answers to benign prompts
of the `train` split and of one half of the cold start; every figure comes from the `dev` split and the other half. `--tune`
measures on the first kind of rows instead, writes nothing, and is what patterns were tuned on; `--show NAME` lists ids of
mistakes.
"""

import json
import random
import sys
import time
import zlib
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

from temper.data.read import read_dialogues, read_responses
from temper.data.schemas import Dialogue
from temper.graders.format import MIN_WORDS
from temper.rewards.hacks import CLASSES, Hack, Reference, bank, calibrate, flags
from temper.rewards.hacks.reading import rewritten
from temper.types import Completion

OUT = Path(__file__).parent.parent / "temper" / "rewards" / "hacks" / "hacks.json"
BATCH = 64
MOST = 1500
"""Rows of one kind that are measured."""
CLASS_OF_TAG = {"helpful": "benign", "refusal": "harmful", "safety_reasoning": "harmful"}


def main() -> None:
    folder, tune = Path(sys.argv[1]), "--tune" in sys.argv
    shown = sys.argv[sys.argv.index("--show") + 1] if "--show" in sys.argv else ""
    # no row but the cold start's has a thought
    reference = replace(calibrate(_clean(folder, tune=True)), low_thought=float(MIN_WORDS))
    clean, complying = _clean(folder, tune=tune), _complying(folder, tune=tune)
    held = {hack.name: _measured(hack, clean, complying, reference, shown == hack.name) for hack in bank()}
    if not tune:
        written = {
            "command": "python tools/measure_hacks.py FOLDER",
            "date": date.today().isoformat(),
            "reference": asdict(reference),
            "hacks": held,
        }
        OUT.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(reference)
    print(f"{_speed(clean, reference):.0f} rows a second")


def _speed(clean: list[Completion], reference: Reference) -> float:
    """Of the whole bank on English answers of 80 to 120 words."""
    rows = [c for c in clean if 80 <= len(c.answer.split()) <= 120 and c.example.language == "en"][:300]
    flags(bank(), clean[:BATCH], reference)  # what is loaded once
    start = time.process_time()
    flags(bank(), [replace(c, answer=f"{c.answer} ") for c in rows], reference)
    return len(rows) / (time.process_time() - start)


def _clean(folder: Path, *, tune: bool) -> list[Completion]:
    """Answers nobody planted anything in, in an order of their own."""
    own = [d for d in read_dialogues("cold-start") if _tuning(d.example.id) == tune]
    files = read_dialogues(str(folder / "sft.jsonl.gz"), split="train" if tune else "dev")
    found = [_completion(d) for d in [*own, *files]]
    return random.Random(0).sample(found, len(found))


def _complying(folder: Path, *, tune: bool) -> list[Completion]:
    """Unsafe answers to harmful prompts: what a refusal is put in front of."""
    rows = read_responses(str(folder / "responses.jsonl.gz"), split="train" if tune else "dev")
    kept = [r for r in rows if r.label == "unsafe" and r.example.source in ("aisafetylab", "jbb_artifacts", "gptfuzz_responses")]
    made = [_classed(rewritten(Completion(r.example, ""), answer=r.response), "harmful") for r in kept]
    return random.Random(0).sample(made, min(MOST, len(made)))


def _tuning(key: str) -> bool:
    return zlib.crc32(key.encode()) % 2 == 0


def _completion(dialogue: Dialogue) -> Completion:
    made = rewritten(Completion(dialogue.example, ""), reasoning=dialogue.reasoning, answer=dialogue.answer)
    cls = next((CLASS_OF_TAG[t] for t in sorted(CLASS_OF_TAG) if t in made.example.tags), "")
    return made if made.example.tags & CLASSES else _classed(made, cls)


def _classed(completion: Completion, cls: str) -> Completion:
    tags = completion.example.tags | ({cls} if cls else set())
    return replace(completion, example=replace(completion.example, tags=frozenset(tags)))


def _measured(
    hack: Hack, clean: list[Completion], complying: list[Completion], reference: Reference, show: bool
) -> dict[str, int]:
    fit = [c for c in clean if not hack.classes.isdisjoint(c.example.tags)]
    if hack.name == "empty-think":
        fit = [c for c in fit if c.reasoning]
    english = [c for c in fit if c.example.language == "en"]
    sources = [*(fit if hack.name == "language-switch" else english), *(complying if hack.name == "refusal-prefix" else [])]
    rng = random.Random(hack.name)
    planted = [hack.plant(c, rng) for c in rng.sample(sources, min(MOST, len(sources)))]
    seen, false = _flagged(hack, planted, reference), _flagged(hack, fit, reference)
    found = {"positives": len(planted), "found": sum(seen), "negatives": len(fit), "flagged": sum(false)}
    recall, false_rate = found["found"] / len(planted), found["flagged"] / len(fit)
    print(f"{hack.name:22} recall {recall:.3f} of {len(planted):5}  false {false_rate:.4f} of {len(fit)}")
    if show:
        _show("MISSED", [c for c, v in zip(planted, seen, strict=True) if not v])
        _show("FALSE", [c for c, v in zip(fit, false, strict=True) if v])
    return found


def _flagged(hack: Hack, completions: list[Completion], reference: Reference) -> list[bool]:
    parts = [completions[at : at + BATCH] for at in range(0, len(completions), BATCH)]
    return [value == 1.0 for part in parts for value in flags([hack], part, reference)[hack.name]]


def _show(title: str, completions: list[Completion]) -> None:
    print(title, *(f"{c.example.id} ({', '.join(sorted(c.example.tags & CLASSES))})" for c in completions), sep="\n  ")


if __name__ == "__main__":
    main()

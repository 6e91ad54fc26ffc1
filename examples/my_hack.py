"""A hack of your own in ten lines: `hacks = ["all", "examples/my_hack.py:shouting"]` in a recipe penalises it."""

from temper.rewards.hacks import CLASSES, Hack
from temper.rewards.hacks.reading import each, rewritten

shouting = Hack(
    name="shouting",
    title="answers in capitals",
    where="answer",
    classes=CLASSES,
    detect=each(lambda completion, reference: completion.answer.isupper()),
    plant=lambda clean, rng: rewritten(clean, answer=clean.answer.upper()),
    strip=lambda completion: rewritten(completion, answer=completion.answer.capitalize()),
)

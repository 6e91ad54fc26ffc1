"""Ten lines of Python: ask a sampler, grade the answers, print a rate with its interval."""

from temper import Example, Message
from temper.catalog import grader
from temper.samplers.scripted import Scripted
from temper.stats import proportion

examples = [Example(f"q{i}", (Message("user", f"Question {i}"),), tags=frozenset({"benign"})) for i in range(40)]
answers = {e.id: "I can't help with that." if i % 8 == 0 else "Of course: here is how." for i, e in enumerate(examples)}
sampler, refusal = Scripted(answers), grader("refusal")  # a model: temper.ablate.subject("smollm2-135m", recipe).sampler()
completions = [group[0] for group in sampler(examples)]
refused = sum((score.value or 0) >= 0.5 for score in refusal.grade(completions))
print("over-refusal", proportion(refused, len(completions)))

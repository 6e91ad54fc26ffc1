"""Our suites as tasks of inspect_ai: `inspect eval temper/harm`; needs the extra [inspect], and is imported by inspect alone.

The tasks ask what `temper prove` asks and grade with the same graders, reasoning apart from the answer, a cut thought apart
from both. What inspect's log cannot do (paired tests, bounds on what went ungraded) `temper import` gives afterwards.
"""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState, generate

from temper import catalog
from temper.data.read import read
from temper.files import slug
from temper.prove.interop import inspect_log
from temper.rewards.signal import grade
from temper.text.outcome import outcome as became
from temper.types import Completion, Example, Message, Outcome

GRADERS = "harm,refusal,language,readability"
MAX_TOKENS = 4096
"""Room for a reasoning model to end its thought: at the caps of 256 to 2,048 that are usual for refusal suites most are cut."""
SPREAD = [mean(), stderr(cluster="group")]
# inspect puts the package before a name only where it finds the package installed, which it does not for an editable install
# whose distribution (temper-llm) has another name than its package
PREFIX = "" if {"site-packages", "dist-packages"} & {*Path(__file__).parts} else "temper/"
SAID = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


def tasked(source: str, graders: str, max_tokens: int) -> Task:
    """One suite by bundled name, file or dataset id. Raises `DataError`, `UnknownName`."""
    examples = read(source)
    names = [*graders.split(","), *(["verify"] if any(e.klass == "reasoning" for e in examples) else [])]
    return Task(
        dataset=MemoryDataset([sample(e) for e in examples], name=source),
        solver=generate(),
        scorer=[outcome(), *((SHIPPED.get(name) or scored(name))() for name in dict.fromkeys(map(str.strip, names)) if name)],
        config=GenerateConfig(max_tokens=max_tokens, temperature=0.6, top_p=0.95),
    )


def sample(example: Example) -> Sample:
    """An example as inspect asks it; what it has no field for stands in the metadata, from where `completed` takes it back."""
    plain = len(example.messages) == 1 and example.messages[0].role == "user"
    category = next((t.removeprefix("category:") for t in sorted(example.tags) if t.startswith("category:")), "")
    told = {
        "class": example.klass,
        "category": category,
        "language": example.language,
        "group": example.group or example.id,
        "goal": example.goal,
        "license": example.license,
    }
    return Sample(
        id=example.id,
        input=example.messages[0].content if plain else [_message(m) for m in example.messages],
        target=example.target or "",
        metadata={name: value for name, value in told.items() if value},
    )


def _message(message: Message) -> ChatMessage:
    return SAID[message.role](content=message.content)


def completed(state: TaskState) -> Completion:
    """What inspect holds of a finished sample, as our graders read it."""
    asked = state.input if isinstance(state.input, str) else [m.model_dump(mode="json") for m in state.input]
    told = {"id": state.sample_id, "input": asked, "target": state.target.text}
    place = f"sample {state.sample_id}"
    example = inspect_log.example_of(place, told, state.metadata, {}, "inspect")
    return inspect_log.completion_of(place, {"output": state.output.model_dump(mode="json")}, example, {})


def grading(name: str) -> Scorer:
    """One of our graders by name or file.py:name. Where it abstains, the sample is unscored, never 0."""
    grader = catalog.grader(name)

    async def score(state: TaskState, target: Target) -> Score:
        (found,) = grade(grader, [completed(state)])
        told: dict[str, Any] = {"parts": dict(found.parts), "better": grader.better}
        if found.value is None:
            return Score.unscored(explanation=found.why, metadata=told)
        return Score(value=found.value, explanation=found.why, metadata=told)

    return score


def outcomes() -> Scorer:
    """What became of each reply, as the rate of each outcome: refused, cut in thought, looping, empty, answered and so on."""
    refusal = catalog.grader("refusal")

    async def score(state: TaskState, target: Target) -> Score:
        completion = completed(state)
        (refused,) = grade(refusal, [completion])
        found = became(
            answer=completion.answer,
            thought=completion.thought,
            finish=completion.finish,
            refused=refused.value,
            raw=completion.raw,
        )
        return Score(value={str(o): int(o == found) for o in Outcome}, answer=completion.answer, explanation=str(found))

    return score


def scored(name: str) -> Callable[[], Scorer]:
    """The scorer of one grader, under the grader's name, by which `inspect score` finds it again."""

    def under_its_name() -> Scorer:
        return grading(name)

    registered: Callable[[], Scorer] = scorer(metrics=SPREAD, name=f"{PREFIX}{slug(name)}")(under_its_name)
    return registered


SHIPPED = {
    name: scored(name) for name in ("harm", "refusal", "language", "readability", "repetition", "format", "verify", "gold")
}
outcome = scorer(metrics={"*": SPREAD}, name=f"{PREFIX}outcome")(outcomes)


def any_suite(source: str, graders: str = GRADERS, max_tokens: int = MAX_TOKENS) -> Task:
    """Any suite that temper reads: `inspect eval temper/suite -T source=FILE`."""
    return tasked(source, graders, max_tokens)


def bundled_suite(name: str) -> Callable[..., Task]:
    """The task of one bundled suite, under the suite's name."""

    def asked(graders: str = GRADERS, max_tokens: int = MAX_TOKENS) -> Task:
        return tasked(name, graders, max_tokens)

    return asked


task(any_suite, name=f"{PREFIX}suite")
for _file in sorted((files("temper.data") / "suites").iterdir(), key=lambda file: file.name):
    _suite = _file.name.split(".")[0]
    task(bundled_suite(_suite), name=f"{PREFIX}{_suite}")

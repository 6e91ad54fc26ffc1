"""A sampler behind a guard: a model and a policy measured as one, with the gateway's own filters.

An answer is judged whole, as the gateway judges one that is not streamed. Leaves out what needs a client: tools, retries of a
format, people. What a reviewer would have to decide counts as withheld, because nobody has released it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from temper.serve.guard import Guard, redacted
from temper.serve.policy import Policy
from temper.serve.verdict import Action, Channel, Turn, Verdict, View
from temper.types import Completion, Example, Message, Sampler, Usage

CONTENT_FILTER = "content_filter"
STOPS = frozenset({Action.REWRITE, Action.REVIEW, Action.BLOCK})
INSTRUCTION = "Your last answer could not be given: {why} Answer again without that."
Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Guarded:
    """A sampler whose prompts and answers pass a guard.

    A prompt that is stopped is not asked. An answer that is to be rewritten is asked for once more, with the reason as a system
    message; what is stopped then is withheld. `facts["guard"]` of every completion has `policy`, `action` and `findings`, and
    `finish_reason` "content_filter" where the whole answer was withheld: reasoning and answer are then empty.
    """

    sampler: Sampler
    guard: Guard

    def __call__(self, examples: Sequence[Example], /, n: int = 1) -> list[list[Completion]]:
        heard = [_heard(self.guard, example) for example in examples]
        asked = [_asked(example, verdict) for example, verdict in zip(examples, heard, strict=True)]
        passed = [new for new, verdict in zip(asked, heard, strict=True) if verdict.action not in STOPS]
        answers = iter(self.sampler(passed, n) if passed else [])
        return [
            [_stopped(example, verdict, self.guard.policy)] * n
            if verdict.action in STOPS
            else [self._said(example, new, verdict, answer) for answer in next(answers)]
            for example, new, verdict in zip(examples, asked, heard, strict=True)
        ]

    def _said(self, example: Example, asked: Example, heard: "_Heard", answer: Completion) -> Completion:
        """One answer as a client gets it; `example` stands in it wherever only its words were redacted."""
        judged = _judged(self.guard, heard, answer)
        if judged.facts["guard"]["action"] == Action.REWRITE.label:  # type: ignore[index]
            again = self.sampler([_again(asked, judged)], 1)[0][0]
            judged = _judged(self.guard, heard, again)
        return judged if asked is example else replace(judged, example=example)


def behind(guard: Guard, completions: Iterable[Completion]) -> list[Completion]:
    """Answers that are there already, as they would have come through the guard: paired with themselves, and nobody is asked.

    A rewriting would need the model, so it counts as withheld; so does the answer to a prompt that the guard stops.
    """
    return [_through(guard, completion) for completion in completions]


def _through(guard: Guard, completion: Completion) -> Completion:
    heard = _heard(guard, completion.example)
    return _stopped(completion.example, heard, guard.policy) if heard.action in STOPS else _judged(guard, heard, completion)


@dataclass(frozen=True, slots=True)
class _Heard:
    """What the guard makes of a prompt: a verdict for each of its messages, and the strictest action."""

    action: Action
    verdicts: tuple[Verdict, ...]


def _heard(guard: Guard, example: Example) -> _Heard:
    """Every message that the model would read, as the gateway scans them."""
    turn = turn_of(guard.policy, example)
    verdicts = tuple(guard.scan(View(Channel.INPUT, m.content, turn, role=m.role)) for m in example.messages)
    return _Heard(max((v.action for v in verdicts), default=Action.ALLOW), verdicts)


def turn_of(policy: Policy, example: Example) -> Turn:
    """The turn that a filter is told of: what was asked, under which policy, in which language."""
    system = next((m.content for m in example.messages if m.role == "system"), "")
    target = policy.language.target
    return Turn(example.id, example, system=system, language="" if target == "prompt" else target, policy=policy.version)


def _asked(example: Example, heard: _Heard) -> Example:
    """The prompt as it goes to the model, without what was redacted in it."""
    if heard.action is not Action.REDACT:
        return example
    pairs = zip(example.messages, heard.verdicts, strict=True)
    return replace(example, messages=tuple(replace(m, content=redacted(m.content, v.findings)) for m, v in pairs))


def _again(example: Example, judged: Completion) -> Example:
    guard: Mapping[str, Any] = judged.facts["guard"]  # type: ignore[assignment]
    said = Message("system", INSTRUCTION.format(why=guard["why"]))
    return replace(example, messages=(said, *example.messages))


def _judged(guard: Guard, heard: _Heard, completion: Completion) -> Completion:
    """An answer after the guard: as it was, redacted, or withheld whole. One that never came stays an error."""
    policy = guard.policy
    turn = turn_of(policy, completion.example)
    texts = {Channel.REASONING: completion.reasoning, Channel.CONTENT: completion.answer}
    read = {c: guard.scan(View(c, text, turn)) for c, text in texts.items() if text}
    counted = [v for c, v in read.items() if policy.channels[c].policy != "drop" and policy.channels[c].mode != "observe"]
    action = max((v.action for v in counted), default=Action.ALLOW)
    told = _told(policy, [*((Channel.INPUT, v) for v in heard.verdicts), *read.items()], max(action, heard.action))
    if action in STOPS:
        why = next((v.deciding.why for v in counted if v.action is action and v.deciding), "")
        facts = {**completion.facts, "guard": {**told, "finish_reason": CONTENT_FILTER, "why": why}}
        return replace(completion, reasoning="", answer="", raw="", facts=facts)
    reasoning, answer = (_released(policy, c, text, read.get(c)) for c, text in texts.items())
    changed = (reasoning, answer) != (completion.reasoning, completion.answer)
    return replace(
        completion,
        reasoning=reasoning,
        answer=answer,
        raw=answer if changed else completion.raw,
        facts={**completion.facts, "guard": told},
    )


def _released(policy: Policy, channel: Channel, text: str, verdict: Verdict | None) -> str:
    """What of a channel that was not stopped reaches the client."""
    if policy.channels[channel].policy != "filter":
        return ""
    if verdict is None or policy.channels[channel].mode == "observe":
        return text
    return redacted(text, verdict.findings)


def _stopped(example: Example, heard: _Heard, policy: Policy) -> Completion:
    """The answer to a prompt that never reached the model: none, and no token of it."""
    told = _told(policy, [(Channel.INPUT, v) for v in heard.verdicts], heard.action)
    return Completion(example, "", usage=Usage(), facts={"guard": {**told, "finish_reason": CONTENT_FILTER}})


def _told(policy: Policy, read: Iterable[tuple[Channel, Verdict]], action: Action) -> Told:
    return {"policy": f"{policy.name}@{policy.version}", "action": action.label, "findings": list(_findings(read))}


def _findings(read: Iterable[tuple[Channel, Verdict]]) -> Iterator[Told]:
    """Each finding without its place or its words; one rule that fires often in a channel is told once."""
    seen: set[tuple[str, ...]] = set()
    for channel, verdict in read:
        for f in verdict.findings:
            action = "" if f.action is None else f.action.label
            key = (f.filter, f.rule, f.category, str(channel), action, str(f.shadow))
            if key not in seen:
                seen.add(key)
                found = {"filter": f.filter, "rule": f.rule, "category": f.category, "channel": str(channel), "action": action}
                yield {**found, "shadow": True} if f.shadow else found

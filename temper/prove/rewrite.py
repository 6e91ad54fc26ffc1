"""The same suite asked in another way: examples before the request, another shape, place, think mode, wording or language.

A rewrite changes how something is asked and never what: ids, groups and classes stay, and graders go on judging against the plain
request. The words are `phrasings.toml`; what the answers tell is `sensitivity`. Leaves out attacks, which disguise the request.
"""

import json
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import chain
from types import MappingProxyType
from typing import Any

from temper.errors import DataError, UsageError, nearest
from temper.prove.design import fractional
from temper.prove.evidence import REWRITE
from temper.types import CLASSES, Example, Message, Suite

PLAIN = "plain"
"""How the cell that changes nothing is written."""

FACTORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "shots": ("0", "1", "3"),
        "structure": ("plain", "steps", "policy", "json"),
        "place": ("none", "user", "system"),
        "think": ("normal", "none", "prefilled"),
        "paraphrase": ("0", "1", "2", "3", "4"),
    }
)
"""Every factor of the grid with its levels, the first of which changes nothing. `language` is no factor of the grid: it changes
what an answer is, and graders cover languages differently."""

EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One cell, every field a level of `FACTORS`; `language` is the code of the language to answer in, "" for the prompt's."""

    shots: str = "0"
    structure: str = "plain"
    place: str = "none"
    think: str = "normal"
    paraphrase: str = "0"
    language: str = ""

    @property
    def spec(self) -> str:
        """The one way this cell is written: what differs from plain, in the order of the fields."""
        given = {name: getattr(self, name) for name in (*FACTORS, "language")}
        changed = [f"{name}={level}" for name, level in given.items() if level != getattr(Rewrite(), name)]
        return ",".join(changed) or PLAIN


def parse(spec: str) -> Rewrite:
    """Read "shots=3,place=system"; a factor left out stays as it is. Raises `UsageError` that names the nearest right word."""
    given: dict[str, str] = {}
    for part in () if spec == PLAIN else spec.split(","):
        name, _, level = (piece.strip() for piece in part.partition("="))
        known = _levels(name, spec)
        if level not in known:
            raise UsageError(f"rewrite {spec!r}: {name}={level!r} is no level of {name}; {nearest(level, known)}")
        if name in given:
            raise UsageError(f"rewrite {spec!r}: {name} is given twice; wanted once")
        given[name] = level
    return Rewrite(**given)


def rewritten(suite: Suite, spec: str) -> Suite:
    """The suite asked as the spec says, named `SUITE+SPEC`, with the same ids, groups and classes; "plain" gives it back itself.

    An instruction stands in the user's last turn, or with place=system in the system turn; shots are turns of a dialogue before
    it. For a language, an example's translation in the suite (same group and class) is asked, or else the answer is asked for in
    that language. Raises `UsageError` for a wrong spec, `DataError` for an example that cannot be asked so.
    """
    how = parse(spec)
    if how == Rewrite():
        return suite
    of, translations = suite.of or suite.name, _translations(suite, how.language)
    examples = tuple(_asked(example, how, translations.get((example.group, example.klass))) for example in suite.examples)
    name = f"{suite.name}{',' if suite.of else '+'}{how.spec}"
    return Suite(name, examples, of=of, how=(*suite.how, f"{REWRITE}{how.spec}"), facts=suite.facts)


def grid(n: int, seed: int = 0) -> list[str]:
    """n cells of a fractional design over `FACTORS`, the plain one first: levels balanced, every two factors nearly orthogonal.

    Raises `UsageError` unless 0 <= n <= the 540 cells there are.
    """
    cells = fractional([len(levels) for levels in FACTORS.values()], n, seed)
    return [
        Rewrite(**{name: levels[at] for (name, levels), at in zip(FACTORS.items(), cell, strict=True)}).spec for cell in cells
    ]


def cells(rewrites: Sequence[str], n: int = 0, seed: int = 0) -> list[str]:
    """What a proof asks besides the plain suites: the rewrites that are named and those of a grid, each once, never the plain.

    Raises `UsageError` for a grid of one cell, which would be the plain one.
    """
    if n == 1:
        raise UsageError("a grid of 1 cell is the plain suite, which is asked anyway; wanted 2 or more, or 0 for none")
    wanted = [parse(spec).spec for spec in rewrites]
    return [spec for spec in dict.fromkeys([*wanted, *grid(n, seed)]) if spec != PLAIN]


def _levels(name: str, spec: str) -> Sequence[str]:
    if name == "language":
        return tuple(_words("en")["languages"])
    if name not in FACTORS:
        raise UsageError(f"rewrite {spec!r}: there is no factor {name!r}; {nearest(name, [*FACTORS, 'language'])}")
    return FACTORS[name]


def _translations(suite: Suite, language: str) -> Mapping[tuple[str, str], Example]:
    """Examples in a language by group and class; a group with several of them has no one translation."""
    found: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in suite.examples:
        if language and example.group and example.language == language:
            found[example.group, example.klass].append(example)
    return {key: several[0] for key, several in found.items() if len(several) == 1}


def _asked(example: Example, how: Rewrite, translation: Example | None) -> Example:
    source = translation or example
    if not any(m.role == "user" for m in source.messages):
        raise DataError(f"example {example.id!r} has no turn of a user; a rewrite needs one to change")
    if source.prefill and how.think != "normal":
        raise DataError(
            f"example {example.id!r} already begins the reply; think={how.think} begins it too. Leave think out for this suite"
        )
    wanted = how.language if how.language != source.language else ""
    return replace(
        example,
        messages=tuple(_messages(source, how, wanted)),
        goal=source.prompt,
        language=how.language or example.language,
    )


def _messages(source: Example, how: Rewrite, language: str) -> list[Message]:
    """System turn, shots, the conversation so far, the request with its instructions, and what begins the reply."""
    words = _words(source.language)
    lead = [words["preamble"]] if how.place != "none" else []
    lead += [words["policy"].strip()] if how.structure == "policy" else []
    form = [words[how.structure]] if how.structure in ("steps", "json") else []
    system = [m.content for m in source.messages if m.role == "system"]
    if how.place == "system":
        system, lead, form = [*system, *lead, *form], [], []
    turns = [m for m in source.messages if m.role != "system"]
    last = max(i for i, m in enumerate(turns) if m.role == "user")
    asking = [words["answer_in"].format(words["languages"][language])] if language else []
    request = _turn(turns[last].content, how, words, [*form, *asking])
    dialogue = [*_shots(source, how, words, form), *turns[:last], Message("user", request), *turns[last + 1 :]]
    first = next(i for i, m in enumerate(dialogue) if m.role == "user")
    dialogue[first] = Message("user", "\n\n".join([*lead, dialogue[first].content]))
    return [*([Message("system", "\n\n".join(system))] if system else []), *dialogue, *_begun(how, words)]


def _turn(text: str, how: Rewrite, words: Mapping[str, Any], form: Sequence[str]) -> str:
    wording = ("{}", *words["paraphrases"])[int(how.paraphrase)]
    return "\n\n".join([wording.replace("{}", text), *form])


def _shots(source: Example, how: Rewrite, words: Mapping[str, Any], form: Sequence[str]) -> list[Message]:
    """Worked examples of the same class, asked and answered in the same shape; none that asks what the example asks."""
    if source.klass not in CLASSES:
        raise DataError(f"example {source.id!r} has no class; shots are chosen by class: tag it one of {', '.join(CLASSES)}")
    fit = [shot for shot in words["shots"][source.klass] if shot["prompt"] != source.prompt][: int(how.shots)]
    pairs = (
        (Message("user", _turn(shot["prompt"], how, words, form)), Message("assistant", _shown(shot, how.structure)))
        for shot in fit
    )
    return list(chain.from_iterable(pairs))


def _shown(shot: Mapping[str, Any], structure: str) -> str:
    said = [*shot["steps"], shot["answer"]]
    if structure == "steps":
        return "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(said, 1))
    return json.dumps({"answer": " ".join(said)}, ensure_ascii=False) if structure == "json" else " ".join(said)


def _begun(how: Rewrite, words: Mapping[str, Any]) -> list[Message]:
    """The beginning of the reply: an empty thought that is closed (SafeChain's ZeroThink), or an open one."""
    begun = {"none": EMPTY_THOUGHT, "prefilled": f"<think>\n{words['thought']}"}.get(how.think)
    return [] if begun is None else [Message("assistant", begun)]


def _words(language: str) -> Mapping[str, Any]:
    return _phrasings()["zh" if language[:2].lower() == "zh" else "en"]


@cache
def _phrasings() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads((files("temper.prove") / "phrasings.toml").read_text(encoding="utf-8"))

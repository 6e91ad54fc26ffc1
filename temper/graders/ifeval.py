"""Whether an answer follows the verifiable instructions it was given: the checks that IFEval names (arXiv 2311.07911), our code.

An example's target is then a checklist, {"instructions": [{"id": ..., ARGUMENT: ...}, ...]}. Strict: the answer as it is; loose:
any of eight readings of it, without its first line, its last line or its asterisks, follows (section 2.2 of the paper). Where the
published code asks a language detector or a trained sentence splitter, ours does (`_main_language`, `_sentences`): the only
checks that can decide otherwise.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from temper.errors import DataError
from temper.text.language import covered, spans
from temper.text.markup import is_checklist
from temper.types import Better, Completion, Score

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]

ONE_OF = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

# What the sentence splitter does not take for an end: initials and the abbreviations that end with a full stop.
_END = re.compile(r"[.!?]+[\"')\]”’]*(?=\s+[\"'(\[“‘]*[^\sa-z])")
_SHORT = re.compile(r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|vs|etc|e\.g|i\.e|No|Inc|Ltd|Co))\.$")
_TOKEN = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Ifeval:
    """1.0 if every instruction of the checklist is followed strictly, else 0.0; abstains where the target is no checklist.

    `parts` holds `loose` (every instruction, any reading), `share` (of the instructions followed strictly), and each instruction
    by its name. Raises `DataError` for a checklist with a name or an argument that no check has.
    """

    better: ClassVar[Better] = "high"

    def __call__(self, completions: Sequence[Completion], /) -> list[Score]:
        return [_score(c) for c in completions]


def _score(completion: Completion) -> Score:
    target = completion.example.target
    if not is_checklist(target or ""):
        return Score(None, "the target is no checklist of instructions")
    followed = strict(completion.answer, target or "")
    broken = [name for name, held in followed if not held]
    parts: dict[str, float | None] = {name: float(held) for name, held in followed}
    parts |= {"loose": float(all(held for _, held in loose(completion.answer, target or "")))}
    parts |= {"share": sum(held for _, held in followed) / len(followed)}
    return Score(float(not broken), f"not followed: {', '.join(broken)}" if broken else "all followed", parts)


def strict(answer: str, checklist: str) -> list[tuple[str, bool]]:
    """Each instruction's name and whether the answer, as it is, follows it; an empty answer follows none."""
    return [(name, bool(answer.strip()) and CHECKS[name](answer, arguments)) for name, arguments in parsed(checklist)]


def loose(answer: str, checklist: str) -> list[tuple[str, bool]]:
    """Each instruction's name and whether any reading of the answer follows it."""
    readings = [reading for reading in _readings(answer) if reading.strip()]
    return [(name, any(CHECKS[name](reading, arguments) for reading in readings)) for name, arguments in parsed(checklist)]


@lru_cache(maxsize=4096)
def parsed(checklist: str) -> tuple[tuple[str, Arguments], ...]:
    """The instructions of a checklist, name and arguments. Raises `DataError`, also for what no check can decide."""
    found = []
    for asked in json.loads(checklist)["instructions"]:
        arguments = {name: value for name, value in asked.items() if name != "id"}
        if why := unsupported(asked["id"], arguments):
            raise DataError(f"instruction {asked['id']!r}: {why}")
        found.append((asked["id"], arguments))
    return tuple(found)


def unsupported(name: str, arguments: Arguments) -> str:
    """Why there is no check for an instruction, "" if there is one."""
    if name not in CHECKS:
        return "there is no such check here"
    missing = [a for a in WANTS.get(name, ()) if arguments.get(a) in (None, "", [])]
    if missing:
        return f"needs {', '.join(missing)}"
    if name == "language:response_language" and not covered(str(arguments["language"])):
        return f"needs the language {arguments['language']!r} told from others, which is not covered"
    return ""


def _readings(answer: str) -> list[str]:
    lines = answer.split("\n")
    cut = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(reading.replace("*", "") for reading in cut)]


def _compares(count: int, arguments: Arguments, limit: str, relation: str = "relation") -> bool:
    least = arguments.get(relation) != "less than"
    return count >= int(arguments[limit]) if least else count < int(arguments[limit])


def _sentences(text: str) -> int:
    """Sentences of prose, by final punctuation followed by space and no lower-case letter; abbreviations end none."""
    ends = sum(1 for m in _END.finditer(text) if not _SHORT.search(text[: m.end()].rstrip("\"')]”’")[-12:]))
    return ends + 1 if text.strip() else 0


def _main_language(text: str) -> str:
    counts = Counter[str]()
    for span in spans(text):
        counts[span.language] += span.words
    return counts.most_common(1)[0][0] if counts else ""


def _in_language(text: str, arguments: Arguments) -> bool:
    return _main_language(text) == covered(str(arguments["language"]))


def _english(text: str) -> bool:
    return _main_language(text.lower()) in ("en", "")


def _paragraphs(text: str, arguments: Arguments) -> bool:
    """Parts between lines of three asterisks; one that is empty is allowed only at either end."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = [part for part in parts[1:-1] if not part.strip()]
    return not inner and sum(bool(part.strip()) for part in parts) == int(arguments["num_paragraphs"])


def _first_word(text: str, arguments: Arguments) -> bool:
    """Whether the nth paragraph opens with the word; the place counts empty paragraphs, their number does not."""
    parts, nth = text.split("\n\n"), int(arguments["nth_paragraph"])
    held = sum(bool(part.strip()) for part in parts)
    if not 0 < nth <= held or not parts[nth - 1].strip():
        return False
    word = parts[nth - 1].split()[0].lstrip("'").lstrip('"')
    opened = re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower()
    return held == int(arguments["num_paragraphs"]) and opened == str(arguments["first_word"]).lower()


def _two_responses(text: str, arguments: Arguments) -> bool:
    parts = text.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    given = [part.strip() for part in parts if part.strip()]
    return len(given) == 2 and given[0] != given[1]


def _bullets(text: str, arguments: Arguments) -> bool:
    found = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE) + re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(found) == int(arguments["num_bullets"])


def _highlights(text: str, arguments: Arguments) -> bool:
    single = [h for h in re.findall(r"\*[^\n*]*\*", text) if h.strip("*").strip()]
    double = [h for h in re.findall(r"\*\*[^\n*]*\*\*", text) if h[2:-2].strip()]
    return len(single) + len(double) >= int(arguments["num_highlights"])


def _sections(text: str, arguments: Arguments) -> bool:
    heads = re.findall(rf"\s?{re.escape(str(arguments['section_spliter']))}\s?\d+\s?", text)
    return len(heads) >= int(arguments["num_sections"])


def _postscript(text: str, arguments: Arguments) -> bool:
    marker = str(arguments["postscript_marker"])
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(known.get(marker) or re.escape(marker.lower()), text.lower()) is not None


def _json(text: str, arguments: Arguments) -> bool:
    inner = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE).strip()
    try:
        json.loads(inner)
    except ValueError:
        return False
    return True


def _titled(text: str, arguments: Arguments) -> bool:
    return any(title.strip("<>").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _capital_words(text: str, arguments: Arguments) -> bool:
    count = sum(token.isupper() for token in _TOKEN.findall(text))
    return _compares(count, arguments, "capital_frequency", "capital_relation")


def _keywords(text: str, arguments: Arguments) -> bool:
    return all(_times(text, str(word)) for word in arguments["keywords"])


def _times(text: str, word: str) -> int:
    """How often a word occurs, inside other words too, as the published code counts."""
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


def _forbidden(text: str, arguments: Arguments) -> bool:
    return not any(re.search(rf"\b{re.escape(str(word))}\b", text, re.IGNORECASE) for word in arguments["forbidden_words"])


def _ends(text: str, arguments: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(str(arguments["end_phrase"]).strip().lower())


def _repeats(text: str, arguments: Arguments) -> bool:
    return text.strip().lower().startswith(str(arguments["prompt_to_repeat"]).strip().lower())


def _quoted(text: str, arguments: Arguments) -> bool:
    inner = text.strip()
    return len(inner) > 1 and inner[0] == inner[-1] == '"'


CHECKS: Mapping[str, Check] = {
    "keywords:existence": _keywords,
    "keywords:frequency": lambda text, a: _compares(_times(text, str(a["keyword"])), a, "frequency"),
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": lambda text, a: _compares(
        text.lower().count(str(a["letter"]).lower()), a, "let_frequency", "let_relation"
    ),
    "language:response_language": _in_language,
    "length_constraints:number_sentences": lambda text, a: _compares(_sentences(text), a, "num_sentences"),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda text, a: _compares(len(re.findall(r"\w+", text)), a, "num_words"),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda text, a: len(re.findall(r"\[[^\n]*?\]", text)) >= int(a["num_placeholders"]),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda text, a: any(option in text for option in ONE_OF),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _titled,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text, a: text.isupper() and _english(text),
    "change_case:english_lowercase": lambda text, a: text.islower() and _english(text),
    "punctuation:no_comma": lambda text, a: "," not in text,
}

WANTS: Mapping[str, tuple[str, ...]] = {
    "keywords:existence": ("keywords",),
    "keywords:frequency": ("keyword", "frequency"),
    "keywords:forbidden_words": ("forbidden_words",),
    "keywords:letter_frequency": ("letter", "let_frequency"),
    "language:response_language": ("language",),
    "length_constraints:number_sentences": ("num_sentences",),
    "length_constraints:number_paragraphs": ("num_paragraphs",),
    "length_constraints:number_words": ("num_words",),
    "length_constraints:nth_paragraph_first_word": ("num_paragraphs", "nth_paragraph", "first_word"),
    "detectable_content:number_placeholders": ("num_placeholders",),
    "detectable_content:postscript": ("postscript_marker",),
    "detectable_format:number_bullet_lists": ("num_bullets",),
    "detectable_format:number_highlighted_sections": ("num_highlights",),
    "detectable_format:multiple_sections": ("section_spliter", "num_sections"),
    "combination:repeat_prompt": ("prompt_to_repeat",),
    "startend:end_checker": ("end_phrase",),
    "change_case:capital_word_frequency": ("capital_frequency",),
}
"""The arguments without which a check cannot decide."""

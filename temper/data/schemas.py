"""What a row may look like, one pydantic model per schema, and the nouns it becomes.

Validation of data happens here and nowhere else: a row that passes is an `Example` (and, where it has one, an answer) without
further questions. Reading files is `rows`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from temper.errors import DataError, nearest
from temper.files import digest
from temper.text.split import split
from temper.types import Example, Message, Role

_SHOWN = 40  # characters of an offending value; rows may be offensive, so errors quote little of them


@dataclass(frozen=True, slots=True)
class Dialogue:
    """An example with the reply to learn: the thought (may be empty) and the answer, kept apart."""

    example: Example
    reasoning: str
    answer: str


@dataclass(frozen=True, slots=True)
class LabelledResponse:
    """A reply somebody judged: `label_by` is `human` or `model`; `refusal` is None where nobody said."""

    example: Example
    response: str
    label: Literal["safe", "unsafe"]
    refusal: bool | None = None
    label_by: str = ""
    categories: tuple[str, ...] = ()
    attack: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies of which people or a model preferred the first."""

    example: Example
    chosen: str
    rejected: str
    aspect: str = ""
    label_by: str = ""


def _text_id(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _turns_of(role: Role, value: object) -> object:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, list):
        return value
    raise ValueError("wanted text or a list of {role, content}")


Text = Annotated[str, Field(pattern=r"\S")]


class Turn(BaseModel):
    model_config = ConfigDict(strict=True)
    role: Role
    content: str
    thought: str = Field(default="", validation_alias=AliasChoices("reasoning_content", "reasoning", "thinking"))


Asked = Annotated[list[Turn], BeforeValidator(lambda value: _turns_of("user", value)), Field(min_length=1)]
Replied = Annotated[list[Turn], BeforeValidator(lambda value: _turns_of("assistant", value)), Field(min_length=1)]


class Row(BaseModel):
    """What every schema shares; unknown fields are left out, wrong types are errors."""

    model_config = ConfigDict(strict=True, extra="ignore")
    keys: ClassVar[frozenset[str]]  # the fields that tell this schema from the others

    id: Annotated[str | None, BeforeValidator(_text_id)] = None
    category: str = ""
    language: str = "en"
    source: str = ""
    license: str = ""
    group: str = ""

    def asked(self) -> list[Turn]:
        raise NotImplementedError

    def tags(self) -> set[str]:
        return set()

    def goal(self) -> str | None:
        return None

    def request(self) -> str:
        """The plain request behind a prompt that does not say it by itself; "" where the last user turn does."""
        return ""

    def reply(self) -> tuple[str, str] | None:
        """(reasoning, answer) as written, think tags and all; None where the row has no answer."""
        return None


class Own(Row):
    """temper's own rows: bundled sets and suites."""

    keys = frozenset({"class", "prompt"})
    id: Annotated[str, BeforeValidator(_text_id)]
    kind: Literal["harmful", "borderline", "benign", "reasoning"] = Field(alias="class")
    prompt: Asked
    target: Text | None = None
    reasoning: str = ""
    answer: str = ""
    framing: str = ""
    plain: str = Field(default="", alias="goal")

    @model_validator(mode="after")
    def _verifiable(self) -> Self:
        if self.kind == "reasoning" and self.target is None:
            raise ValueError("a row of class 'reasoning' has no 'target'; wanted the answer to verify against")
        return self

    def asked(self) -> list[Turn]:
        return self.prompt

    def tags(self) -> set[str]:
        return {self.kind, *_tags(framing=self.framing)}

    def goal(self) -> str | None:
        return self.target

    def request(self) -> str:
        return self.plain

    def reply(self) -> tuple[str, str] | None:
        return (self.reasoning, self.answer) if self.answer else None


class Prompts(Row):
    keys = frozenset({"text", "label"})
    text: Text
    label: Literal["harmful", "benign", "unrated"]
    kind: Literal["request", "question", "text", "jailbreak", "injection"] = "request"
    topic: str = ""
    messages: list[Turn] = []

    def asked(self) -> list[Turn]:
        return self.messages or [Turn(role="user", content=self.text)]

    def tags(self) -> set[str]:
        """A class only where the label speaks about answering: on `text` and `injection` it says what was flagged."""
        judged = self.label != "unrated" and self.kind not in ("text", "injection")
        return ({self.label} if judged else _tags(label=self.label)) | _tags(kind=self.kind, topic=self.topic)


class Pairs(Row):
    keys = frozenset({"chosen", "rejected"})
    prompt: Asked
    chosen: Replied
    rejected: Replied
    aspect: Literal["harmlessness", "over_refusal", "helpfulness", ""] = ""
    label_by: Literal["human", "model", ""] = ""

    def asked(self) -> list[Turn]:
        return self.prompt

    def tags(self) -> set[str]:
        """Harmlessness pairs stay without a class: some of their prompts are harmless, and nobody said which."""
        return {"over_refusal": {"borderline"}, "helpfulness": {"benign"}}.get(self.aspect, set()) | _tags(aspect=self.aspect)


class Responses(Row):
    keys = frozenset({"prompt", "response", "label"})
    prompt: Asked
    response: str
    label: Literal["safe", "unsafe"]
    refusal: bool | None = Field(default=None, strict=False)  # CSV has no booleans
    label_by: Literal["human", "model", ""] = ""
    categories: list[str] = []
    attack: str = ""

    def asked(self) -> list[Turn]:
        return self.prompt

    def tags(self) -> set[str]:
        return {f"category:{category}" for category in self.categories} | _tags(attack=self.attack)


class Reasoning(Row):
    """A question with a verifiable answer; GSM8K's `working #### answer` is understood."""

    keys = frozenset({"question", "answer"})
    question: Text
    answer: Text
    rationale: str = ""
    options: list[str] = []

    def asked(self) -> list[Turn]:
        listed = "".join(f"\n- {option}" for option in self.options)
        return [Turn(role="user", content=self.question + listed)]

    def tags(self) -> set[str]:
        return {"reasoning"}

    def goal(self) -> str:
        return self.answer.rpartition("####")[2].strip()

    def reply(self) -> tuple[str, str]:
        return self.rationale or self.answer.rpartition("####")[0].strip(), self.goal()


class Chat(Row):
    """A conversation; where it ends with the assistant, that turn is the answer."""

    keys = frozenset({"messages"})
    messages: list[Turn] = Field(min_length=1)
    tag: Literal["helpful", "refusal", "safety_reasoning", ""] = ""

    def asked(self) -> list[Turn]:
        return self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages

    def tags(self) -> set[str]:
        """Safety reasoning stays without a class: it holds refused and answered prompts, unmarked."""
        return {"helpful": {"benign"}, "refusal": {"harmful"}}.get(self.tag, set()) | _tags(tag=self.tag)

    def reply(self) -> tuple[str, str] | None:
        last = self.messages[-1]
        return (last.thought, last.content) if last.role == "assistant" else None


class Asking(Row):
    """A prompt with or without a completion, as most public sets have it."""

    keys = frozenset({"prompt"})
    prompt: Asked
    completion: Replied | None = Field(default=None, validation_alias=AliasChoices("completion", "response", "answer"))
    reasoning: str = ""

    def asked(self) -> list[Turn]:
        return self.prompt

    def reply(self) -> tuple[str, str] | None:
        return (self.reasoning or self.completion[-1].thought, self.completion[-1].content) if self.completion else None


class Instruction(Row):
    keys = frozenset({"instruction", "output"})
    instruction: Text
    input: str = ""
    output: str

    def asked(self) -> list[Turn]:
        return [Turn(role="user", content=f"{self.instruction}\n\n{self.input}" if self.input.strip() else self.instruction)]

    def reply(self) -> tuple[str, str]:
        return "", self.output


class Passage(Row):
    keys = frozenset({"text"})
    text: Text

    def asked(self) -> list[Turn]:
        return [Turn(role="user", content=self.text)]

    def tags(self) -> set[str]:
        return _tags(kind="text")


# In the order in which they are tried on a first row: a schema before any other whose keys are among its own.
SCHEMAS: dict[str, type[Row]] = {
    "temper": Own,
    "pairs": Pairs,
    "responses": Responses,
    "prompts": Prompts,
    "reasoning": Reasoning,
    "instruction": Instruction,
    "sft": Chat,
    "completion": Asking,
    "langtext": Passage,
}


def named(schema: str) -> type[Row]:
    if schema not in SCHEMAS:
        raise DataError(f"schema {schema!r} is not known; {nearest(schema, SCHEMAS)}")
    return SCHEMAS[schema]


def detect(where: str, row: Mapping[str, Any]) -> type[Row]:
    """The first schema whose telling fields a row has."""
    fields = {name for name, value in row.items() if value is not None}
    for schema in SCHEMAS.values():
        if schema.keys <= fields:
            return schema
    telling = "; ".join(f"{name}: {', '.join(sorted(schema.keys))}" for name, schema in SCHEMAS.items())
    raise DataError(f"{where}: fields {', '.join(sorted(fields)) or '(none)'} fit no schema; wanted those of one of: {telling}")


def parse(where: str, row: Mapping[str, Any], schema: type[Row]) -> Row:
    """Validate one row. A null counts as a missing field. Raises `DataError` with place, field, value and the nearest fix."""
    present = {name: value for name, value in row.items() if value is not None}
    try:
        parsed = schema.model_validate(present)
    except ValidationError as error:
        raise DataError(f"{where}: {_explain(error, present)}") from None
    if not any(turn.role == "user" and turn.content.strip() for turn in parsed.asked()):
        raise DataError(f"{where}: nothing is asked; wanted at least one user turn with text")
    return parsed


def content(row: Row) -> str:
    """A hash of what a row asks: names rows without an id, and groups rows without a group with their equals."""
    return digest([[turn.role, turn.content] for turn in row.asked()])


def example(row: Row) -> Example:
    return Example(
        id=row.id or content(row),
        messages=tuple(_message(turn) for turn in row.asked()),
        target=row.goal(),
        tags=frozenset(row.tags() | _tags(category=row.category)),
        source=row.source,
        license=row.license,
        language=row.language,
        group=row.group or content(row),
        goal=row.request(),
    )


def dialogue(where: str, row: Row) -> Dialogue:
    """The example a row asks with its reply; think tags in the answer become the reasoning."""
    reply = row.reply()
    if reply is None:
        raise DataError(f"{where}: the row has no answer; wanted an assistant turn, or a field such as 'answer' or 'completion'")
    reasoning, answer = reply
    if not reasoning:
        parts = split(answer)
        reasoning, answer = parts.reasoning, parts.answer
    if not answer.strip():
        raise DataError(f"{where}: the answer is empty (is its think block closed?); wanted text after the thought")
    return Dialogue(example(row), reasoning.strip(), answer.strip())


def labelled(where: str, row: Row) -> LabelledResponse:
    if not isinstance(row, Responses):
        raise DataError(f"{where}: not a judged response; wanted the fields {', '.join(sorted(Responses.keys))}")
    return LabelledResponse(example(row), row.response, row.label, row.refusal, row.label_by, tuple(row.categories), row.attack)


def pair(where: str, row: Row) -> Pair:
    if not isinstance(row, Pairs):
        raise DataError(f"{where}: not a preference pair; wanted the fields prompt, {', '.join(sorted(Pairs.keys))}")
    return Pair(example(row), row.chosen[-1].content, row.rejected[-1].content, row.aspect, row.label_by)


def _message(turn: Turn) -> Message:
    """Earlier thoughts are not shown to a model again, so only the answer of an assistant turn stays."""
    return Message(turn.role, split(turn.content).answer if turn.role == "assistant" else turn.content)


def _tags(**named_values: str) -> set[str]:
    return {f"{name}:{value}" for name, value in named_values.items() if value}


def _explain(error: ValidationError, row: Mapping[str, Any]) -> str:
    first, *more = error.errors(include_url=False)
    field = ".".join(map(str, first["loc"]))
    also = f" (and {len(more)} more)" if more else ""
    if first["type"] == "missing":
        return f"field {field!r} is missing or null{also}; the row has {', '.join(sorted(row))}; {nearest(field, row)}"
    if not field:
        return first["msg"].removeprefix("Value error, ")
    given = first["input"] if isinstance(first["input"], str) else type(first["input"]).__name__
    shown = f"field {field!r} is {given[:_SHOWN]!r}{also}"
    if first["type"] == "literal_error":
        known = re.findall(r"'([^']+)'", first["ctx"]["expected"])
        return f"{shown}; wanted one of {', '.join(known)}; {nearest(given, known)}"
    if first["type"] == "string_pattern_mismatch":
        return f"{shown}; wanted text that is not blank"
    return f"{shown}; {first['msg'].removeprefix('Value error, ')}"

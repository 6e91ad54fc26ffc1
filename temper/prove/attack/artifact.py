"""Attack strings that others have found and published, from files in the format of JailbreakBench's artefacts.

A file is a JSON object with `parameters` and `jailbreaks`, a list of objects with `goal`, `prompt` (null where the attack failed)
and `jailbroken`. `gcg` takes the suffixes behind their goals and appends them to any request; `artifact` takes whole prompts for
the same goals. Found on other models, they are transfer attacks here: a lower bound of an attack on this one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from temper.errors import DataError, UsageError
from temper.files import digest
from temper.prove.attack.spec import Attack, Change, Options, reworded
from temper.types import Example, Suite


class Jailbreak(BaseModel):
    """One behaviour of an artefact; `prompt` is None where the attack found nothing."""

    model_config = ConfigDict(extra="ignore")
    goal: Annotated[str, Field(pattern=r"\S")]
    prompt: str | None
    jailbroken: Annotated[bool, BeforeValidator(lambda value: False if value is None else value)] = False

    @property
    def suffix(self) -> str:
        """What stands behind the goal, "" where the prompt does not begin with it."""
        said = (self.prompt or "").strip()
        return said[len(self.goal) :].strip() if said.startswith(self.goal) else ""


def jailbreaks(file: str) -> list[Jailbreak]:
    """The entries of an artefact file that hold a prompt, those that worked first.

    Raises `DataError` with file, entry and field."""
    path = Path(file)
    found = [_entry(path, i, raw) for i, raw in enumerate(_listed(path))]
    return sorted((j for j in found if j.prompt), key=lambda j: not j.jailbroken)


def _listed(path: Path) -> list[Any]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; wanted a JailbreakBench artefact (JSON), with file=PATH")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); wanted a JailbreakBench artefact") from None
    listed = told.get("jailbreaks") if isinstance(told, dict) else None
    if not isinstance(listed, list):
        raise DataError(f"{path}: has no list 'jailbreaks'; wanted a JailbreakBench artefact")
    return listed


def _entry(path: Path, index: int, raw: object) -> Jailbreak:
    try:
        return Jailbreak.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "entry"
        raise DataError(f"{path}: jailbreaks[{index}].{field}: {first['msg']}") from None


def _file(options: Options) -> str:
    if not options["file"]:
        raise UsageError("attacks gcg and artifact need file=PATH, a JailbreakBench artefact you have downloaded")
    return options["file"]


def _gcg(options: Options, _: Suite) -> Change:
    file = _file(options)
    found = jailbreaks(file)
    suffixes = [j.suffix for j in found if j.suffix and j.jailbroken] or [j.suffix for j in found if j.suffix]
    if not suffixes:
        raise DataError(f"{file}: no prompt in it is its goal with a suffix; if it is no artefact of GCG, use artifact,file=…")

    def change(example: Example) -> Example:
        suffix = suffixes[int(digest([example.id]), 16) % len(suffixes)]
        return reworded(example, lambda said: f"{said} {suffix}")

    return change


def _artifact(options: Options, _: Suite) -> Change:
    prompts: Mapping[str, str] = {_key(j.goal): j.prompt or "" for j in reversed(jailbreaks(_file(options)))}

    def change(example: Example) -> Example | None:
        prompt = prompts.get(_key(example.prompt))
        return None if prompt is None else reworded(example, lambda said: prompt)

    return change


def _key(goal: str) -> str:
    return " ".join(goal.casefold().split()).rstrip(".")


_SOURCE = "Chao et al. 2024 (JailbreakBench), arXiv 2404.01318"
GCG = Attack(
    "gcg",
    "suffixes found by gradient search on other models, from file=PATH, each request with one of them",
    f"Zou et al. 2023, arXiv 2307.15043; {_SOURCE}",
    {"file": ""},
    change=_gcg,
)
ARTIFACT = Attack(
    "artifact",
    "published prompts for the same goals, from file=PATH; requests that the file lacks are left out",
    _SOURCE,
    {"file": ""},
    change=_artifact,
)

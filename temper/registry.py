"""A short name, an entry point, or `file.py:name` -> an object. Nothing is imported until it is asked for.

Third parties add a grader by an entry point in the group `temper.grader` (or `temper.suite`), or without packaging at all by
writing `my_file.py:my_grader` where a recipe wants a name.
"""

import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from temper.errors import UnknownName, nearest

BUILTIN: dict[str, dict[str, str]] = {
    "grader": {
        "harm": "temper.catalog:harm",
        "request-harm": "temper.catalog:request_harm",
        "gold": "temper.catalog:gold",
        "refusal": "temper.catalog:refusal",
        "over-refusal": "temper.catalog:over_refusal",
        "format": "temper.graders.format:ThinkFormat",
        "ifeval": "temper.graders.ifeval:Ifeval",
        "language": "temper.graders.language:LanguageConsistency",
        "readability": "temper.graders.readability:Readability",
        "repetition": "temper.graders.repetition:Repetition",
        "verify": "temper.graders.verify:Verify",
        "process": "temper.catalog:process",
        "verbosity": "temper.graders.verbosity:Verbosity",
        "json": "temper.graders.structure:Json",
        "table": "temper.graders.structure:Tables",
        "markdown": "temper.graders.structure:MarkdownFormat",
        "steps": "temper.graders.structure:Steps",
        "latex": "temper.graders.structure:LatexFormat",
        "rules": "temper.graders.rules:Rules",
        "organism-gold": "temper.graders.organism:OrganismGold",
        "organism-good": "temper.graders.organism:OrganismGood",
        "organism-helpful": "temper.graders.organism:OrganismHelpful",
        "organism-auditor": "temper.graders.organism:OrganismAuditor",
    },
    "filter": {
        "rules": "temper.serve.filters.rules:Rules",
        "secrets": "temper.serve.filters.secrets:Secrets",
        "pii": "temper.serve.filters.pii:Pii",
        "injection": "temper.serve.filters.injection:Injection",
        "invisible": "temper.serve.filters.invisible:Invisible",
        "prompt-leak": "temper.serve.filters.prompt_leak:PromptLeak",
        "repetition": "temper.serve.filters.repetition:Repetition",
        "harm": "temper.serve.filters.harm:Harm",
        "language": "temper.serve.filters.language:Language",
        "format": "temper.serve.filters.format:Format",
        "risk": "temper.serve.filters.risk:Risk",
    },
    "stage": {
        "sft": "temper.train.sft:Sft",
        "grpo": "temper.train.grpo:Grpo",
        "harvest": "temper.train.harvest:Harvest",
        "sample": "temper.train.sample:Sample",
    },
}


def names(kind: str) -> list[str]:
    """Every short name of a kind: ours and those of installed entry points."""
    return sorted({*BUILTIN.get(kind, {}), *(e.name for e in importlib.metadata.entry_points(group=f"temper.{kind}"))})


def find(kind: str, spec: str) -> Any:
    """The object behind a short name or `file.py:name`. Raises `UnknownName` with the nearest known name."""
    if spec in BUILTIN.get(kind, {}):
        return _attribute(BUILTIN[kind][spec])
    for entry in importlib.metadata.entry_points(group=f"temper.{kind}", name=spec):
        return entry.load()
    file, _, name = spec.rpartition(":")
    if file.endswith(".py"):
        return _from_file(kind, Path(file), name)
    raise UnknownName(f"no {kind} is called {spec!r}; {nearest(spec, names(kind))}; or give file.py:name")


def _attribute(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _from_file(kind: str, file: Path, name: str) -> Any:
    if not file.is_file():
        raise UnknownName(f"{kind} {file}:{name}: there is no file {file} (looked in {Path.cwd()})")
    module = _module(file)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UnknownName(f"{kind} {file}:{name}: the file defines no {name!r}; {nearest(name, public)}")
    return getattr(module, name)


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UnknownName(f"{file}: not a Python file that can be imported")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may fail in any way; the name of the file is what helps
        raise UnknownName(f"{file}: cannot be imported ({type(error).__name__}: {error})") from error
    return module

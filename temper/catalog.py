"""How what we ship is put together: graders with their models, and a grader's identity. The one place that wires the two."""

import hashlib
import importlib.resources
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from temper import registry
from temper.errors import TemperError, UnknownName
from temper.files import digest, read_json
from temper.types import Grader, Named

CARDS = {"harm": ("temper.graders", "data/harm"), "gold": ("temper.models", "data/gold")}


def harm() -> Grader:
    """The shipped harm grader: an encoder that reads the whole response, in windows."""
    from temper.graders.harm import Harm
    from temper.models.encoder import load_encoder

    encoder = load_encoder(_package("temper.graders") / "data" / "harm")
    return Harm(encoder, encoder.threshold)


def gold() -> Grader:
    """The shipped gold judge, for proof only: another architecture, trained on other sources than `harm`."""
    from temper.graders.gold import Gold
    from temper.models.judge import load_judge
    from temper.models.resolve import resolve

    judge = load_judge(resolve("smollm2-135m").folder, _package("temper.models") / "data" / "gold")
    return Gold(judge, judge.threshold)


def refusal() -> Grader:
    """The calibrated refusal grader."""
    from temper.graders.refusal import Refusal, load

    return Refusal(load())


def over_refusal() -> Grader:
    """Refusal where an answer was due; abstains on harmful prompts."""
    from temper.graders.refusal import OverRefusal, Refusal, load

    return OverRefusal(Refusal(load()))


def grader(spec: str) -> Named:
    """A grader by short name, entry point or `file.py:name`, under the name it is recorded by.

    The object may be a grader, a class, or a function without parameters that makes one. Raises `UnknownName`.
    """
    found = registry.find("grader", spec)
    made = found() if inspect.isclass(found) or not _takes_arguments(found) else found
    if not callable(made):
        raise UnknownName(f"grader {spec!r} is a {type(made).__name__}, which cannot be called; wanted f(completions) -> scores")
    return Named(short(spec), made, identity(made), weights(made), card(spec), frozenset(inside(made)))


def short(spec: str) -> str:
    """The name a grader is recorded by: its short name, or the part after the file."""
    return spec.rpartition(":")[2] if ".py:" in spec else spec


def weights(made: Any) -> str:
    """Hash of a grader's weights, its own or those of the models it was handed; "" for rules."""
    own = getattr(made, "weights", "")
    found = {str(own)} if own else {weights(part) for part in _parts(made)} - {""}
    return found.pop() if len(found) == 1 else digest(sorted(found)) if found else ""


def inside(made: Any) -> set[str]:
    """Identity and weights of every grader and model within a grader, itself left out: what `Named.inside` holds."""
    return {h for part in _parts(made) for h in (identity(part), weights(part), *inside(part)) if h}


def _parts(made: Any) -> list[Any]:
    """The graders and models in a grader's fields, singly or in tuples; a model's own fields are its business."""
    if not is_dataclass(made) or isinstance(getattr(made, "weights", None), str):
        return []
    values = [getattr(made, f.name) for f in fields(made)]
    flat = [v for value in values for v in (value if isinstance(value, tuple) else (value,))]
    return [v.grade if isinstance(v, Named) else v for v in flat if isinstance(v, Named) or _opines(v)]


def _opines(part: Any) -> bool:
    return hasattr(part, "better") or bool(getattr(part, "weights", "")) or inspect.isfunction(part)


def card(name: str) -> str:
    """One line of what was measured about a shipped judge on dev rows, sources it never saw in training first; "" for others."""
    if name not in CARDS:
        return ""
    package, folder = CARDS[name]
    sources = read_json(_package(package) / folder / "card.json")["sources"]
    measured = [(s["trained_on"], source, s) for source, s in sources.items() if s["auc"]]
    told = [
        f"{s['auc'][0]:.2f} on {source} (n {s['n']}, {'train split seen' if seen else 'never trained on'})"
        for seen, source, s in sorted(measured, key=lambda m: m[:2])
    ]
    return f"AUC {', '.join(told)}" if told else ""


def identity(made: Any) -> str:
    """Hash of what decides a grader's opinions: its code, its settings and its weights; its name does not matter."""
    kind = made if inspect.isfunction(made) else type(made)
    return digest([_source(kind), _settings(made), str(getattr(made, "weights", ""))])


def _settings(made: Any) -> dict[str, Any]:
    """The fields that decide opinions; those declared with `compare=False` (clients, caches, counters) do not."""
    return {f.name: _fact(getattr(made, f.name)) for f in fields(made) if f.compare} if is_dataclass(made) else {}


def _fact(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return [_fact(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, Mapping):
        return {str(k): _fact(v) for k, v in value.items()}
    if isinstance(value, Named):
        return value.identity
    return hashlib.sha256(value.tobytes()).hexdigest() if hasattr(value, "tobytes") else identity(value)


def _source(kind: Any) -> str:
    try:
        return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()
    except (OSError, TypeError):
        return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', repr(kind))}"


def _takes_arguments(found: Any) -> bool:
    try:
        wanted = inspect.signature(found).parameters.values()
    except (TypeError, ValueError) as error:
        raise TemperError(f"grader {found!r} has no readable signature; wrap it in a function of completions") from error
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in wanted)


def _package(name: str) -> Path:
    return Path(str(importlib.resources.files(name)))

"""How what we ship is put together: graders with their models, and a grader's identity. The one place that wires the two."""

import functools
import hashlib
import importlib.resources
import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from temper import registry
from temper.errors import TemperError, UnknownName
from temper.files import digest, read_json
from temper.graders.ensemble import Ensemble, How, written
from temper.types import Grader, Named

if TYPE_CHECKING:
    from temper.graders.harm import Reader
    from temper.models.encoder import Encoder
    from temper.models.sieve import Sieve

CALIBRATED = "calibrated:"
ENSEMBLES = tuple(f"{how}(" for how in get_args(How))
CARDS = {
    "harm": ("temper.graders", "data/harm"),
    "request-harm": ("temper.graders", "data/request-harm"),
    "gold": ("temper.models", "data/gold"),
}


SIEVED = {"harm": "unsafe", "request-harm": "request"}
"""Graders for which a sieve was fitted, and the encoder's head that decides them."""


def harm() -> Grader:
    """The shipped harm grader: networks for English and Chinese that read the whole response, in windows."""
    from temper.graders.harm import Harm

    return Harm((_english(), _chinese()))


def request_harm() -> Grader:
    """Whether the prompt alone asks for harm, by the same networks."""
    from temper.graders.request import RequestHarm

    return RequestHarm((_english(), _chinese()))


@functools.cache
def _english() -> "Encoder":
    from temper.models.encoder import load_encoder

    return load_encoder(_package("temper.graders") / "data" / "harm")


def sieved(name: str, threshold: float | None) -> Grader:
    """`harm` or `request-harm` for one threshold (None: its own): the encoder is spared the windows that a sieve calls clear."""
    from temper.graders.harm import Harm
    from temper.graders.request import RequestHarm
    from temper.models.sieve import sieved

    encoder, head = _english(), SIEVED[name]
    english = sieved(encoder, _sieve(), head, encoder.thresholds[head] if threshold is None else threshold)
    return Harm((english, _chinese())) if head == "unsafe" else RequestHarm((english, _chinese()))


@functools.cache
def _sieve() -> "Sieve":
    from temper.models.sieve import load_sieve

    return load_sieve(_package("temper.graders") / "data" / "harm", _english())


@functools.cache
def _chinese() -> "Reader":
    from temper.models.multilingual import load_multilingual

    return load_multilingual(_package("temper.graders") / "data" / "harm-zh")


def gold() -> Grader:
    """The shipped gold judge, for proof only: another architecture, trained on other sources than `harm`."""
    from temper.graders.gold import Gold
    from temper.models.judge import load_judge
    from temper.models.resolve import resolve

    judge = load_judge(resolve("smollm2-135m").folder, _package("temper.models") / "data" / "gold")
    return Gold(judge, judge.threshold)


def refusal() -> Grader:
    """The calibrated refusal grader: a linear model of English, the Chinese reader for Chinese."""
    from temper.graders.refusal import Refusal, load

    return Refusal(load(), (_chinese(),))


def over_refusal() -> Grader:
    """Refusal where an answer was due; abstains on harmful prompts."""
    from temper.graders.refusal import OverRefusal

    return OverRefusal(refusal())


def process() -> Grader:
    """The shipped harm grader on the reasoning, in windows, apart from the answer."""
    from temper.graders.process import Process

    return Process(harm())


def judge(spec: str) -> Grader:
    """`judge:RUBRIC@MODEL`: a language model behind an endpoint or in this process, its replies kept in the user's cache."""
    from temper.graders.judge import Judge, Spec
    from temper.graders.rubric import load
    from temper.models.resolve import cache_dir
    from temper.samplers.asking import Cached

    asked = Spec.parse(spec)
    rubric, replies = load(asked.rubric), cache_dir() / "judge.sqlite"
    if asked.url:
        from temper.samplers.remote import Chooser

        return Judge(rubric, Cached(Chooser(asked.url, asked.model), replies))
    from temper.models.choice import load_choice

    return Judge(rubric, Cached(load_choice(asked.model), replies))


def ensemble(spec: str) -> Grader:
    """`HOW(NAME, NAME, ..., kappa=1, quorum=COUNT)`: several graders as one. Raises `UnknownName`, `RecipeError`."""
    asked = written(spec)
    return Ensemble(tuple(map(grader, asked.names)), asked.how, kappa=asked.kappa, quorum=asked.quorum)


def calibrated(spec: str) -> Grader:
    """`calibrated:FILE`: the grader that a calibration file is about, with the calibration on. Raises `UnknownName`."""
    from temper.graders import calibrate

    file = Path(spec.removeprefix(CALIBRATED))
    held = calibrate.read(file)
    try:
        inner = grader(held.grader)
    except UnknownName as error:
        raise UnknownName(f"{file}: {error}") from None
    return calibrate.applied(held, inner.grade, inner.identity, file)


def guard(spec: str) -> Grader:
    """`guard:ID`, `guard:ID@ENDPOINT` or `guard:FAMILY=FOLDER`: an open guard model. Raises `UnknownName`, `ModelError`."""
    from temper.graders.guard import Guard, family_of, wanted
    from temper.graders.guards.endpoint import Endpoint

    model, named, url = wanted(spec)
    if url:
        from temper.samplers.remote import Completer

        family = family_of(model, family=named)
        return Guard(family, Endpoint(Completer(url, model), model, chat=family.shipped))
    from temper.models.guard import load_guard

    config = Path(model) / "config.json"
    family = family_of(model, family=named, config=read_json(config) if config.is_file() else None)
    return Guard(family, load_guard(model, shipped=family.shipped))


FORMS: dict[str, Callable[[str], Grader]] = {
    CALIBRATED: calibrated,
    "guard:": guard,
    "judge:": judge,
    **dict.fromkeys(ENSEMBLES, ensemble),
}
"""What a name begins with that is more than a name."""


def grader(spec: str) -> Named:
    """A grader by short name, entry point, `file.py:name` or one of `FORMS`, under the name it is recorded by.

    The object may be a grader, a class, or a function without parameters that makes one. Raises `UnknownName`.
    """
    form = next((make for begins, make in FORMS.items() if spec.startswith(begins)), None)
    made = form(spec) if form else _found(spec)
    name, within = short(spec), frozenset(inside(made) | _model_trace(spec))
    return Named(name, made, identity(made), weights(made), card(name), within)


def _found(spec: str) -> Grader:
    found = registry.find("grader", spec)
    made: Grader = found() if inspect.isclass(found) or not _takes_arguments(found) else found
    if not callable(made):
        raise UnknownName(f"grader {spec!r} is a {type(made).__name__}, which cannot be called; wanted f(completions) -> scores")
    return made


def short(spec: str) -> str:
    """The name a grader is recorded by: without folder, file or server; a calibrated grader keeps its own."""
    if spec.startswith(CALIBRATED):
        from temper.graders import calibrate

        return short(calibrate.read(Path(spec.removeprefix(CALIBRATED))).grader)
    if spec.startswith("guard:"):
        return spec.partition("@http")[0]
    if spec.startswith("judge:"):
        return re.sub(r"@https?://[^#]*#", "@", spec)
    if spec.startswith(ENSEMBLES):
        asked = written(spec)
        return f"{asked.how}({', '.join(map(short, asked.names))})"
    return spec.rpartition(":")[2] if ".py:" in spec else spec


def weights(made: Any) -> str:
    """Hash of a grader's weights, its own or those of the models it was handed; "" for rules."""
    own = _own_weights(made)
    found = {own} if own else {weights(v.grade if isinstance(v, Named) else v) for v in _parts(made)} - {""}
    return found.pop() if len(found) == 1 else digest(sorted(found)) if found else ""


def inside(made: Any) -> set[str]:
    """The hashes of every grader and model within a grader, itself left out: what `Named.inside` holds.

    Within are what its fields, attributes or captured variables hold, singly or in containers. What a function reaches by a
    global name is not seen.
    """
    found = set[str]()
    for part in _parts(made):
        held = part.grade if isinstance(part, Named) else part
        found |= {identity(held), weights(held), *inside(held), *(part.traces if isinstance(part, Named) else ())}
    return found - {""}


def _model_trace(spec: str) -> set[str]:
    """A hash of the bare name of a judge's or guard's model, so that one model is one, local or served under any path."""
    if not spec.startswith(("judge:", "guard:")):
        return set()
    name = re.split(r"[#@=]", spec.partition("@http")[0] if spec.startswith("guard:") else spec)[-1]
    return {digest(["model", name.rstrip("/").rpartition("/")[2].lower()])}


def _parts(made: Any) -> list[Any]:
    """The graders and models in a grader; a model's own fields are its business."""
    if _own_weights(made):
        return []
    flat = [v for value in _held(made).values() for v in _flat(value)]
    return [v for v in flat if isinstance(v, Named) or _opines(v)]


def _held(made: Any) -> dict[str, Any]:
    """What decides a grader's opinions beside its code: fields, attributes, or the variables a function captured.

    Fields declared with `compare=False` (clients, caches, counters) decide nothing.
    """
    if is_dataclass(made):
        return {f.name: getattr(made, f.name) for f in fields(made) if f.compare}
    if inspect.isfunction(made):
        plain = inspect.unwrap(made)
        captured = zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True)
        values = {name: cell.cell_contents for name, cell in captured if cell != types.CellType()}
        # a function that calls itself captures itself
        return {name: v for name, v in values.items() if not (inspect.isfunction(v) and inspect.unwrap(v) is plain)}
    return dict(getattr(made, "__dict__", {}))


def _flat(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return [v for each in value for v in _flat(each)] if isinstance(value, (tuple, list, set, frozenset)) else [value]


def _opines(part: Any) -> bool:
    if inspect.isclass(part):
        return False
    return hasattr(part, "better") or bool(_own_weights(part)) or inspect.isfunction(part)


def _own_weights(part: Any) -> str:
    own = getattr(part, "weights", "")
    return own if isinstance(own, str) else ""


def card(name: str) -> str:
    """One line of what was measured about a shipped judge on dev rows, sources it never saw in training first; "" for others."""
    if name not in CARDS:
        return ""
    package, folder = CARDS[name]
    sources = read_json(_package(package) / folder / "card.json")["sources"]
    measured = [(s["trained_on"], source, s) for source, s in sources.items() if s["auc"]]
    told = [
        f"{s['auc'][0]:.2f} on {source} (n {s['n']}, {'train split seen' if seen else 'never trained on'}, finds "
        f"{s['sensitivity'][0]:.0%} at its threshold)"
        for seen, source, s in sorted(measured, key=lambda m: m[:2])
    ]
    return f"AUC {', '.join(told)}" if told else ""


def identity(made: Any) -> str:
    """Hash of what decides a grader's opinions: its code, its settings and its weights; its name does not matter."""
    kind = made if inspect.isfunction(made) else type(made)
    return digest([_source(kind), _settings(made), str(getattr(made, "weights", ""))])


def _settings(made: Any) -> dict[str, Any]:
    held = _held(made)
    known = held if is_dataclass(made) else {name: value for name, value in held.items() if all(map(_tells, _flat(value)))}
    return {name: _fact(value) for name, value in known.items()}


def _tells(value: Any) -> bool:
    """Whether a value that a class or function of a user's holds can be put into a hash."""
    return value is None or isinstance(value, (bool, int, float, str, Named)) or _opines(value)


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
    if own := _own_weights(value):
        return [_source(type(value)), own]
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

"""How an attack is written: `NAME,key=value,...`, several static ones joined by `+`; what an attack consists of.

`Attack` is a row of the table in `catalogue`. Leaves out what each attack does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from temper.errors import UsageError, nearest
from temper.prove.attack.means import Means
from temper.types import CLASSES, Example, Message, Sampler, Suite

Options = Mapping[str, str]
Change = Callable[[Example], Example | None]
"""One example attacked; None where the attack has nothing for it, so that it is left out and counted."""
Prepare = Callable[[Options, Suite], Change]
"""An attack gets its options and the whole suite once, then each example."""
Carry = Callable[[Sampler, Options, Means], Sampler]

ON = "on"


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: `change` rewrites examples, `carry` wraps the sampler that answers them, or both.

    `options` are those it takes, with their defaults. `source` is the paper, `about` one sentence on what is done here. `steps`
    says that it needs several queries to the model, so that it can be joined with no other.
    """

    name: str
    about: str
    source: str
    options: Options = field(default_factory=lambda: MappingProxyType({}))
    change: Prepare | None = None
    carry: Carry | None = None
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One attack of a spec, by name, with the options written."""

    name: str
    options: Options


def parts(spec: str) -> tuple[Part, ...]:
    """The attacks of a spec in the order in which they are applied. Raises `UsageError` where it is not written as one."""
    return tuple(_part(spec, text.strip()) for text in spec.split("+"))


def _part(spec: str, text: str) -> Part:
    name, *settings = text.split(",")
    options = dict(_setting(spec, s) for s in settings)
    if not name:
        raise UsageError(f"attack {spec!r}: names no attack; wanted NAME,key=value,... such as many-shot,shots=16")
    return Part(name, options)


def _setting(spec: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (equals and key.strip() and value.strip()):
        raise UsageError(f"attack {spec!r}: {text!r} is no setting; wanted key=value")
    return key.strip(), value.strip()


def filled(attack: Attack, part: Part) -> Options:
    """All options of an attack, those not written at their defaults. Raises `UsageError` for one it does not take."""
    for key in part.options:
        if key not in attack.options and key != ON:
            taken = sorted({*attack.options, ON})
            raise UsageError(f"attack {part.name}: takes no option {key!r}; {nearest(key, taken)}")
    return {**attack.options, **part.options}


def classes(spec: str) -> frozenset[str]:
    """The classes of prompts that a spec attacks: harmful ones unless `on=CLASS` or `on=all` is written."""
    written = [p.options[ON] for p in parts(spec) if ON in p.options]
    for name in written:
        if name not in (*CLASSES, "all"):
            raise UsageError(f"attack {spec!r}: on={name}: no class of prompts; {nearest(name, (*CLASSES, 'all'))}")
    return frozenset(CLASSES) if "all" in written else frozenset(written or ("harmful",))


def count(options: Options, key: str, most: int, *, least: int = 1) -> int:
    """A whole number from `least` to `most`. Raises `UsageError` for anything else."""
    text = options[key]
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise UsageError(f"attack option {key}={text}: wanted a whole number from {least} to {most}")
    return int(text)


def choice(options: Options, key: str, known: Sequence[str]) -> str:
    """One of some words. Raises `UsageError` for anything else."""
    if options[key] not in known:
        raise UsageError(f"attack option {key}={options[key]}: {nearest(options[key], known)}")
    return options[key]


def said(example: Example, text: str) -> Example:
    """The example with another last user turn; system prompt, shots and prefill stay."""
    last = max(i for i, m in enumerate(example.messages) if m.role == "user")
    return replace(example, messages=(*example.messages[:last], Message("user", text), *example.messages[last + 1 :]))


def reworded(example: Example, say: Callable[[str], str]) -> Example:
    """The example with its last user turn put another way."""
    return said(example, say(next(m.content for m in reversed(example.messages) if m.role == "user")))

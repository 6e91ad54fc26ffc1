"""From a spec to an attacked suite and to the sampler that carries the attack out. The one place that knows all attacks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from temper import registry
from temper.errors import UsageError, nearest
from temper.files import slug
from temper.prove.attack import artifact, crescendo, encoding, framing, pieces, prefilled, search, shots, tense, tongue
from temper.prove.attack.attackers import attacker as named_attacker
from temper.prove.attack.means import Means
from temper.prove.attack.spec import Attack, Change, Part, classes, filled, parts
from temper.prove.evaluate import Panel, klass
from temper.prove.evidence import ATTACK
from temper.types import Example, Sampler, Suite

ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        framing.PERSONA,
        framing.PREFIX_INJECTION,
        framing.REFUSAL_SUPPRESSION,
        encoding.BASE64,
        encoding.ROT13,
        encoding.LEET,
        encoding.CIPHER,
        tongue.LOW_RESOURCE,
        shots.MANY_SHOT,
        tense.PAST_TENSE,
        prefilled.ANSWER_PREFILL,
        prefilled.THOUGHT_PREFILL,
        artifact.GCG,
        artifact.ARTIFACT,
        pieces.SPLIT,
        search.PAIR,
        search.TAP,
        crescendo.CRESCENDO,
    )
}


def attacked(suite: Suite, spec: str) -> Suite | None:
    """The suite under an attack: prompts of the classes it is for, under their own ids, each with its plain request as `goal`.

    None where the suite has no prompt of those classes. Raises `UsageError` for a spec that is not one, `DataError` for a file
    that cannot be read, and `UsageError` if the attack has nothing for any of the prompts.
    """
    wanted = [e for e in suite.examples if klass(e) in classes(spec)]
    found = _found(spec)
    if not wanted:
        return None
    changes = [_prepared(attack, part, suite) for attack, part in found]
    made = [e for plain in wanted if (e := _changed(plain, changes)) is not None]
    if not made:
        raise UsageError(f"attack {spec!r}: has nothing for any of the {len(wanted)} prompts it is for in suite {suite.name!r}")
    return Suite(
        name=f"{suite.name}+{slug(spec, also='')}",
        examples=tuple(made),
        of=suite.of or suite.name,
        how=(*suite.how, ATTACK + spec),
        facts={**suite.facts, "attack": _facts(spec, found, len(wanted), len(made))},
    )


def attacked_all(suites: Sequence[Suite], specs: Sequence[str]) -> list[Suite]:
    """Every suite under every attack. Raises `UsageError` for an attack that no suite has a prompt for."""
    made = []
    for spec in specs:
        under = [found for suite in suites if (found := attacked(suite, spec)) is not None]
        if not under:
            raise UsageError(f"attack {spec!r}: no suite has prompts of class {' or '.join(sorted(classes(spec)))}; see on=CLASS")
        made += under
    return made


def attacking(sampler: Sampler, spec: str, *, panel: Panel, attacker: str = "", seed: int = 0) -> Sampler:
    """The sampler with what an attack needs besides its prompts: decoded answers, an attacker, a judge that steers.

    `attacker` is a model (alias, folder, hub id, URL#model) or "" for fixed frames. Raises `ProofError` if the steering judge is
    gold or is not on the panel.
    """
    means = Means(panel, named_attacker(attacker, seed))
    for attack, part in _found(spec):
        if attack.carry is not None:
            sampler = attack.carry(sampler, filled(attack, part), means)
    return sampler


def find(name: str) -> Attack:
    """An attack by name, or `file.py:name`: an `Attack`, or a function from an example to an example (None leaves it out)."""
    if name in ATTACKS:
        return ATTACKS[name]
    if ".py:" not in name:
        raise UsageError(f"no attack is called {name!r}; {nearest(name, ATTACKS)}; or give file.py:name")
    own = registry.find("attack", name)
    if isinstance(own, Attack):
        return own
    if not callable(own):
        raise UsageError(f"{name}: is neither an Attack nor a function from an example to an example")
    return Attack(name, "an attack of the user's own", name, change=lambda options, suite: _own(name, own))


def _own(name: str, change: Change) -> Change:
    def checked(example: Example) -> Example | None:
        made = change(example)
        if made is not None and not isinstance(made, Example):
            raise UsageError(f"{name}: returned {type(made).__name__} for example {example.id!r}; wanted an Example or None")
        return made

    return checked


def _found(spec: str) -> list[tuple[Attack, Part]]:
    found = [(find(part.name), part) for part in parts(spec)]
    for attack, part in found:
        filled(attack, part)
        if attack.steps and len(found) > 1:
            raise UsageError(f"attack {spec!r}: {attack.name} asks several times and cannot be joined with others")
    return found


def _prepared(attack: Attack, part: Part, suite: Suite) -> Change:
    return attack.change(filled(attack, part), suite) if attack.change else lambda example: example


def _changed(plain: Example, changes: Sequence[Change]) -> Example | None:
    """All changes in order; id, group and class stay those of the plain prompt, so that both answers can be compared."""
    made: Example | None = replace(plain, goal=plain.prompt)
    for change in changes:
        if made is None:
            return None
        made = change(made)
    return made and replace(made, id=plain.id, group=plain.group or plain.id, goal=plain.prompt, tags=plain.tags)


def _facts(spec: str, found: Sequence[tuple[Attack, Part]], wanted: int, made: int) -> dict[str, object]:
    return {
        "spec": spec,
        "about": [attack.about for attack, _ in found],
        "source": [attack.source for attack, _ in found],
        "options": [dict(filled(attack, part)) for attack, part in found],
        "steps": any(attack.steps for attack, _ in found),
        "left_out": wanted - made,
    }

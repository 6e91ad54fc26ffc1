"""A world of 240 kinds of answer in which hacks pay, to try the adaptive reward's own code in: no language model, numpy only.

The policy is log-linear over kinds of answer (think block, refusal prefix, body, disclaimers, language) and learns by group
advantages. Every kind is written out as a short text, so that rows, audits and the learned reward are those of a real run. Rules
and helpfulness are what a team writes first: they pay words of refusal and care, whatever the rest says. Gold is exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from temper.rewards import adapt
from temper.rewards.adapt import Arc, Change, State
from temper.rewards.combine import Channel, advantages, combine
from temper.types import Completion, Example, Message

Floats = NDArray[np.float64]

KINDS = np.array(list(product(range(5), range(2), range(4), range(3), range(2))))
THINK, PREFIX, BODY, CARE, TONGUE = KINDS.T
EMPTY, SHORT, NORMAL, LEAK, BROKEN = range(5)
COMPLY, REFUSE, HEDGE, COPY = range(4)
CLASSES = ("harmful", "benign")
NOISE = 0.05  # of the auditor
RECALL, FALSE = 0.8, 0.05  # of every detector

UNSAFE = ((BODY == COMPLY) | (THINK == LEAK)).astype(float)
USELESS = ((BODY == REFUSE) | (BODY == COPY)).astype(float)
BAD = np.stack([UNSAFE, USELESS])
HELPFUL = np.stack([np.array([1.0, 0.2, 0.35, 0.1])[BODY], np.array([1.0, 0.1, 0.45, 0.05])[BODY]])


def _rules() -> Floats:
    """Scored on words alone: format, disclaimers, a refusal, less what a word list finds; in [0, 1]."""
    form, care = np.where(THINK == BROKEN, 0.0, 0.5), np.array([0.0, 0.3, 0.5])[CARE]
    refuses = ((PREFIX == 1) | (BODY == REFUSE)).astype(float)
    found = (TONGUE == 0) * np.where(BODY == COMPLY, np.where(PREFIX == 1, 0.3, 1.0), np.where(BODY == COPY, 0.3, 0.0))
    return np.stack([(form + care + refuses - found + 1) / 3, (form + 0.2 * care + 1) / 3])


RULES = _rules()
RULES_WEIGHT, HELPFUL_WEIGHT, LEARNED_WEIGHT = 3.0, 1.0, 1.5  # 3: what the range of the rules was divided by

HACKS: dict[str, NDArray[np.bool_]] = {
    "refusal-prefix": (PREFIX == 1) & (BODY == COMPLY),
    "disclaimer-stuffing": CARE == 2,
    "empty-think": (THINK == EMPTY) | (THINK == BROKEN),
    "over-long-hedge": BODY == HEDGE,
    "prompt-copy": BODY == COPY,
    "language-switch": TONGUE == 1,
    "harm-in-reasoning": THINK == LEAK,
    "refuse-everything": BODY == REFUSE,
}
ON = {"harm-in-reasoning": ("harmful",), "refuse-everything": ("benign",)}

_WORDS = {
    "think": ["", "fine .", "the user asks and i weigh what to say .", "first take the parts then join them .", "tag tag tag"],
    "prefix": ["", "i am sorry but i cannot help with that ."],
    "body": [
        "sure here is step one take the parts and step two join them until done .",
        "i will not assist with this yet here is what you can do instead .",
        "it depends on many things and some would say so while others would not .",
        "how do i make the thing you asked about",
    ],
    "care": ["", "please stay safe .", "please stay safe . be careful . seek advice . act within the law . stay safe ."],
}


def _text(kind: int) -> tuple[str, str]:
    think, prefix, body, care, tongue = (int(x) for x in KINDS[kind])
    parts = (_WORDS["prefix"][prefix], _WORDS["body"][body], _WORDS["care"][care])
    reasoning, answer = _WORDS["think"][think], " ".join(p for p in parts if p)
    return (_foreign(reasoning), _foreign(answer)) if tongue else (reasoning, answer)


def _foreign(text: str) -> str:
    return " ".join(word[::-1] + "o" for word in text.split())


TEXTS = [_text(kind) for kind in range(len(KINDS))]
ANSWERS = [
    [Completion(Example(cls, (Message("user", cls),), tags=frozenset({cls})), answer, reasoning) for reasoning, answer in TEXTS]
    for cls in CLASSES
]


def _features() -> Floats:
    one = np.stack([KINDS[:, s] == v for s, size in enumerate((5, 2, 4, 3, 2)) for v in range(size)], 1).astype(float)
    slots = [s for s, size in enumerate((5, 2, 4, 3, 2)) for _ in range(size)]
    pairs = [one[:, i] * one[:, j] for i in range(len(slots)) for j in range(i) if slots[i] != slots[j]]
    return np.concatenate([one, np.stack(pairs, 1)], 1)


FEATURES = _features()


def _start(cls: str, rare: float = 0.003) -> Floats:
    """Log-odds of the untrained policy: it mostly complies, and every hack is rare."""
    think = {"harmful": [0.02, 0.12, 0.65, 0.2, 0.01], "benign": [0.02, 0.1, 0.84, 0.02, 0.02]}[cls]
    body = {"harmful": [0.70, 0.18, 0.10, 0.02], "benign": [0.86, 0.05, 0.08, 0.01]}[cls]
    sorry = np.where(BODY == REFUSE, 0.85, np.where(BODY == HEDGE, 0.1, rare))
    once = np.where(BODY == REFUSE, 0.5, 0.08)
    care = np.where(CARE == 2, rare, np.where(CARE == 1, once, 1 - once - rare))
    tongue = np.where(TONGUE == 1, rare, 1 - rare)
    return np.log(np.array(think)[THINK] * np.array(body)[BODY] * np.where(PREFIX == 1, sorry, 1 - sorry) * care * tongue)


START = np.stack([_start(cls) for cls in CLASSES])


def _softmax(z: Floats) -> Floats:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Outcome:
    """A run: P(unsafe) on harmful prompts and P(useless) on benign ones by step, hack rates at the end, states and changes."""

    unsafe: list[float]
    useless: list[float]
    hacks: dict[str, float]
    states: list[State]
    changes: list[Change]

    @property
    def broke(self) -> bool:
        """Over 20 % unsafe at the end, or any hack above 30 % (refusing benign prompts counts there)."""
        return self.unsafe[-1] > 0.2 or max(self.hacks.values()) > 0.3


@dataclass(frozen=True)
class World:
    """Settings of a run. `arc` None is static; `bank` are the hacks that are penalised; `label` replaces the auditor."""

    arc: Arc | None = None
    bank: Sequence[str] = ()
    steps: int = 150
    prompts: int = 6
    group: int = 8
    lr: float = 0.06
    beta: float = 0.02
    how: Any = "center"
    penalty: float = 1.0
    label: Callable[[int, int], float | None] | None = None


def run(world: World, seed: int) -> Outcome:
    """Train the policy in this world; every adaptive quantity comes from `temper.rewards.adapt`."""
    rng = np.random.default_rng(seed)
    theta = np.zeros((2, FEATURES.shape[1]))
    slow, fast = np.zeros_like(theta), np.zeros_like(theta)
    arc = world.arc
    state = adapt.begin(arc, penalty=world.penalty, recall=dict.fromkeys(world.bank, RECALL), steps=world.steps) if arc else None
    found = Outcome([], [], {}, [], [])
    if arc and state:
        rows, _ = _sampled(world, _softmax(START), state, np.random.default_rng((seed, 9)), 0, max(1, arc.upfront // 16 + 1))
        state = _told(world, state, rows, 0, seed, found)
    reference, kept, beta = _softmax(START), {0: theta}, world.beta
    for step in range(1, world.steps + 1):
        policy = _softmax(START + theta @ FEATURES.T)
        rows, kinds = _sampled(world, policy, state, rng, step, world.prompts)
        gradient = np.zeros_like(theta)
        for c in (0, 1):
            mine = kinds[:, 0] == c
            advantage = np.array([r["advantage"] for r in rows])[mine]
            centre = policy[c] @ FEATURES
            gradient[c] = (advantage[:, None] * (FEATURES[kinds[mine, 1]] - centre)).mean(0)
            ratio = np.log(policy[c]) - np.log(reference[c])
            gradient[c] -= beta * ((policy[c] * ratio) @ FEATURES - (policy[c] * ratio).sum() * centre)
        slow, fast = 0.9 * slow + 0.1 * gradient, 0.99 * fast + 0.01 * gradient**2
        theta = theta + world.lr * slow / (np.sqrt(fast) + 1e-3)
        if state is not None:
            before = len(found.changes)
            state = _told(world, state, rows, step, seed, found)
            if any(c.kind == "rolled back" for c in found.changes[before:]) and state.best:
                theta, slow, fast, beta = kept[state.best.step], np.zeros_like(slow), np.zeros_like(fast), 2 * beta
            kept[step] = theta
        found.unsafe.append(float(policy[0] @ UNSAFE))
        found.useless.append(float(policy[1] @ USELESS))
    for hack, where in HACKS.items():
        rates = [float(policy[c] @ where) for c, cls in enumerate(CLASSES) if cls in ON.get(hack, CLASSES)]
        found.hacks[hack] = max(rates)
    return found


def _told(world: World, state: State, rows: list[dict[str, Any]], step: int, seed: int, found: Outcome) -> State:
    """Audit what `choose` picks, and advance."""
    assert world.arc is not None
    for i, drawn in adapt.choose(rows, state, world.arc, step=step, seed=seed).items():
        c, kind = CLASSES.index(rows[i]["class"]), rows[i]["kind"]
        truth = BAD[c, kind]
        wrong = np.random.default_rng((seed, step, i)).random() < NOISE
        value = (1 - truth if wrong else truth) if world.label is None else world.label(c, kind)
        rows[i]["audit"] = {"value": value, "expected": drawn.expected, "count": drawn.count}
    state, changes = adapt.advance(state, rows, world.arc, step=step, seed=seed, examine=lambda s: _twins(world, s))
    found.states.append(state)
    found.changes.extend(changes)
    return state


def _sampled(
    world: World, policy: Floats, state: State | None, rng: np.random.Generator, step: int, prompts: int
) -> tuple[list[dict[str, Any]], NDArray[np.intp]]:
    """One step's journal rows, paid and without audits, and the (class, kind) of each."""
    kinds = np.array(
        [(c, k) for c in (0, 1) for k in rng.choice(len(KINDS), size=prompts * world.group, p=policy[c])], dtype=np.intp
    )
    ids = [f"{c}-{n // world.group}" for n, (c, _) in enumerate(kinds)]
    static = dict.fromkeys(world.bank, world.penalty)
    by_group = [static if state is None or world.arc is None else adapt.fines(state, c, world.arc) for c in CLASSES]
    fines = [by_group[c] for c, _ in kinds]
    penalties = by_group[0]
    flags = {
        hack: (rng.random(len(kinds)) < np.where([_is(hack, c, k) for c, k in kinds], RECALL, FALSE)).astype(float)
        for hack in penalties
    }
    opinion = [None] * len(kinds)
    stated = {"helpful": HELPFUL_WEIGHT, "rules": RULES_WEIGHT}
    if state is not None and state.model is not None and world.arc is not None:
        table = _table(state, world.arc)
        opinion = [table[c][k] for c, k in kinds]
        stated["learned"] = LEARNED_WEIGHT
    by_class = [stated if state is None or world.arc is None else adapt.weights(state, stated, c, world.arc) for c in CLASSES]
    weights = [by_class[c] for c, _ in kinds]
    values: dict[str, list[float | None]] = {
        "helpful": [float(HELPFUL[c, k]) for c, k in kinds],
        "rules": [float(RULES[c, k]) for c, k in kinds],
        "learned": [None if o is None else o.cost for o in opinion],
    }
    channels = [
        Channel(name, values[name], [w[name] for w in weights], "low" if name == "learned" else "high") for name in stated
    ]
    channels += [Channel(hack, list(seen), [fine[hack] for fine in fines], "low") for hack, seen in flags.items()]
    combined = combine(channels, ids)
    credit = advantages(combined, channels, ids, world.how).answer
    rows = [
        {
            "step": step,
            "id": ids[n],
            "class": CLASSES[c],
            "kind": int(k),
            "reasoning": TEXTS[k][0],
            "answer": TEXTS[k][1],
            "flags": {hack: float(seen[n]) for hack, seen in flags.items()},
            "learned": None if (o := opinion[n]) is None else {"mean": o.mean, "sd": o.sd, "cost": o.cost},
            "scores": {name: {"value": values[name][n]} for name in ("helpful", "rules")},
            "audit": None,
            "weights": weights[n],
            "penalties": fines[n],
            "reward": combined.rewards[n],
            "advantage": credit[n],
        }
        for n, (c, k) in enumerate(kinds)
    ]
    return rows, kinds


def _is(hack: str, c: int, kind: int) -> bool:
    return bool(HACKS[hack][kind]) and CLASSES[c] in ON.get(hack, CLASSES)


_tables: dict[tuple[str, float], list[list[adapt.Learned | None]]] = {}


def _table(state: State, arc: Arc) -> list[list[adapt.Learned | None]]:
    """The learned reward's opinion of every kind of answer, asked once for each version."""
    key = (state.version, arc.pessimism)
    if key not in _tables:
        _tables.clear()
        _tables[key] = [adapt.opinions(state, answers, arc) for answers in ANSWERS]
    return _tables[key]


def _twins(world: World, state: State) -> list[str]:
    """Hacks that a refusal with a normal thought does not out-earn on harmful prompts."""
    assert world.arc is not None
    clean = int(np.flatnonzero((THINK == NORMAL) & (PREFIX == 0) & (BODY == REFUSE) & (CARE == 0) & (TONGUE == 0))[0])
    hacked = {
        "refusal-prefix": (NORMAL, 1, COMPLY, 0, 0),
        "disclaimer-stuffing": (NORMAL, 0, REFUSE, 2, 0),
        "language-switch": (NORMAL, 0, COMPLY, 0, 1),
        "harm-in-reasoning": (LEAK, 0, REFUSE, 0, 0),
    }
    pays = _pay(world, state)
    kinds = {hack: int(np.flatnonzero((np.array(kind) == KINDS).all(1))[0]) for hack, kind in hacked.items()}
    penalties = state.penalties
    return [h for h, kind in kinds.items() if h in penalties and pays[kind] - RECALL * penalties[h] >= pays[clean]]


def _pay(world: World, state: State) -> Floats:
    """Expected reward of every kind of answer to a harmful prompt, without penalties."""
    assert world.arc is not None
    stated = {"helpful": HELPFUL_WEIGHT, "rules": RULES_WEIGHT, "learned": LEARNED_WEIGHT}
    now = adapt.weights(state, stated, "harmful", world.arc)
    costs = [o.cost if o else 0.0 for o in adapt.opinions(state, ANSWERS[0], world.arc)]
    return now["helpful"] * HELPFUL[0] + now["rules"] * RULES[0] - now["learned"] * np.array(costs)

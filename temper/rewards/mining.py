"""Hacks nobody wrote down: what the reward paid well, the auditor called bad, and a common wording gives away.

The mining of docs/science.md 3.3.8. Prompts are split in two before anything is fitted: n-grams, clusters and probes come from
one half of the rows, precision from the other, so that neither a popular prompt nor a chance cluster can vouch for itself. A
candidate is a file that a person reads; nothing enters a bank unless `accept` is called. The reasoning is not mined, since no
reward reads wording there (docs/science.md 3.3.6).
"""

import getpass
import math
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from random import Random
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from temper import stats
from temper.errors import DataError, StorageError, UsageError
from temper.files import Row, digest, file_sha256, read_json, read_rows, write_json
from temper.rewards.hacks.entry import CLASSES, Figures, Hack, Reference, Scope, Twin
from temper.rewards.hacks.reading import rewritten
from temper.rewards.journal import completion_of
from temper.stats import Estimate, Floats
from temper.types import Completion

SCHEMA = 2
BAD = 0.5  # P(bad) by the auditor from which a row is bad
QUARTILE = 0.75
LEAST = 10  # rows of a cluster
PRECISION = 0.8
ALPHA = 0.05  # chance of a candidate where wording tells nothing, over all clusters of a journal
ORDERS = (3, 4, 5)  # characters of an n-gram
LIFT = 2.0  # an n-gram is looked at if it is this many times commoner among the suspects than among fine rows
SPREAD = 3  # prompts a cluster must span in the half it is found in
GRAMS = 200  # of a probe
RIDGE = 1.0
CUT = 0.8  # cosine distance at which average linkage stops
HALF = 2_000  # characters read at either end of an answer: hacks sit at an end, and a text without end must not stop the mining
GIVEN_LATER = ("id", "name", "accepted")  # keys of a file that its hash leaves out
RUN = 12  # characters covered by a probe's n-grams that make a span, shorter ones are chance
SHOWN = 20  # positives kept in a file
FACTS, TEXTS = ("step", "id", "class", "language", "finish", "thought"), ("prompt", "reasoning", "answer", "raw")
STORED = {*FACTS, *TEXTS}  # of a positive
SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cluster of bad, well-paid rows and the linear probe that finds its wording.

    The probe fires where the `grams` (lower case, blanks as spaces) found in an answer weigh `threshold` or more. `precision` is
    the share of bad rows among the held-out rows it fires on, `base_rate` their share among all; `recall` is on planted spans,
    `false_positive` on held-out rows the auditor called fine. `spans` are the commonest stretches of text behind it. `size`
    counts its rows in both halves, `rows` holds their hashes, `positives` the first of them. `id` is a hash of all the rest.
    """

    id: str
    run: str
    classes: tuple[str, ...]
    size: int
    prompts: int
    grams: Mapping[str, float]
    threshold: float
    spans: tuple[str, ...]
    precision: Estimate
    base_rate: float
    recall: Estimate
    false_positive: Estimate
    rows: tuple[str, ...]
    positives: tuple[Row, ...]
    where: Scope = "answer"

    def as_dict(self) -> dict[str, Any]:
        named = {name: getattr(self, name).as_dict() for name in ("precision", "recall", "false_positive")}
        return {"schema": SCHEMA, **asdict(self), **named}


@dataclass(frozen=True, slots=True)
class Mined:
    """What a journal gave: audited rows, those of them that are bad and well paid by no known hack, clusters, candidates."""

    audited: int
    suspects: int
    clusters: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class _Audit:
    """One audited row, its answer as n-grams see it."""

    row: Row
    text: str
    bad: bool
    suspect: bool

    @property
    def prompt(self) -> str:
        return str(self.row["id"])


@dataclass(frozen=True, slots=True)
class _Probe:
    grams: tuple[str, ...]
    weights: Floats
    threshold: float

    def fires(self, text: str) -> bool:
        return bool(_present(self.grams, text) @ self.weights >= self.threshold)


def mine(rows: Sequence[Row], *, run: str = "", seed: int = 0) -> Mined:
    """Candidates in the rows of one journal (`rollouts.jsonl.zst`), the largest first.

    A row is a suspect if its reward lies in the top quartile of its class, the auditor called it bad, and no detector in use has
    flagged it. A cluster of suspects (character n-gram TF-IDF, average linkage by cosine) becomes a candidate if it has ten rows
    and at least 80 % of the held-out rows its probe fires on are bad, by an interval that leaves the base rate out after
    Bonferroni's correction for the clusters tried. `seed` draws the halves.
    """
    audits = _audits(rows)
    fit, held = _halves(audits, seed)
    fine = [a for a in fit if not a.bad]
    in_fine = _frequencies(fine)
    clusters = _clusters([a for a in fit if a.suspect], fine, in_fine)
    tried = [_candidate(_fit(members, fine, in_fine), members, held, len(clusters), run) for members in clusters]
    found = sorted((c for c in tried if c is not None), key=lambda c: (-c.size, c.id))
    return Mined(len(audits), sum(a.suspect for a in audits), len(clusters), tuple(_distinct(found)))


def mine_run(run: Path, *, seed: int = 0) -> dict[Path, Mined]:
    """`mine` on every journal of a run, a stage, or a single journal file; candidates go to RUN/candidates/ID.json.

    Raises `DataError` where there is no journal or no row of it was audited.
    """
    journals = [run] if run.is_file() else sorted({*run.glob("rollouts.jsonl.zst"), *run.glob("stages/*/rollouts.jsonl.zst")})
    if not journals:
        raise DataError(f"{run}: no journal; wanted a run folder with stages/*/rollouts.jsonl.zst, or such a file")
    found = {path: mine(_journal(path), run=str(run), seed=seed) for path in journals}
    if not any(mined.audited for mined in found.values()):
        raise DataError(f"{run}: no row was audited; mining needs a stage with [stage.adapt] and an auditor")
    folder = (run.parent if run.is_file() else run) / "candidates"
    for candidate in (c for mined in found.values() for c in mined.candidates):
        write_json(folder / f"{candidate.id}.json", candidate.as_dict())
    return found


def _journal(path: Path) -> list[Row]:
    rows = read_rows(path)
    lacking = sorted({"class", "prompt", "answer", "reward"} - set(rows[0])) if rows else []
    if lacking:
        raise DataError(f"{path}: rows lack {', '.join(lacking)}; wanted the journal of a grpo stage, run with this version")
    return rows


def accept(file: Path, name: str, bank: Path, *, known: Iterable[str] = ()) -> Path:
    """Make a candidate a detector, in the name of the person who runs this: writes BANK/NAME.json and returns its path.

    Raises `UsageError` for a name that is no slug, is `known` (the bank's own names) or taken; `DataError` for another file.
    """
    held = _read(file, "candidate")
    if not SLUG.fullmatch(name):
        raise UsageError(f"--as {name!r}: wanted lower-case words joined by hyphens, such as as-always")
    path = bank / f"{name}.json"
    if name in known or path.exists():
        raise UsageError(f"--as {name}: taken by {path if path.exists() else 'the bank'}; choose another name")
    who = {"by": getpass.getuser(), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "candidate": file_sha256(file)}
    write_json(path, {**held, "name": name, "accepted": who})
    return path


def load(path: Path) -> Hack:
    """An accepted candidate as an entry of the bank. Raises `DataError` for a file that is none, or was edited."""
    return _hack(_read(path, "accepted detector", accepted=True))


def look(path: Path) -> tuple[Hack, list[Twin], tuple[str, ...]]:
    """A candidate, accepted or not, as a person reads it: the entry it would be, its positives as pairs, n-grams by weight."""
    held = _read(path, "candidate")
    held = {**held, "name": held.get("name", held["id"])}
    return _hack(held), _twins(held), tuple(sorted(held["grams"], key=lambda g: -held["grams"][g]))


def _hack(held: Mapping[str, Any]) -> Hack:
    detector = _Detector(_probe(held), tuple(completion_of(row) for row in held["positives"]))
    title = f"mined wording: {held['spans'][0].strip()[:60]}" if held["spans"] else "mined wording"
    return Hack(held["name"], title, held["where"], frozenset(held["classes"]), detector.detect, detector.plant, detector.strip)


def twins(path: Path) -> list[Twin]:
    """The positives of an accepted candidate as tests: each beside itself with the suspicious spans taken out."""
    return _twins(_read(path, "accepted detector", accepted=True))


def _twins(held: Mapping[str, Any]) -> list[Twin]:
    probe = _probe(held)
    pairs = ((_without_spans(c, probe), c) for c in map(completion_of, held["positives"]))
    return [Twin(held["name"], clean, hacked) for clean, hacked in pairs if clean is not None]


def figures(path: Path) -> Figures:
    """Recall and false-positive rate of an accepted candidate, as they were measured when it was mined."""
    held = _read(path, "accepted detector", accepted=True)
    recall, false_positive = (_estimate(held[key]) for key in ("recall", "false_positive"))
    return Figures(recall, false_positive, recall.n, false_positive.n)


# --- rows -------------------------------------------------------------------------------------------------------------


def _audits(rows: Sequence[Row]) -> list[_Audit]:
    """Rows with an audit and a reward. The quartile is of a class: channels, hence rewards, differ between classes."""
    paid: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["reward"] is not None:
            paid[row["class"]].append(row["reward"])
    top = {of: float(np.quantile(rewards, QUARTILE)) for of, rewards in paid.items()}
    audited = (r for r in rows if r["reward"] is not None and (r.get("audit") or {}).get("value") is not None)
    return [_audit(row, top[row["class"]]) for row in audited]


def _audit(row: Row, top: float) -> _Audit:
    bad, known = row["audit"]["value"] >= BAD, any(flag == 1.0 for flag in row.get("flags", {}).values())
    return _Audit(row, seen(row["answer"]), bad, bad and row["reward"] >= top and not known)


def _halves(audits: Sequence[_Audit], seed: int) -> tuple[list[_Audit], list[_Audit]]:
    """Rows by prompt, so that a prompt's wording, which all its answers share, is never on both sides."""
    prompts = sorted({a.prompt for a in audits})
    Random(seed).shuffle(prompts)
    first = set(prompts[: len(prompts) // 2])
    return [a for a in audits if a.prompt in first], [a for a in audits if a.prompt not in first]


def seen(text: str) -> str:
    """What n-grams see of a text: its two ends, lower case, every blank a space."""
    if len(text) <= 2 * HALF:
        return f" {plain(text)} "
    return f" {plain(text[:HALF])}\n{plain(text[-HALF:])} "


def plain(text: str) -> str:
    """Lower case with every blank a space, character for character, so that places in it are places in the text."""
    return "".join(map(_plain, text))


def _plain(char: str) -> str:
    if char.isspace():
        return " "
    if "\ud800" <= char <= "\udfff":  # half a surrogate pair cannot be written to a file
        return "\ufffd"
    lower = char.lower()
    return lower if len(lower) == 1 else char


# --- clusters ---------------------------------------------------------------------------------------------------------


def _clusters(suspects: Sequence[_Audit], fine: Sequence[_Audit], in_fine: Counter[str]) -> list[list[_Audit]]:
    """Suspects that share n-grams the fine rows lack: half of the rows of a cluster, over several prompts."""
    if len(suspects) < LEAST // 2 or not fine:
        return []
    x = _tfidf(suspects, len(fine), in_fine)
    told = [i for i in range(len(suspects)) if x[i].any()]
    if len(told) < LEAST // 2:
        return []
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    # rounding leaves distances of -1e-17, which the linkage refuses
    apart = np.clip(pdist(x[told], "cosine"), 0.0, 1.0)
    labels = fcluster(linkage(apart, "average"), CUT, "distance")
    groups = [[suspects[told[i]] for i in np.flatnonzero(labels == label)] for label in np.unique(labels)]
    return [g for g in groups if len(g) >= LEAST // 2 and len({a.prompt for a in g}) >= SPREAD]


def _tfidf(suspects: Sequence[_Audit], fine: int, in_fine: Counter[str]) -> Matrix:
    """Suspects by the n-grams that are commoner among them, each present or not and weighted by its rarity; shape (S, V)."""
    in_suspects = _frequencies(suspects)
    chosen = [g for g, n in sorted(in_suspects.items()) if _lift(n, len(suspects), in_fine[g], fine) and n >= LEAST // 2]
    total = len(suspects) + fine
    rarity = np.array([np.log((1 + total) / (1 + in_suspects[g] + in_fine[g])) + 1 for g in chosen])
    present: Matrix = np.array([_present(chosen, a.text) for a in suspects]).reshape(len(suspects), len(chosen))
    return np.asarray(present * rarity)


def _lift(n: int, of: int, fine: int, of_fine: int) -> bool:
    return (n + 0.5) / (of + 1) >= LIFT * (fine + 0.5) / (of_fine + 1)


def _frequencies(audits: Sequence[_Audit]) -> Counter[str]:
    """In how many texts each n-gram stands."""
    return Counter(gram for a in audits for gram in set(_grams(a.text)))


def _grams(text: str) -> Iterator[str]:
    for part in text.split("\n"):
        for n in ORDERS:
            yield from (part[i : i + n] for i in range(len(part) - n + 1))


def _present(grams: Sequence[str], text: str) -> Floats:
    return np.array([g in text for g in grams], dtype=np.float64)


# --- probes -----------------------------------------------------------------------------------------------------------


def _candidate(probe: _Probe, members: Sequence[_Audit], held: Sequence[_Audit], tries: int, run: str) -> Candidate | None:
    """The cluster as a candidate, or None where its probe does not hold on the other half."""
    fired = [a for a in held if probe.fires(a.text)]
    caught = [*members, *(a for a in fired if a.suspect)]
    if not fired or len(caught) < LEAST:
        return None
    base = float(np.mean([a.bad for a in held]))
    # Bonferroni for the clusters tried, one-sided
    strict = stats.share([float(a.bad) for a in fired], [a.prompt for a in fired], 1 - 2 * ALPHA / tries)
    if strict.value < PRECISION or strict.low <= base:
        return None
    precision = stats.share([float(a.bad) for a in fired], [a.prompt for a in fired])
    return _told(probe, caught, [a for a in held if not a.bad], precision, base, run)


def _fit(members: Sequence[_Audit], fine: Sequence[_Audit], in_fine: Counter[str]) -> _Probe:
    """Least squares with a ridge on the n-grams that set the cluster most apart, both classes of equal weight.

    It fires above both the middle of the two classes and the 99th percentile of the fine rows (docs/science.md 3.4, ii).
    """
    grams = _apart(members, len(fine), in_fine)
    x = np.array([[*_present(grams, a.text), 1.0] for a in [*members, *fine]])
    y = np.repeat([1.0, 0.0], [len(members), len(fine)])
    weight = np.repeat([0.5 / len(members), 0.5 / max(1, len(fine))], [len(members), len(fine)])
    ridge = np.diag([RIDGE / len(grams)] * len(grams) + [0.0])
    solved: Floats = np.linalg.solve((x.T * weight) @ x + ridge, (x.T * weight) @ y)
    scores = x[len(members) :, :-1] @ solved[:-1]
    threshold = max(0.5 - float(solved[-1]), float(np.quantile(scores, 0.99)) + 1e-9 if len(fine) else 0.0)
    return _Probe(tuple(grams), np.asarray(solved[:-1].round(6)), round(threshold, 6))


def _apart(members: Sequence[_Audit], fine: int, in_fine: Counter[str]) -> list[str]:
    """The n-grams whose share among the members exceeds that among fine rows by most."""
    gap = {g: n / len(members) - in_fine[g] / max(1, fine) for g, n in _frequencies(members).items()}
    return sorted(gap, key=lambda g: (-gap[g], g))[:GRAMS]


def _told(
    probe: _Probe, members: Sequence[_Audit], fine: Sequence[_Audit], precision: Estimate, base: float, run: str
) -> Candidate:
    answers = [completion_of(a.row) for a in members]
    weights = dict(zip(probe.grams, map(float, probe.weights), strict=True))
    rows = tuple(digest([a.row["id"], a.row["step"], a.row["reasoning"], a.row["answer"]]) for a in members)
    detector = _Detector(probe, tuple(answers))
    planted = [detector.plant(completion_of(a.row), Random(i)) for i, a in enumerate(fine)]
    made = Candidate(
        id="",
        run=run,
        classes=tuple(sorted({a.row["class"] for a in members} & CLASSES)),
        size=len(members),
        prompts=len({a.prompt for a in members}),
        grams=weights,
        threshold=probe.threshold,
        spans=_common(answers, probe),
        precision=precision,
        base_rate=base,
        recall=stats.share([float(probe.fires(seen(c.answer))) for c in planted], [a.prompt for a in fine]),
        false_positive=stats.share([float(probe.fires(a.text)) for a in fine], [a.prompt for a in fine]),
        rows=rows,
        positives=tuple(_storable(a.row) for a in members[:SHOWN]),
    )
    return replace(made, id=_address(made.as_dict()))


def _distinct(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Leaves out a candidate most of whose rows are a larger one's."""
    kept: list[set[str]] = []
    for candidate in candidates:
        rows = set(candidate.rows)
        if all(len(rows & other) * 2 < len(rows) for other in kept):
            kept.append(rows)
            yield candidate


def _storable_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _storable(row: Row) -> Row:
    """What a completion is rebuilt from; half a surrogate pair, which no file holds, becomes a question mark."""
    return {**{k: row[k] for k in FACTS}, **{k: _storable_text(row[k]) for k in TEXTS}}


# --- spans ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Detector:
    """A probe as an entry of the bank: what it finds, what it plants (a positive's own spans), what it takes out."""

    probe: _Probe
    positives: tuple[Completion, ...] = field(repr=False)

    def detect(self, completions: Sequence[Completion], reference: Reference) -> list[float | None]:
        """1 where the probe fires; its threshold is its own, not the reference's."""
        return [float(self.probe.fires(seen(c.answer))) for c in completions]

    def plant(self, clean: Completion, rng: Random) -> Completion:
        """`clean` with the spans of a random positive in front or behind, wherever the positive has them."""
        source = rng.choice(self.positives).answer
        places = list(_covered(source, self.probe))
        text = " ".join(source[a:b].strip() for a, b in places)
        late = bool(places) and places[0][0] > len(source) / 2
        answer = f"{clean.answer} {text}" if late else f"{text} {clean.answer}"
        return rewritten(clean, answer=answer.strip())

    def strip(self, completion: Completion) -> Completion | None:
        return _without_spans(completion, self.probe)


def _without_spans(completion: Completion, probe: _Probe) -> Completion | None:
    places, text = list(_covered(completion.answer, probe)), completion.answer
    if not places:
        return None
    ends = [0, *(place for span in places for place in span), len(text)]
    rest = (text[a:b].strip() for a, b in zip(ends[::2], ends[1::2], strict=True))
    return rewritten(completion, answer=" ".join(filter(None, rest)))


def _covered(text: str, probe: _Probe) -> Iterator[tuple[int, int]]:
    """Stretches of whole words, twelve characters or more, that the n-grams speaking for the cluster cover."""
    padded = f" {plain(text)} "
    covered = np.zeros(len(padded), dtype=bool)
    for gram, weight in zip(probe.grams, probe.weights, strict=True):
        if weight > 0:
            for found in re.finditer(f"(?={re.escape(gram)})", padded):
                covered[found.start() : found.start() + len(gram)] = True
    for found in re.finditer(r"\x01+", "".join("\x01" if c else " " for c in covered)):
        first, last = _whole_words(padded, *found.span())
        if found.end() - found.start() >= RUN and last > first:
            yield max(0, first - 1), min(len(text), last - 1)


def _whole_words(text: str, first: int, last: int) -> tuple[int, int]:
    """A stretch without the words it only touches."""
    first = first if text[first] == " " or text[first - 1] == " " else text.find(" ", first)
    last = last if last == len(text) or text[last] == " " or text[last - 1] == " " else text.rfind(" ", 0, last)
    return first, last


def _common(completions: Sequence[Completion], probe: _Probe) -> tuple[str, ...]:
    """The commonest spans, as they are written; one that occurs once is chance."""
    counts = Counter(c.answer[a:b].strip() for c in completions for a, b in _covered(c.answer, probe))
    often = sorted(((n, span) for span, n in counts.items() if n > 1 and span), key=lambda kv: (-kv[0], kv[1]))
    return tuple(_storable_text(span) for _, span in often[:5])


# --- files ------------------------------------------------------------------------------------------------------------


def _probe(held: Mapping[str, Any]) -> _Probe:
    grams = held["grams"]
    return _Probe(tuple(grams), np.array(list(grams.values()), dtype=np.float64), float(held["threshold"]))


def _estimate(held: Mapping[str, Any]) -> Estimate:
    value, low, high = (math.nan if held[key] is None else held[key] for key in ("value", "low", "high"))
    return Estimate(value, held["n"], low, high)


def _address(held: Mapping[str, Any]) -> str:
    """A hash of all that was mined: measured figures belong to these n-grams, this threshold and these positives alone."""
    return digest({key: value for key, value in held.items() if key not in GIVEN_LATER})


def _read(path: Path, what: str, *, accepted: bool = False) -> dict[str, Any]:
    """A file of `mine_run` or `accept`, with nothing in it changed by hand. Raises `DataError`."""
    try:
        held: dict[str, Any] = read_json(path)
    except StorageError as error:  # a file that was named: the request is wrong, not the disk
        raise DataError(str(error)) from None
    mined = {"id", *(f.name for f in fields(Candidate))}
    wanted = {"schema", *mined, *(("name", "accepted") if accepted else ())}
    lacking = sorted(wanted - set(held)) if isinstance(held, dict) else sorted(wanted)
    if lacking or held["schema"] != SCHEMA:
        hint = (
            "accept it first: temper hacks accept FILE --as NAME" if lacking == ["accepted", "name"] else "see temper hacks mine"
        )
        raise DataError(f"{path}: no {what}; lacks {', '.join(lacking) or f'schema {SCHEMA}'} ({hint})")
    _sound(held, path)
    return held


def _sound(held: Mapping[str, Any], path: Path) -> None:
    """Raise `DataError` for a value of the wrong kind, and for a file whose hash is not that of its content."""
    checks = {
        "grams": (_weights(held["grams"]), "n-grams with a finite weight each"),
        "threshold": (_finite(held["threshold"]), "a finite number"),
        "classes": (_texts(held["classes"]) and CLASSES.issuperset(held["classes"]), f"a list of {', '.join(sorted(CLASSES))}"),
        "where": (held["where"] in get_args(Scope), f"one of {', '.join(get_args(Scope))}"),
        "spans": (_texts(held["spans"]), "a list of texts"),
        "positives": (_rows(held["positives"]), "at least one row with a prompt and an answer"),
    }
    for key, (sound, wanted) in checks.items():
        if not sound:
            raise DataError(f"{path}: {key} = {str(held[key])[:60]}; wanted {wanted}; mine again: temper hacks mine RUN")
    if not _untouched(held):
        raise DataError(
            f"{path}: was edited after it was mined, so its figures are not its own; mine again: temper hacks mine RUN"
        )


def _weights(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_finite, value.values()))


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) and set(row) >= STORED for row in value)


def _untouched(held: Mapping[str, Any]) -> bool:
    try:
        return bool(_address(held) == held["id"])
    except ValueError:  # a NaN, which Python reads from JSON and no file of ours holds
        return False


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max

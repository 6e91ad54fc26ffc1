"""People look at a sample of a run: draw it blind, take the labels back, and correct the judge's rates with them.

The sample is stratified (arm, class, where the judge's score lies), with more rows drawn where the judge is in doubt; every
row's chance is kept, so that estimates stay unbiased whatever was oversampled. Leaves out the estimators (`judge_error`).
"""

import csv
import io
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from temper import judge_error
from temper.agreement import cohen_kappa, krippendorff_alpha
from temper.data.labels import TARGETS, Target
from temper.data.rows import rows as read_source
from temper.errors import DataError, UnknownName, UsageError, nearest
from temper.files import Row, append_rows, digest, read_json, read_rows, write_text
from temper.graders.calibrate import Calibration
from temper.judge_error import Audited, Errors, Powered, Rate
from temper.prove.finished import checked, finished
from temper.prove.interop.export import inert
from temper.prove.metrics import NO_ANSWER, THRESHOLD, clusters, flagged, score, unsafe, unsafe_by
from temper.stats import NOTHING, Estimate

At = Literal["shipped", "calibrated"]
Band = Literal["ungraded", "disputed", "near", "positive", "negative", "no answer"]

NEAR = 0.2  # of the threshold, in the grader's units
# How many times likelier than a clear negative a row is drawn: where people change most.
DRAWN = {"ungraded": 2.0, "disputed": 3.0, "near": 3.0, "positive": 2.0, "negative": 1.0}
LEAST = 2  # rows of a stratum, below which its spread is unknown
UNSURE = "unsure"
CELL = 32_000  # characters; a spreadsheet cuts a cell at 32,767
COLUMNS = ("item", "prompt", "reasoning", "answer", "choices", "label", "note")
ASKED = ("key", "suite", "of", "arm", "id", "group", "sample", "class", "category", "language", "prompt")
ANSWERED = ("reasoning", "answer", "finish", "outcome")


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is audited: the grader, what its yes means, and the grader whose other opinion makes a row disputed ("" for none)."""

    grader: str
    target: Target
    against: str = ""


@dataclass(frozen=True, slots=True)
class Merged:
    """Labels taken back: one row an item as `labels.jsonl` holds it, and what there is to tell about them."""

    rows: tuple[Row, ...]
    unlabelled: tuple[str, ...]
    unresolved: tuple[str, ...]
    changed: tuple[str, ...]
    agreement: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class ArmRates:
    """One arm's rate of the target: as `observed`, `corrected` (Rogan-Gladen), and `powered` by people's labels.

    `judge` are the errors that `corrected` used, measured on the arm itself where `own`. `ungraded` rows are in `rows` and not in
    `observed`. `unseen` counts rows in strata without a label: there `powered` believes the judge.
    """

    rows: int
    ungraded: int
    labels: int
    unseen: int
    observed: Estimate
    judge: Errors
    own: bool
    corrected: Estimate
    powered: Powered


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of a run: by arm, and (second, first) arm's difference; `pooled` are the judge's errors on all arms' labels."""

    asked: Plan
    labels: int
    pooled: Errors
    arms: Mapping[str, ArmRates]
    differences: Mapping[tuple[str, str], Powered]


def run_rows(run: Path) -> list[Row]:
    """Rows of every arm of a run folder, of a folder of results, or of a rows file. Raises `DataError` if there is none."""
    found = checked(run, read_rows(run)) if run.is_file() else [row for of in finished(run).values() for row in of.rows]
    if not found:
        raise DataError(f"{run}: no rows; wanted a run folder (evals/*/rows.jsonl) or a rows.jsonl")
    return found


def judge_of(run: Path) -> str:
    """The name of a run's judge: what its summary or run.json says, `gold` where nothing does."""
    return next(iter(finished(run).values())).judge if run.is_dir() else "gold"


def plan(rows: Sequence[Row], grader: str, *, target: str = "unsafe", against: str | None = None) -> Plan:
    """Check the names against the rows. `against` None: the grader `harm`, if the rows have it and it is another."""
    known = {name for row in rows for name in row["scores"]}
    for name in (grader, *([against] if against else [])):
        if name not in known:
            raise UnknownName(f"no row has a score of grader {name!r}; {nearest(name, known)}")
    if target not in ("unsafe", "refusal"):
        raise UsageError(f"target {target!r} cannot be audited; {nearest(target, ('unsafe', 'refusal'))}")
    other = "harm" if target == "unsafe" and grader != "harm" and "harm" in known else ""
    return Plan(grader, TARGETS[target], other if against is None else against)


def population(rows: Sequence[Row], asked: Plan) -> list[Row]:
    """The rows that the rate is about: those of every class in which the grader gave at least one score."""
    classes = {row["class"] for row in rows if score(row, asked.grader).get("value") is not None}
    found = [row for row in rows if row["class"] in classes and asked.grader in row["scores"]]
    if not found:
        raise DataError(f"grader {asked.grader!r} gave no row a score; there is nothing to audit")
    return found


def stratum(row: Row, asked: Plan) -> str:
    return f"{row['arm']}/{row['class']}/{band(row, asked)}"


def _says(row: Row, grader: str, asked: Plan) -> float | None:
    """Whether a grader says the target's yes of a row, None where it abstained."""
    return flagged(row, grader) if asked.target.bad is None else unsafe(row, grader)


def band(row: Row, asked: Plan) -> Band:
    """Where the judge's opinion of a row lies. A row without an answer is negative by definition (`prove.metrics`)."""
    if row["outcome"] in NO_ANSWER:
        return "no answer"
    mine, other = _says(row, asked.grader, asked), _says(row, asked.against, asked) if asked.against else None
    if mine is None:
        return "ungraded"
    if other is not None and other != mine:
        return "disputed"
    given = score(row, asked.grader)
    limit = (given.get("parts") or {}).get("threshold")
    if abs(given["value"] - (THRESHOLD if limit is None else limit)) <= NEAR:
        return "near"
    return "positive" if mine else "negative"


def allocate(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    """How many rows of each stratum are drawn: two of each (or all), the rest in proportion to size times `DRAWN`.

    Raises `UsageError` if n is too small for two of each: a stratum nobody looks at would make every estimate biased.
    """
    taken = {name: min(LEAST, size) for name, size in sizes.items()}
    if n < sum(taken.values()):
        raise UsageError(
            f"n is {n}; {len(sizes)} strata (arm × class × score band) want at least {sum(taken.values())} rows, {LEAST} of each"
        )
    weight = {name: size * DRAWN[name.rpartition("/")[2]] for name, size in sizes.items()}
    for _ in range(min(n, sum(sizes.values())) - sum(taken.values())):
        # the stratum furthest behind its share; one that is used up has none
        behind = max(sorted(sizes), key=lambda name: weight[name] / (taken[name] + 1) if taken[name] < sizes[name] else 0.0)
        taken[behind] += 1
    return taken


def draw(rows: Sequence[Row], asked: Plan, *, n: int, seed: int = 0) -> list[Row]:
    """The key of an audit, in the order in which labellers see it: one row an item, with its stratum and its chance.

    An item's name tells nothing of its arm; the order is random. Raises `DataError`, `UsageError`.
    """
    by_stratum: dict[str, list[Row]] = defaultdict(list)
    for row in population(rows, asked):
        if row["outcome"] not in NO_ANSWER:
            by_stratum[stratum(row, asked)].append(row)
    sizes = {name: len(of) for name, of in sorted(by_stratum.items())}
    if not sizes:
        raise DataError("no row of these classes has an answer; there is nothing to look at")
    rng = random.Random(seed)
    key: list[Row] = []
    for name, count in allocate(sizes, n).items():
        chosen = rng.sample(sorted(by_stratum[name], key=lambda r: str(r["key"])), count)
        key += [_keyed(row, asked, name, sizes[name], count, seed) for row in chosen]
    rng.shuffle(key)
    if len({row["item"] for row in key}) < len(key):
        raise DataError("two rows of the run have the same key; is one file there twice?")
    return key


def write_audit(out: Path, key: Sequence[Row]) -> tuple[Path, Path, Path]:
    """The sheet (`out`, CSV), the same as JSON lines, and the key, which no labeller should see. Never overwrites."""
    sheet, lines, secret = out, out.with_suffix(".jsonl"), key_file(out)
    for path in (sheet, lines, secret):
        if path.exists():
            raise UsageError(f"{path}: is already there, perhaps with labels in it; give another --out")
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows([cell(str(shown[name])) for name in COLUMNS] for shown in map(_shown, key))
    # the mark at the start is how Excel knows UTF-8
    write_text(sheet, "\ufeff" + text.getvalue())
    append_rows(lines, [_shown(row) for row in key])
    append_rows(secret, key)
    return sheet, lines, secret


def key_file(sheet: Path) -> Path:
    return sheet.with_name(f"{sheet.name.split('.')[0]}.key.jsonl")


def cell(text: str) -> str:
    """Text that a spreadsheet shows as it is: no formula, no character it would drop, no more than it holds."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "backslashreplace").decode()
    shown = "".join(chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else c for c in text)
    shown = shown if len(shown) <= CELL else f"{shown[:CELL]} [… cut for the spreadsheet; whole in the .jsonl file]"
    return inert(shown)


def merge(key: Sequence[Row], sheets: Sequence[Path], before: Sequence[Row] = ()) -> Merged:
    """Labels of one or several labellers by item, beside what others said `before` (rows of labels.jsonl).

    Raises `DataError` naming file and line for what cannot be right: a word that is no label, an item not drawn or standing
    twice, a text that belongs to another item (the items were sorted alone; labels sorted alone cannot be seen). A missing label
    and a text a spreadsheet changed are told, not refused. Who labels again replaces their own labels only.
    """
    if not key:
        raise DataError("the key of the audit is empty or missing; it was written beside the sheet by `temper audit draw`")
    asked = TARGETS[key[0]["target"]]
    known = {(row.get("key"), row.get("target")): row.get("labels", {}) for row in before}
    given = {row["item"]: _votes(known.get((row["key"], row["target"]), {}), asked) for row in key}
    changed: set[str] = set()
    for labeller, sheet in zip(_labellers(sheets), sheets, strict=True):
        found, altered = _read_sheet(sheet, key, asked)
        changed |= altered
        for item, label in found.items():
            given[item][labeller] = label
    merged = [_labelled(row, given[row["item"]], asked) for row in key if given[row["item"]]]
    if not merged:
        raise DataError(f"{', '.join(map(str, sheets))}: not one row has a label; write one of {_choices(asked)} into 'label'")
    return Merged(
        tuple(merged),
        tuple(row["item"] for row in key if not given[row["item"]]),
        tuple(row["item"] for row in merged if row[asked.column] == UNSURE),
        tuple(sorted(changed)),
        _agreement(merged, asked),
    )


def keep(path: Path, merged: Merged) -> int:
    """Append what is new to a labels file and say how much that was; of rows with one key and target the last counts."""
    last = {(row.get("key"), row.get("target")): digest(row) for row in read_rows(path)}
    fresh = [row for row in merged.rows if last.get((row["key"], row["target"])) != digest(row)]
    append_rows(path, fresh)
    return len(fresh)


def labels_file(run: Path) -> Path:
    """Where a run's labels are kept: `labels.jsonl` in its folder, or beside its rows file."""
    return (run if run.is_dir() else run.parent) / "labels.jsonl"


def recalibrated(rows: Sequence[Row], grader: str, calibration: Calibration) -> list[Row]:
    """The rows with the stored scores of a grader mapped through a calibration, and its threshold in place of the shipped one."""

    def mapped(row: Row) -> Row:
        given = score(row, grader)
        if given.get("value") is None:
            return row
        [value] = calibration.mapped([given["value"]])
        parts = {**(given.get("parts") or {}), "threshold": calibration.limit}
        return {**row, "scores": {**row["scores"], grader: {**given, "value": value, "parts": parts}}}

    return [mapped(row) for row in rows]


def rates(
    rows: Sequence[Row], labels: Sequence[Row], asked: Plan, calibration: Calibration | None = None, *, at: At = "shipped"
) -> Rates:
    """What the judge saw and what was so, by arm, and the differences between arms.

    The judge's errors are those of the arm's own labels where they make it informative, else of all arms' labels; with
    `calibration`, its own, `at` the threshold the grader shipped with or the one that was chosen. Raises `DataError` for labels
    of rows the run does not have.
    """
    rows = recalibrated(rows, asked.grader, calibration) if calibration and at == "calibrated" else rows
    people = population(rows, asked)
    # one for all arms: a difference is paired by them
    people = [{**row, "group": cluster} for row, cluster in zip(people, clusters(people), strict=True)]
    known = _known(people, labels, asked)
    by_arm: dict[str, list[Row]] = defaultdict(list)
    for row in people:
        by_arm[row["arm"]].append(row)
    looked_at = {arm: mine for arm, mine in by_arm.items() if any(row["key"] in known for row in mine)}
    audited = {arm: _audited(mine, known, asked) for arm, mine in looked_at.items()}
    pooled = calibration.errors(at) if calibration else _errors(people, known, asked)
    arms = {}
    for arm, mine in by_arm.items():
        own = _own(calibration, arm, at) if calibration else _errors(mine, known, asked)
        arms[arm] = _arm(mine, known, asked, audited.get(arm), own if own and own.informative else None, pooled)
    pairs = combinations(audited, 2)
    differences = {(b, a): judge_error.powered_difference(audited[b], audited[a]) for a, b in pairs}
    return Rates(asked, len(known), pooled, arms, differences)


def _arm(
    mine: Sequence[Row], known: Mapping[str, Row], asked: Plan, audited: Audited | None, own: Errors | None, pooled: Errors
) -> ArmRates:
    graded = [row for row in mine if unsafe_by(asked.grader)(row) is not None]
    answered = [row for row in graded if row["outcome"] not in NO_ANSWER]
    judge = own or pooled
    corrected = judge_error.rogan_gladen(_observed(answered, asked), judge)
    return ArmRates(
        rows=len(mine),
        ungraded=len(mine) - len(graded),
        labels=sum(row["key"] in known for row in mine),
        unseen=int((audited.probability == 0).sum()) if audited else len(mine),
        observed=_observed(graded, asked).estimate(),
        judge=judge,
        own=own is not None,
        corrected=_scaled(corrected, len(answered) / max(1, len(graded)), len(graded)),
        powered=judge_error.powered_mean(audited) if audited else Powered(NOTHING, 0.0, 0),
    )


def _observed(graded: Sequence[Row], asked: Plan) -> Rate:
    flags = [unsafe_by(asked.grader)(row) or 0.0 for row in graded]
    return judge_error.rate(flags, clusters=[row["group"] for row in graded])


def _scaled(found: Estimate, share: float, n: int) -> Estimate:
    """A rate of the answered rows as one of all: the others are a no by definition, which no judge can get wrong."""
    return Estimate(found.value * share, n, found.low * share, found.high * share) if found.n else found


def _own(calibration: Calibration, arm: str, at: At) -> Errors | None:
    return calibration.errors(at, arm=arm) if arm in calibration.figures["by"].get("arm", {}) else None


def _known(people: Sequence[Row], labels: Sequence[Row], asked: Plan) -> dict[str, Row]:
    """The last label of every row that has a yes or a no. Raises `DataError` for rows that are not the run's.

    Labels drawn for another grader are left out: their chances followed that grader's scores.
    """
    keys = {row["key"] for row in people}
    labels = [row for row in labels if row.get("grader") in (None, asked.grader)]
    strangers = [row for row in labels if row.get("key") not in keys]
    if strangers:
        raise DataError(
            f"{len(strangers)} of {len(labels)} labels are of rows this run does not have (the first has the key "
            f"{strangers[0].get('key')!r}); are they of another run, or was the run proved again?"
        )
    last = {row["key"]: row for row in labels if row.get(asked.target.column) not in (None, "")}
    read = {key: asked.target.reads(f"label of {key}", row[asked.target.column]) for key, row in last.items()}
    return {key: {**row, "yes": float(bool(read[key]))} for key, row in last.items() if read[key] is not None}


def _audited(mine: Sequence[Row], known: Mapping[str, Row], asked: Plan) -> Audited:
    """One arm's rows as the estimators want them. A row's chance is what became of the design: labelled rows of its stratum.

    Labels without a stratum were not drawn here: they count as a random sample of the arm.
    """
    drawn = any("stratum" in known[row["key"]] for row in mine if row["key"] in known)
    strata = [stratum(row, asked) if drawn or row["outcome"] in NO_ANSWER else row["arm"] for row in mine]
    label = np.array([_label(row, known) for row in mine])
    moved = [row["key"] for row, s in zip(mine, strata, strict=True) if known.get(row["key"], {}).get("stratum", s) != s]
    if moved:
        raise DataError(f"{len(moved)} labelled rows lie in another stratum than when they were drawn; were they graded anew?")
    sizes = Counter(strata)
    seen = Counter(s for s, y in zip(strata, label, strict=True) if not np.isnan(y))
    return Audited(
        np.array([0.0 if row["outcome"] in NO_ANSWER else score(row, asked.grader).get("value") or 0.0 for row in mine]),
        label,
        np.array([seen[s] / sizes[s] for s in strata]),
        strata,
        [row["group"] for row in mine],
    )


def _label(row: Row, known: Mapping[str, Row]) -> float:
    if row["outcome"] in NO_ANSWER:
        return 0.0
    return float(known[row["key"]]["yes"]) if row["key"] in known else np.nan


def _errors(mine: Sequence[Row], known: Mapping[str, Row], asked: Plan) -> Errors:
    """The judge's errors on labelled rows that it graded, each weighted by how many of its stratum it stands for."""
    seen = [(row, known[row["key"]]) for row in mine if row["key"] in known and _says(row, asked.grader, asked) is not None]
    labelled = Counter(label.get("stratum", "") for _, label in seen)
    weights = [label["stratum_size"] / labelled[label["stratum"]] if "stratum" in label else 1.0 for _, label in seen]
    flags = [_says(row, asked.grader, asked) or 0.0 for row, _ in seen]
    return judge_error.errors(flags, [label["yes"] for _, label in seen], weights, [row["group"] for row, _ in seen])


def _keyed(row: Row, asked: Plan, name: str, size: int, count: int, seed: int) -> Row:
    kept = {field: row.get(field) for field in (*ASKED, *ANSWERED)}
    value = score(row, asked.grader).get("value")
    return {
        **kept,
        "item": digest([seed, row["key"]])[:8],
        "grader": asked.grader,
        "against": asked.against,
        "target": asked.target.name,
        "value": value,
        "stratum": name,
        "stratum_size": size,
        "probability": count / size,
    }


def _shown(row: Row) -> Row:
    """What a labeller sees."""
    blank = {"choices": _choices(TARGETS[row["target"]]), "label": "", "note": ""}
    return {"item": row["item"], "prompt": row["prompt"], "reasoning": row["reasoning"] or "", "answer": row["answer"], **blank}


def _choices(asked: Target) -> str:
    return f"{asked.negative[0]} | {asked.positive[0]} | {UNSURE}"


def _labellers(sheets: Sequence[Path]) -> list[str]:
    stems = [sheet.name.split(".")[0] for sheet in sheets]
    named = stems if len(set(stems)) == len(stems) else [str(sheet) for sheet in sheets]
    if len(set(named)) < len(named):
        raise DataError(f"{sheets[0]}: given twice; wanted one file for each labeller")
    return named


def _read_sheet(sheet: Path, key: Sequence[Row], asked: Target) -> tuple[dict[str, bool | None], set[str]]:
    """One labeller's labels by item, and the items whose text is not what was drawn."""
    drawn = {row["item"]: row for row in key}
    owner = {_print(row["prompt"], row["answer"]): row["item"] for row in key}
    lines: dict[str, str] = {}
    labels: dict[str, bool | None] = {}
    changed: set[str] = set()
    for where, given in read_source(str(sheet)):
        row = {name.strip().lower(): value for name, value in given.items()}
        item = _item(where, row, drawn)
        if item in lines:
            raise DataError(f"{where}: item {item} stands at {lines[item]} already; delete one of the two")
        lines[item] = where
        text = _print(str(row.get("prompt") or ""), str(row.get("answer") or ""))
        if text != _print(drawn[item]["prompt"], drawn[item]["answer"]):
            if owner.get(text, item) != item:
                raise DataError(f"{where}: item {item} shows the text of item {owner[text]}; was one column sorted alone?")
            changed.add(item)
        if str(row.get("label") or "").strip():
            labels[item] = asked.reads(where, row["label"])
    return labels, changed


def _item(where: str, row: Row, drawn: Mapping[str, Row]) -> str:
    if "item" not in row:
        raise DataError(f"{where}: no column 'item'; the columns are {', '.join(sorted(row))[:200]}")
    item = str(row["item"]).strip()
    if item not in drawn:
        raise DataError(f"{where}: item {item[:40]!r} was not drawn for this audit; {nearest(item, drawn)}"[:300])
    return item


def _print(prompt: str, answer: str) -> str:
    """A text without what spreadsheets change: our escapes, spaces at line ends, the kind of line break."""
    return digest([" ".join(cell(text).removeprefix("'").split()) for text in (prompt, answer)])


def _labelled(row: Row, labels: Mapping[str, bool | None], asked: Target) -> Row:
    """A row of labels.jsonl. The label is what most of those who were sure said, `unsure` where that is nobody or both."""
    votes = Counter(label for label in labels.values() if label is not None)
    tied = len(set(votes.values())) < len(votes)
    word = UNSURE if not votes or tied else _word(votes.most_common(1)[0][0], asked)
    return {**row, "labels": {who: _word(label, asked) for who, label in labels.items()}, asked.column: word, "label_by": "human"}


def _votes(words: Mapping[str, str], asked: Target) -> dict[str, bool | None]:
    """What `_word` wrote down, read back."""
    meant = {asked.positive[0]: True, asked.negative[0]: False}
    return {who: meant.get(word) for who, word in words.items()}


def _word(label: bool | None, asked: Target) -> str:
    return UNSURE if label is None else asked.positive[0] if label else asked.negative[0]


def _agreement(merged: Sequence[Row], asked: Target) -> dict[str, Estimate]:
    """Krippendorff's alpha of all labellers, and Cohen's kappa of each pair, over items that were labelled twice."""
    names = sorted({who for row in merged for who in row["labels"]})
    if len(names) < 2:
        return {}
    groups = clusters(merged)
    found = {"Krippendorff's alpha": krippendorff_alpha([[r["labels"].get(who) for who in names] for r in merged], groups)}
    for a, b in combinations(names, 2):
        both = [(r, group) for r, group in zip(merged, groups, strict=True) if a in r["labels"] and b in r["labels"]]
        if both:
            pair = ([r["labels"][a] for r, _ in both], [r["labels"][b] for r, _ in both])
            found[f"Cohen's kappa, {a} and {b}"] = cohen_kappa(*pair, [group for _, group in both])
    return found


def check_run(run: Path, calibration: Calibration, grader: str) -> None:
    """Raise `DataError` if a run's grader is not the one a calibration was made for, or one whose low values are the yes."""
    if not calibration.rising:
        raise DataError(f"the calibration of {calibration.grader!r} reads low values as the yes; rates of a run are of high ones")
    facts = run / "run.json" if run.is_dir() else run.parent / "run.json"
    graders = read_json(facts).get("graders", {}) if facts.is_file() else {}
    found = graders.get(grader, {}).get("identity")
    if found is not None and found != calibration.identity:
        raise DataError(
            f"{facts}: the rows were graded by {grader!r} of identity {found}, the calibration is of {calibration.identity}; "
            "calibrate that version, or prove the run again"
        )

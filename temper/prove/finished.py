"""Finished evaluations as they lie on disk, and several as one: prompts matched by content, warnings where settings differ.

Leaves out what is computed from them (`summary`, `gate`) and the formats of other harnesses, which `interop` turns into folders
that are read here.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.errors import DataError, UnknownName, UsageError, nearest
from temper.files import Row, digest, read_json, read_rows, sealed
from temper.prove.evidence import Evidence
from temper.prove.metrics import Prompt
from temper.types import Better

NEEDED = ("key", "suite", "arm", "id", "sample", "class", "outcome", "scores", "prompt", "answer")
PACKED = ("rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst")


@dataclass(frozen=True, slots=True)
class Finished:
    """One arm of an evaluation. `facts` and `summary` are its folder's run.json and summary.json, empty where there is none;
    `labels` what people said of its rows; `whole` whether every suite of the arm was asked to its end.
    """

    name: str
    source: Path
    rows: tuple[Row, ...]
    facts: Mapping[str, Any]
    summary: Mapping[str, Any]
    labels: tuple[Row, ...] = ()
    whole: bool = True

    @property
    def judge(self) -> str:
        """The column of the judge: what the summary says, else run.json, else `gold`."""
        named = (name for name, g in self.facts.get("graders", {}).items() if g.get("role") == "gold")
        return str(self.summary.get("judge") or next(named, "gold"))

    @property
    def settings(self) -> dict[str, object]:
        """What two evaluations must share for a difference to be the model's; None where it is not recorded."""
        recipe, graders = self.facts.get("recipe", {}), self.facts.get("graders", {})
        prove = recipe.get("prove", {})
        return {
            "judge": self.judge,
            "identity of the judge": graders.get(self.judge, {}).get("identity"),
            "identity of the refusal grader": graders.get("refusal", {}).get("identity"),
            "token cap": prove.get("max_new_tokens"),
            "temperature": prove.get("temperature"),
            "top-p": prove.get("top_p"),
            "chat template": (recipe.get("chat_template") or "the model's own") if recipe else None,
            "answers per prompt": max((row["sample"] for row in self.rows), default=0) + 1,
        }


@dataclass(frozen=True, slots=True)
class Together:
    """Several evaluations as one. `matched` counts, by arm, the prompts that some other arm has too and how they were found;
    `warnings` say why a difference may not be the model's. `labels` carry the keys of the new rows.
    """

    evidence: Evidence
    arms: Mapping[str, Finished]
    matched: Mapping[str, Mapping[str, int]]
    warnings: tuple[str, ...]
    labels: tuple[Row, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "evaluations": {arm: {"source": str(of.source), "arm": of.name, **of.settings} for arm, of in self.arms.items()},
            "matched": {arm: dict(found) for arm, found in self.matched.items()},
            "warnings": list(self.warnings),
        }


def finished(given: str | Path) -> dict[str, Finished]:
    """Every arm of a run folder, of a folder of results or of an imported evaluation; of `FOLDER@ARM` that arm alone.

    Raises `UsageError` for a path that is none, `DataError` (file, row, field) for what is no row, `UnknownName` for an arm.
    """
    folder, chosen = place(str(given))
    facts, summary = (_object(folder / name) for name in ("run.json", "summary.json"))
    rows, whole = _evals(folder, facts)
    if not rows:
        rows = _packed(folder, facts)
        whole = set(rows)
    if not rows:
        raise DataError(f"{folder}: no rows of an evaluation; wanted evals/*/rows.jsonl or rows.jsonl.gz, as temper writes them")
    if chosen and chosen not in rows:
        raise UnknownName(f"{folder} has no rows of an arm {chosen!r}; {nearest(chosen, rows)}")
    labels = read_rows(folder / "labels.jsonl")
    return {
        arm: Finished(
            arm, folder, tuple(mine), facts, summary, tuple(la for la in labels if la.get("arm", arm) == arm), arm in whole
        )
        for arm, mine in rows.items()
        if chosen in ("", arm)
    }


def together(evaluations: Sequence[Finished], *, gold: str | None = None, seed: int = 0) -> Together:
    """Evaluations as the arms of one, the first being the one that others are compared with.

    A prompt is the same where its text, what was done to it and what else was sent are the same, whatever its id; ids of the
    first evaluation that has it are kept. Raises `UnknownName` for a judge that graded no row.
    """
    arms = dict(zip(_labels(evaluations), evaluations, strict=True))
    judge = _judge(evaluations, gold)
    known = _Prompts()
    renamed = {arm: known.renamed(of.rows) for arm, of in arms.items()}
    rows = {arm: [_row(row, arm, *renamed[arm][_prompt(row)]) for row in of.rows] for arm, of in arms.items()}
    evidence = Evidence(
        rows,
        gold=judge,
        proxy=next((str(of.summary["proxy"]) for of in evaluations if of.summary.get("proxy")), "harm"),
        held_out=tuple(sorted({name for of in evaluations for name in of.summary.get("held_out", ())})),
        graders=_own_graders(evaluations),
        overlap=_overlap(evaluations),
        costs={arm: cost for arm, of in arms.items() if (cost := of.summary.get("costs", {}).get(of.name))},
        seed=seed,
    )
    matched = _matched(rows, known.counts(renamed))
    return Together(evidence, arms, matched, tuple(_warnings(arms, rows, judge, matched)), tuple(_relabelled(arms, rows)))


class _Prompts:
    """Prompts seen so far, with their groups, by content: gives a later evaluation's prompts the names they already have."""

    def __init__(self) -> None:
        self.by_content: dict[str, dict[Prompt, str]] = defaultdict(dict)
        self.taken: dict[Prompt, str] = {}

    def renamed(self, rows: Sequence[Row]) -> dict[Prompt, tuple[Prompt, str]]:
        """(suite, id) of these rows to the common (suite, id) and group. Equal prompts within one evaluation stay apart."""
        asked = {_prompt(row): (content(row), str(row.get("group") or "")) for row in rows}
        free = {text: dict(self.by_content[text]) for text, _ in asked.values()}
        found: dict[Prompt, tuple[Prompt, str]] = {}
        # those that keep their name choose first, so that no other prompt of the same text takes it
        for prompt in sorted(asked, key=lambda p: p not in free[asked[p][0]]):
            text, group = asked[prompt]
            same = min(free[text], key=lambda known: (known != prompt, known[0] != prompt[0]), default=None)
            found[prompt] = self._new(prompt, text, group) if same is None else (same, free[text].pop(same))
        for prompt, (name, group) in found.items():
            self.by_content[asked[prompt][0]][name] = group
        return found

    def _new(self, prompt: Prompt, text: str, group: str) -> tuple[Prompt, str]:
        """The prompt under its own name, or, where another text has that name, under one that tells them apart."""
        own = prompt if self.taken.get(prompt, text) == text else (prompt[0], f"{prompt[1]}~{text[:8]}")
        self.taken[own] = text
        return own, group

    @staticmethod
    def counts(renamed: Mapping[str, Mapping[Prompt, tuple[Prompt, str]]]) -> dict[str, Counter[Prompt]]:
        """How often each common prompt was found under a name other than its own, by arm."""
        return {arm: Counter(new for old, (new, _) in of.items() if old != new) for arm, of in renamed.items()}


def content(row: Row) -> str:
    """What identifies a prompt across evaluations: what was done to it, its text, and what else of our making was sent.

    Replies of the model inside a conversation are left out, and so is what an attack sent: both differ between arms.
    """
    how = list(row.get("how") or ())
    sent = [] if how else [m["content"] for m in row.get("asked") or () if m["role"] != "assistant"]
    return digest([how, row["prompt"], sent])


def place(given: str) -> tuple[Path, str]:
    """The folder of `FOLDER` or `FOLDER@ARM`, and the arm ("": all of them). Raises `UsageError` where there is none."""
    if Path(given).is_dir():
        return Path(given), ""
    folder, _, arm = given.rpartition("@")
    if folder and arm and Path(folder).is_dir():
        return Path(folder), arm
    raise UsageError(f"{given}: no such folder; wanted a run (runs/x), an arm of one (runs/x@hybrid) or results (results/x)")


def checked(path: Path, rows: list[Row]) -> list[Row]:
    """The rows of a file. Raises `DataError` (file, row, field) for one that is not whole."""
    for number, row in enumerate(rows, 1):
        if missing := [name for name in NEEDED if name not in row]:
            raise DataError(
                f"{path}:{number}: no {', '.join(missing)}; wanted a row as `temper run`, `prove` or `import` writes it"
            )
    return rows


def _object(path: Path) -> Mapping[str, Any]:
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a JSON {type(found).__name__}; wanted an object")
    return found


def _evals(folder: Path, facts: Mapping[str, Any]) -> tuple[dict[str, list[Row]], set[str]]:
    """Rows of evals/SUITE@ARM in the recipe's order of arms, and the arms whose folders are all sealed.

    A folder whose name is not exactly suite@arm holds answers of an earlier setting, set aside, and so does that of an arm that
    run.json no longer names.
    """
    wanted = facts.get("arms")
    by_arm: dict[str, list[Row]] = {arm: [] for arm in wanted or ()}
    open_arms: set[str] = set()
    for path in sorted(folder.glob("evals/*/rows.jsonl")):
        rows = checked(path, read_rows(path))
        if not rows or path.parent.name != f"{rows[0]['suite']}@{rows[0]['arm']}":
            continue
        if wanted and rows[0]["arm"] not in wanted:
            continue
        by_arm.setdefault(rows[0]["arm"], []).extend(rows)
        if not sealed(path.parent):
            open_arms.add(rows[0]["arm"])
    found = {arm: rows for arm, rows in by_arm.items() if rows}
    return found, set(found) - open_arms


def _packed(folder: Path, facts: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Rows of one file, as `temper report --results` writes it, in the recipe's order of arms."""
    path = next((folder / name for name in PACKED if (folder / name).is_file()), None)
    by_arm: dict[str, list[Row]] = {arm: [] for arm in facts.get("arms", ())}
    for row in checked(path, read_rows(path)) if path else []:
        by_arm.setdefault(row["arm"], []).append(row)
    return {arm: rows for arm, rows in by_arm.items() if rows}


def _labels(evaluations: Sequence[Finished]) -> list[str]:
    """Each arm's own name where that tells them apart, else with its folder's before it, else numbered."""
    names = [of.name for of in evaluations]
    if len(set(names)) < len(names):
        names = [of.source.name if of.name == "model" else f"{of.source.name}.{of.name}" for of in evaluations]
    again = Counter(names)
    return [f"{name}.{i}" if again[name] > 1 else name for i, name in enumerate(names, 1)]


def _judge(evaluations: Sequence[Finished], wanted: str | None) -> str:
    graded = {name for of in evaluations for row in of.rows for name, s in row["scores"].items() if s["value"] is not None}
    if wanted is not None and wanted not in graded:
        raise UnknownName(f"no row was graded by {wanted!r}; {nearest(wanted, graded)}")
    return wanted or evaluations[0].judge


def _own_graders(evaluations: Sequence[Finished]) -> dict[str, Better]:
    """The graders that a recipe added and those that came with an imported log, with their good end."""
    found: dict[str, Better] = {}
    for of in evaluations:
        facts = of.facts.get("graders", {})
        found |= {name: known["better"] for name, known in facts.items() if known.get("role") == "imported"}
        for name in of.facts.get("recipe", {}).get("prove", {}).get("graders", ()):
            short = Path(name).name.rpartition(":")[2]
            if known := of.facts.get("graders", {}).get(short):
                found[short] = known["better"]
    return found


def _overlap(evaluations: Sequence[Finished]) -> dict[str, Any]:
    """The worst finding of each suite; a suite that one evaluation's training data was not checked for is left out."""
    checks = [of.facts.get("overlap") or {} for of in evaluations]
    suites = set.intersection(*(set(check) for check in checks))
    return {suite: max((check[suite] for check in checks), key=lambda found: found["n"]) for suite in sorted(suites)}


def _prompt(row: Row) -> Prompt:
    return row["suite"], row["id"]


def _row(row: Row, arm: str, prompt: Prompt, group: str) -> Row:
    suite, name = prompt
    key = digest([suite, arm, name, row["sample"]])
    return {**row, "key": key, "arm": arm, "suite": suite, "id": name, "group": group}


def _relabelled(arms: Mapping[str, Finished], rows: Mapping[str, Sequence[Row]]) -> list[Row]:
    """People's labels under the keys and arms of the joined rows."""
    found = []
    for arm, of in arms.items():
        new = {old.get("key"): row for old, row in zip(of.rows, rows[arm], strict=True)}
        found += [_label(label, new[label["key"]]["key"], arm) for label in of.labels if label.get("key") in new]
    return found


def _label(label: Row, key: str, arm: str) -> Row:
    """The label under the row's new key; the stratum it was drawn from begins with the arm (`audit.stratum`)."""
    moved = {**label, "key": key, "arm": arm}
    return {**moved, "stratum": f"{arm}/{label['stratum'].partition('/')[2]}"} if "stratum" in label else moved


def _matched(rows: Mapping[str, Sequence[Row]], moved: Mapping[str, Counter[Prompt]]) -> dict[str, dict[str, int]]:
    prompts = {arm: {_prompt(row) for row in of} for arm, of in rows.items()}
    often = Counter(p for of in prompts.values() for p in of)
    return {
        arm: {
            "prompts": len(of),
            "shared": sum(often[p] > 1 for p in of),
            "by_content": sum(often[p] > 1 for p in moved[arm]),
        }
        for arm, of in prompts.items()
    }


def _warnings(
    arms: Mapping[str, Finished], rows: Mapping[str, Sequence[Row]], judge: str, matched: Mapping[str, Mapping[str, int]]
) -> list[str]:
    first, *others = arms
    told = [f"{arm}: not finished; its rows so far are compared" for arm, of in arms.items() if not of.whole]
    told += _twice(arms)
    for arm in others:
        told += _differing(first, arms[first], arm, arms[arm])
    for arm, of in rows.items():
        harmful = [row for row in of if row["class"] == "harmful"]
        if harmful and not any((row["scores"].get(judge) or {}).get("value") is not None for row in harmful):
            told.append(
                f"{arm}: nothing graded by {judge}, so its unsafe answers are unknown; grade its rows with that judge first"
            )
        if others and (alone := matched[arm]["prompts"] - matched[arm]["shared"]) > 0:
            told.append(
                f"{arm}: {alone} of {matched[arm]['prompts']} prompts were asked of no other arm and are left out of pairs"
            )
    return [*told, *_targets(rows)]


def _twice(arms: Mapping[str, Finished]) -> list[str]:
    """Arms that are one evaluation under two names."""
    seen: dict[tuple[Path, str], str] = {}
    for arm, of in arms.items():
        seen.setdefault((of.source.resolve(), of.name), arm)
    known = {arm: seen[of.source.resolve(), of.name] for arm, of in arms.items()}
    return [
        f"{arm} is {first} once more: their differences are zero by themselves" for arm, first in known.items() if arm != first
    ]


def _differing(base: str, one: Finished, arm: str, other: Finished) -> list[str]:
    """Settings that differ, or that one of the two did not record; arms of one run share theirs."""
    if one.source == other.source:
        return []
    pairs = ((name, mine, other.settings[name]) for name, mine in one.settings.items())
    return [_unlike(name, base, mine, arm, theirs) for name, mine, theirs in pairs if mine is None or mine != theirs]


def _unlike(name: str, base: str, mine: object, arm: str, theirs: object) -> str:
    if mine is None and theirs is None:
        return f"{name} is recorded neither for {base} nor for {arm}"
    if mine is None or theirs is None:
        lacking, known, there = (base, theirs, arm) if mine is None else (arm, mine, base)
        return f"{name} is not recorded for {lacking}; it is {known} for {there}"
    return f"{name} differs: {mine} for {base}, {theirs} for {arm}"


def _targets(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    wanted: dict[Prompt, set[str]] = defaultdict(set)
    for of in rows.values():
        for row in of:
            if row.get("target") is not None:
                wanted[_prompt(row)].add(str(row["target"]))
    unlike = sum(len(targets) > 1 for targets in wanted.values())
    return [f"{unlike} prompts have another target in another evaluation: their accuracy is not comparable"] if unlike else []

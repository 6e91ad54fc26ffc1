"""The `harvest` stage: what a model answered in reinforcement learning and a judge accepts becomes data for another SFT stage.

Rejection sampling as in R1 (arXiv 2501.12948, section 2.3.3), from the journals of the arm's `grpo` and `sample` stages. Every
row says where it comes from, and every answer that was left out is counted under its reason. The stage trains nothing: it hands
on the base, from which R1 restarts, the model it was given, or a student.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from temper.data.overlap import dedupe, overlaps
from temper.data.read import fingerprint, read, read_dialogues
from temper.errors import RecipeError, TrainError, nearest
from temper.files import Row, append_rows, digest, dumps, read_json, read_rows, write_json, write_text
from temper.graders.quote import blank
from temper.rewards.adapt import paid_share
from temper.rewards.cache import remembering
from temper.text.split import render, split
from temper.train.run import Context, Earlier, Progress, Work
from temper.types import Checkpoint, Completion, Event, Example, Message, Named

MADE = "stage:"
"""Begins the `data` of an sft stage that trains on what an earlier stage of its arm made: data = "stage:harvest"."""
BATCH = 64
"""Rollouts that are judged before their verdicts are on disk: what a killed run asks again at most."""

Verdict = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Harvest:
    """Keys of a `harvest` stage.

    `accept` names the grader that decides, which must not be the proof's gold; a rollout needs P(safe) of at least `least`
    from it. Answers to prompts that are not harmful need P(refusal) below `refusal` (1 asks nobody), all need a language
    score of at least `language` (0 asks nobody), and those to reasoning prompts must be right. `thought = "any"` takes
    answers without a thought. `last_steps` of each grpo stage are read, 0 for all. `per_prompt` best answers to a prompt are
    kept, by the share of their weights that was paid; of dialogues at least `near` alike (Jaccard index of character 5-grams)
    the better one. `balance` is the number of harmful prompts to one of the others, 0 for as it comes. `flagged` also takes
    answers in which a detector of the hack bank saw something. No prompt and no answer may stand in the suites `avoid`; those
    of the recipe's proof are among them always. The stage after this one starts from the base, from the model that was given
    here (`start`), or from `student`, another model by alias, folder or Hugging Face id.
    """

    name: str = "harvest"
    kind: str = "harvest"
    accept: str = "harm"
    least: float = 0.9
    refusal: float = 0.5
    language: float = 0.5
    thought: Literal["closed", "any"] = "closed"
    last_steps: int = 0
    per_prompt: int = 1
    near: float = 0.8
    balance: float = 1.0
    flagged: bool = False
    avoid: tuple[str, ...] = ()
    continue_from: Literal["base", "start"] = "base"
    student: str = ""

    @property
    def source(self) -> str:
        return "rollouts"

    def graders(self) -> tuple[str, ...]:
        """All who decide what is trained on, so that none of them is the gold judge."""
        asked = [("refusal", self.refusal < 1), ("language", self.language > 0)]
        return (self.accept, *(name for name, wanted in asked if wanted), "verify")

    def examples(self) -> list[Example]:
        """None of its own: its prompts are those of the grpo stages before it."""
        return []

    def check(self) -> None:
        """Raise `RecipeError` for settings out of range, `DataError` for a suite that is not there."""
        shares = {"least": self.least, "refusal": self.refusal, "language": self.language}
        for key, value in shares.items():
            if not 0 <= value <= 1:
                raise RecipeError(f"stage {self.name!r}: {key} = {value}; wanted a number in [0, 1]")
        if not 0 < self.near <= 1:
            raise RecipeError(f"stage {self.name!r}: near = {self.near}; wanted a similarity in (0, 1]")
        if self.student and self.continue_from == "start":
            raise RecipeError(
                f"stage {self.name!r}: continue_from = 'start' and student = {self.student!r}; wanted one of the two"
            )
        if self.per_prompt < 1 or self.last_steps < 0 or self.balance < 0:
            raise RecipeError(
                f"stage {self.name!r}: per_prompt = {self.per_prompt}, last_steps = {self.last_steps}, balance = {self.balance}; "
                "wanted at least 1, 0 and 0"
            )
        self.fingerprint()

    def fingerprint(self) -> dict[str, Any]:
        """The suites it keeps clear of, and the student's weights. What it reads is decided by the stages before it."""
        avoided = {"avoid": {name: fingerprint(read(name)) for name in self.avoid}}
        return {**avoided, "student": _resolved(self.student)[1]} if self.student else avoided

    def run(self, start: Checkpoint, out: Path, context: Context) -> Checkpoint:
        """Write `rows.jsonl`, `harvest.json` and `work.json`; judges on where an earlier attempt was cut.

        Raises `TrainError` if nothing was accepted, with the reasons.
        """
        found = rollouts(context.earlier)
        rejected: Counter[str] = Counter()
        kept = _sifted(found, [self._unfit(f) for f in found], rejected)
        kept = _sifted(kept, seen_in_proof(kept, [e for name in self.avoid for e in read(name)]), rejected)
        verdicts = judged(kept, [context.graders[name] for name in self.graders()], out, context)
        kept = _sifted(kept, [self._unwanted(f, verdicts[f.hash], context) for f in kept], rejected)
        kept.sort(key=lambda f: (-f.worth, -f.row["step"], f.hash))
        kept = _sifted(kept, repeats(kept, self.near), rejected)
        kept = _sifted(kept, surplus(kept, lambda f: f.completion.example.id, self.per_prompt), rejected)
        kept = _sifted(kept, unbalanced(kept, self.balance), rejected)
        if not kept:
            raise TrainError(self._empty(found, rejected))
        self._write(sorted(kept, key=lambda f: f.hash), found, rejected, verdicts, out, context)
        return handed_on(out, start, context.base or start)

    def _unfit(self, found: "Rollout") -> str | None:
        """Why a rollout cannot be trained on whatever a judge says, or None."""
        c, row = found.completion, found.row
        flagged = any((value or 0) > 0 for value in row.get("flags", {}).values())
        unthought = c.thought != "closed" or blank(c.reasoning)
        reasons = {
            "of an early step": row["step"] < (max(1, found.last - self.last_steps + 1) if self.last_steps else 1),
            "cut by the token cap": c.finish == "length",
            "no closed thought": c.thought == "open" or (self.thought == "closed" and unthought),
            "no answer": blank(c.answer),
            "tags in the text": not _comes_back(c),
            "not paid": row["reward"] is None and not row.get("sampled"),
            "hack seen": flagged and not self.flagged,
            "prompt without a class": found.kind == "",
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def _unwanted(self, found: "Rollout", verdict: Verdict, context: Context) -> str | None:
        """Why the graders do not want a rollout, or None. Not graded is not accepted."""
        bounds = [("judge", self._safe(verdict, context), self.least, "unsafe to the judge")]
        if self.language > 0:
            bounds.append(("language", verdict["language"], self.language, "another language"))
        if self.refusal < 1 and found.kind != "harmful":
            refusal = verdict["refusal"]
            # strictly below: at the bound itself it counts as a refusal
            bounds.append(("refusal", None if refusal is None else float(refusal < self.refusal), 1.0, "refused without need"))
        if found.kind == "reasoning":
            bounds.append(("verify", verdict["verify"], 0.5, "wrong result"))
        for name, value, least, reason in bounds:
            if value is None:
                return f"not graded by {name}"
            if value < least:
                return reason
        return None

    def _safe(self, verdict: Verdict, context: Context) -> float | None:
        """P(safe) by the judge."""
        judge = context.graders[self.accept]
        value = verdict[judge.name]
        return value if value is None or judge.better == "high" else 1 - value

    def _empty(self, found: Sequence["Rollout"], rejected: Counter[str]) -> str:
        told = ", ".join(f"{n} {reason}" for reason, n in rejected.most_common()) or "there were no rollouts"
        return (
            f"stage {self.name!r}: none of {len(found)} rollouts became a row: {told}. Train the grpo stage longer or sample "
            "more, or loosen what the commonest reason names (least, thought, language, refusal, balance)"
        )

    def _write(
        self,
        kept: Sequence["Rollout"],
        found: Sequence["Rollout"],
        rejected: Counter[str],
        verdicts: Mapping[str, Verdict],
        out: Path,
        context: Context,
    ) -> None:
        judge = context.graders[self.accept]
        told = {
            f.hash: {"judge": judge.name, "identity": judge.identity, "safe": self._safe(verdicts[f.hash], context)} for f in kept
        }
        rows = [_row(f, {**told[f.hash], "base": context.base_sha256}) for f in kept]
        write_text(out / "rows.jsonl", "".join(dumps(row) + "\n" for row in rows))
        counts = {"rollouts": len(found), "harvested": len(rows), "rejected": dict(sorted(rejected.items()))}
        facts = {
            **counts,
            "classes": dict(sorted(Counter(f.kind for f in kept).items())),
            "fingerprint": fingerprint(read_dialogues(str(out / "rows.jsonl"))),
            "judge": {"name": judge.name, "identity": judge.identity},
            "from": sorted({f.folder for f in found}),
            "avoid": list(self.avoid),
        }
        write_json(out / "harvest.json", facts)
        append_rows(out / "events.jsonl", [asdict(Event(round(time.time(), 3), "harvested", out.name, counts))])
        write_json(
            out / "work.json", {**Work().as_dict(context.parameters), **counts, "hands_on": self.student or self.continue_from}
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """A journal row: the folder of the stage that sampled it and its last step, its hash, and the completion it holds."""

    folder: str
    last: int
    row: Row
    hash: str
    completion: Completion

    @property
    def kind(self) -> str:
        """The prompt's class, "" if it has none."""
        return self.completion.example.klass

    @property
    def worth(self) -> float:
        """What training paid for it; nothing was paid for the answers of a `sample` stage, which are all worth the same."""
        return 0.0 if self.row["reward"] is None else paid_share(self.row)


def rollouts(earlier: Sequence[Earlier]) -> list[Rollout]:
    """Every answer in the journals of the stages before, oldest first. Raises `TrainError` for a row without a known prompt."""
    found = []
    for stage in earlier:
        rows = read_rows(stage.folder / "rollouts.jsonl.zst")
        known = {e.id: e for e in stage.examples()} if rows else {}
        last = max((r["step"] for r in rows), default=0)
        found += [Rollout(stage.folder.name, last, r, digest(r), _completion(r, known, stage.folder)) for r in rows]
    return found


def _completion(row: Row, known: Mapping[str, Example], folder: Path) -> Completion:
    """What was answered; the prompt is the training example with all its fields, or what the row itself says of it."""
    example = known.get(row["id"])
    if example is None and ("prompt" not in row or "class" not in row):
        raise TrainError(
            f"{folder}: a rollout of step {row['step']} answers {row['id']!r}, which is no prompt of its stage, and does not say "
            "what was asked; delete the folder and train the stage again"
        )
    example = example or Example(
        row["id"], (Message("user", row["prompt"]),), tags=frozenset({row["class"]}), language=row.get("language") or "en"
    )
    raw = row.get("raw") or render(row["reasoning"], row["answer"])
    return Completion(example, row["answer"], row["reasoning"], row["finish"], row["thought"], raw)


def harvested(name: str, earlier: Sequence[Earlier]) -> Path:
    """The rows of the latest stage of that name. Raises `RecipeError` where none ran before."""
    folders = [e.folder for e in earlier if e.name == name]
    if not folders:
        raise RecipeError(f"data = {MADE + name!r}: no such stage ran before; {nearest(name, [e.name for e in earlier])}")
    return folders[-1] / "rows.jsonl"


def handed_on(folder: Path, start: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The model after a harvest that is done. Raises `ModelError` for a student that is not to be had."""
    name = read_json(folder / "work.json")["hands_on"]
    known = {"start": start, "base": base}
    return known[name] if name in known else Checkpoint(_resolved(name)[0])


def _resolved(model: str) -> tuple[Path, str]:
    """Folder and hash of a model."""
    from temper.models.resolve import resolve

    source = resolve(model)
    return source.folder, source.sha256


def judged(found: Sequence[Rollout], graders: Sequence[Named], out: Path, context: Context) -> dict[str, Verdict]:
    """The graders' values by row hash and grader; kept in `verdicts.jsonl` batch by batch, so that none is asked for twice."""
    path = out / "verdicts.jsonl"
    verdicts: dict[str, Verdict] = {r["row"]: r["values"] for r in read_rows(path)}
    missing = [f for f in found if f.hash not in verdicts]
    asked = [remembering(g, context.opinions) for g in graders]
    for begin in range(0, len(missing), BATCH):
        batch = missing[begin : begin + BATCH]
        columns = {g.name: g.grade([f.completion for f in batch]) for g in asked}
        rows = [{"row": f.hash, "values": {n: column[i].value for n, column in columns.items()}} for i, f in enumerate(batch)]
        append_rows(path, rows)
        verdicts.update({r["row"]: r["values"] for r in rows})  # type: ignore[misc]
        context.watch(Progress(context.label, begin + len(batch), len(missing)))
    return verdicts


def seen_in_proof(found: Sequence[Rollout], proof: Sequence[Example]) -> list[str | None]:
    """A reason for each rollout whose prompt or answer a proof also asks."""
    examples = {f.completion.example.id: f.completion.example for f in found}
    prompts = {o.train_id for o in overlaps(list(examples.values()), proof)}
    answers = {o.train_id for o in overlaps([_said(f.hash, f.completion.reasoning, f.completion.answer) for f in found], proof)}
    return ["stands in the proof" if f.completion.example.id in prompts or f.hash in answers else None for f in found]


def repeats(found: Sequence[Rollout], near: float) -> list[str | None]:
    """A reason for each rollout that says almost what an earlier one says to almost the same prompt."""
    told = [
        _said(f.hash, *(m.content for m in f.completion.example.messages), f.completion.reasoning, f.completion.answer)
        for f in found
    ]
    left = {e.id for e in dedupe(told, jaccard=near)}
    return [None if f.hash in left else "almost a repeat" for f in found]


def _said(name: str, *texts: str) -> Example:
    """Texts in the form that overlaps are looked for in."""
    return Example(name, (Message("user", "\n".join(texts)),))


def surplus(found: Sequence[Rollout], group: Callable[[Rollout], str], most: int) -> list[str | None]:
    """A reason for each rollout after the first `most` of its group."""
    counts: dict[str, int] = defaultdict(int)
    reasons: list[str | None] = []
    for each in found:
        counts[group(each)] += 1
        reasons.append("a better answer to its prompt is kept" if counts[group(each)] > most else None)
    return reasons


def unbalanced(found: Sequence[Rollout], balance: float) -> list[str | None]:
    """A reason for each rollout that is too many of its side, harmful or other; `found` has the best first."""
    harmful = sum(f.kind == "harmful" for f in found)
    other = len(found) - harmful
    room = {True: harmful, False: other}
    if balance > 0:
        room = {True: min(harmful, round(balance * other)), False: min(other, round(harmful / balance))}
    reasons: list[str | None] = []
    for each in found:
        side = each.kind == "harmful"
        room[side] -= 1
        reasons.append(None if room[side] >= 0 else f"too many on {'harmful' if side else 'other'} prompts")
    return reasons


def _sifted(found: Sequence[Rollout], reasons: Iterable[str | None], rejected: Counter[str]) -> list[Rollout]:
    """Those without a reason; the reasons of the others are counted."""
    kept = []
    for each, reason in zip(found, reasons, strict=True):
        if reason is None:
            kept.append(each)
        else:
            rejected[reason] += 1
    return kept


def _comes_back(c: Completion) -> bool:
    """Whether thought and answer, written as a trace and read again, are the same: stray think tags would part them otherwise."""
    again = split(render(c.reasoning, c.answer) if c.reasoning else c.answer)
    return (again.reasoning, again.answer) == (c.reasoning.strip(), c.answer.strip())


def _row(found: Rollout, judge: Mapping[str, Any]) -> Row:
    """A dialogue in temper's own schema, with where it comes from."""
    example, row = found.completion.example, found.row
    named = {tag.partition(":")[0]: tag.partition(":")[2] for tag in example.tags if ":" in tag}
    return {
        "id": f"{example.id}.{found.hash}",
        "class": found.kind,
        "category": named.get("category", ""),
        "framing": named.get("framing", ""),
        "prompt": [{"role": m.role, "content": m.content} for m in example.messages],
        "reasoning": found.completion.reasoning,
        "answer": found.completion.answer,
        "target": example.target,
        "language": example.language,
        "group": example.group,
        "source": example.source,
        "license": example.license,
        "split": "train",
        "lineage": {
            "stage": found.folder,
            "step": row["step"],
            "row": found.hash,
            "prompt": example.id,
            "reward": row["reward"],
            **judge,
        },
    }

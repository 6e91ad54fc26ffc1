"""A run folder that no model ever produced: drawn numbers and stock sentences, so that the report can be tested without one."""

import json
import random
from collections import defaultdict
from pathlib import Path

from temper import files
from temper.prove.evidence import Evidence
from temper.prove.summary import summarise
from temper.rewards.combine import Channel, combine

ARMS = {"base": [], "sft": ["sft"], "rl": ["grpo"], "hybrid": ["sft", "grpo"]}
UNSAFE = {"base": 0.62, "sft": 0.34, "rl": 0.45, "hybrid": 0.16}
REFUSES = {"base": 0.03, "sft": 0.12, "rl": 0.06, "hybrid": 0.09}
SUITES = {"harmful": "harm", "borderline": "over-refusal", "benign": "benign", "reasoning": "reasoning"}
CATEGORIES = {
    "harmful": ["fraud", "weapons", "privacy", "self-harm"],
    "borderline": ["homonym", "fiction", "definition"],
    "benign": ["writing", "cooking"],
    "reasoning": ["arithmetic"],
}


def row(
    arm="base",
    kind="harmful",
    number=0,
    sample=0,
    *,
    outcome="answered",
    group="",
    category="",
    answer="A stock sentence.",
    **scores,
):
    """One row as `prove.evaluate` writes it; keyword arguments beyond the named ones are grader values."""
    return {
        "key": f"{arm}-{kind}-{number}-{sample}",
        "suite": SUITES[kind],
        "arm": arm,
        "id": f"{kind}-{number:04d}",
        "group": group,
        "sample": sample,
        "class": kind,
        "category": category or CATEGORIES[kind][number % len(CATEGORIES[kind])],
        "language": "en",
        "prompt": f"Synthetic {kind} prompt number {number}, written by a test.",
        "target": "42" if kind == "reasoning" else None,
        "reasoning": "First a synthetic thought.\nThen another.",
        "answer": answer,
        "raw": f"<think>First a synthetic thought.</think>{answer}",
        "finish": "stop",
        "thought": "closed",
        "outcome": outcome,
        "usage": {"prompt_tokens": 20, "completion_tokens": 60, "seconds": 0.5},
        "scores": {
            name.replace("_", "-"): value if isinstance(value, dict) else {"value": value, "why": "synthetic", "parts": {}}
            for name, value in scores.items()
        },
    }


def drawn_row(rng, arm, kind, number, sample, ease):
    """A row whose luck is shared between arms through `ease`, so that pairs are correlated as real ones are."""
    unsafe = kind == "harmful" and ease < UNSAFE[arm]
    refused = (kind == "harmful" and not unsafe and rng.random() < 0.8) or (
        kind in ("borderline", "benign") and ease < REFUSES[arm]
    )
    outcome = (
        "refused"
        if refused
        else rng.choices(
            ["answered", "truncated_in_thought", "truncated_in_answer", "loop", "empty", "partial"], [80, 7, 6, 4, 1, 2]
        )[0]
    )
    made = row(
        arm,
        kind,
        number,
        sample,
        outcome=outcome,
        answer=""
        if outcome in ("empty", "truncated_in_thought")
        else f"Synthetic {outcome} reply of {arm}. " * rng.randint(1, 6),
        gold=None if rng.random() < 0.02 else (0.9 if unsafe else 0.1) if kind == "harmful" else None,
        harm=(0.8 if unsafe and rng.random() < 0.8 else 0.2) if kind == "harmful" else None,
        readability=rng.betavariate(6, 3),
        repetition=rng.betavariate(1, 12),
        format=float(rng.random() < (0.4 if arm == "base" else 0.95)),
        language={"value": 0.97, "why": "", "parts": {"answer": rng.betavariate(40, 1), "reasoning": rng.betavariate(20, 1)}},
        verify=float(rng.random() < 0.3) if kind == "reasoning" else None,
    )
    made["usage"]["completion_tokens"] = rng.randint(20, 200)
    made["thought"] = "open" if outcome == "truncated_in_thought" else "closed" if rng.random() < 0.9 else "none"
    return made


def rows_by_arm(n=120, samples=1, seed=0, arms=tuple(ARMS)):
    rng = random.Random(seed)
    eases = [(kind, number, sample, rng.random()) for kind in SUITES for number in range(n) for sample in range(samples)]
    return {arm: [drawn_row(rng, arm, kind, number, sample, ease) for kind, number, sample, ease in eases] for arm in arms}


def changed(rows, how, *, worse=0.0, seed=0, **more):
    """The rows of a suite as a rewrite or an attack made of it: same ids, another suite, some outcomes `worse`."""
    rng, kind = random.Random(seed), how.partition(":")[2]
    made = []
    for r in rows:
        of = r["suite"]
        turned = r["class"] == "harmful" and r["outcome"] == "refused" and rng.random() < worse
        scores = {**r["scores"], "gold": {"value": 0.9, "why": "turned", "parts": {}}} if turned else r["scores"]
        asked = [{"role": "user", "content": f"{kind}: {r['prompt']}"}]
        new = {"suite": f"{of}+{kind}", "of": of, "how": [how], "asked": asked, "scores": scores, **more}
        made.append({**r, **new, "outcome": "answered" if turned else r["outcome"], "key": f"{kind}-{r['key']}"})
    return made


def failed(made, why="HTTP 500 after 4 tries"):
    """A row whose completion never came."""
    empty = dict.fromkeys(("reasoning", "answer", "raw"), "")
    silent = {name: {"value": None, "why": "not asked", "parts": {}} for name in made["scores"]}
    return {**made, **empty, "finish": "error", "thought": "none", "outcome": "error", "error": why, "scores": silent}


def varied_rows(n=40, seed=0):
    """Rows of every kind: three languages, a rewritten and an attacked suite, and replies that never came."""
    spoken, found = ("en", "zh", "fr"), {}
    for arm, plain in rows_by_arm(n, seed=seed).items():
        rows = [{**r, "language": spoken[int(r["id"][-1]) % 3]} for r in plain]
        rows = [failed(r) if r["id"].endswith("7") else r for r in rows]
        harm = [r for r in rows if r["class"] == "harmful"]
        attacked = changed(harm, "attack:persona", worse=0.6, seed=seed, facts={"turns": 1, "queries": 3})
        found[arm] = [*rows, *changed(harm, "rewrite:shots=3", worse=0.1, seed=seed), *attacked]
    return found


def grpo_steps(steps=60, seed=1):
    rng = random.Random(seed)
    for step in range(1, steps + 1):
        rise = 1 - 0.97**step
        yield {
            "step": step, "tokens": 2000 * step, "seconds": 4.0 * step, "tokens_per_second": 500.0, "loss": 0.01,
            "kl": 0.02 * rise,
            "entropy": 2.0 - rise, "reward": 0.4 + 0.4 * rise + rng.gauss(0, 0.02), "reward_sd": 0.2,
            "proxy": 0.4 + 0.45 * rise + rng.gauss(0, 0.02),
            "gold": 0.38 + 0.3 * rise + rng.gauss(0, 0.03) if step % 5 == 0 else None, "gold_n": 16 if step % 5 == 0 else 0,
            "unscored": 0.01, "zero_variance": 0.4, "completion_tokens": 90, "truncated": 0.1,
            "weights": {"harm": 0.5 + 0.3 * rise, "refusal": 0.3 - 0.1 * rise, "language": 0.1, "format": 0.1},
            "columns": {"harm": 0.6 - 0.4 * rise, "refusal": 0.2 + 0.2 * rise, "language": 0.95, "format": 0.5 + 0.5 * rise},
        }  # fmt: skip


def run_facts():
    cost = {"seconds": 300.0, "tokens": 120_000, "flops": 9.7e13, "peak_memory_bytes": 1_500_000_000}
    tested = {
        "seconds": 90.0,
        "prompt_tokens": 9_000,
        "completion_tokens": 40_000,
        "flops": 1.3e13,
        "peak_memory_bytes": 900_000_000,
    }
    return {
        "name": "synthetic",
        "command": "temper run synthetic.toml",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "seed": 7,
        "started": 1_760_000_000.0,
        "finished": 1_760_003_600.0,
        "machine": {"cpu": "none", "cores": 2, "memory_bytes": 8_000_000_000},
        "versions": {"python": "3.11.0", "temper": "0.1.0"},
        "recipe": {"seed": 7, "max_tokens": 200, "prove": {"suites": ["harm"], "max_tokens": 200}},
        "model": {"name": "synthetic-0m", "sha256": "ab" * 32, "parameters": 135_000_000},
        "graders": {
            "harm": {"identity": "harm:1234", "role": "reward", "card": "Drawn numbers. AUC 0.91 on nothing."},
            "gold": {"identity": "gold:5678", "role": "gold", "card": "Drawn numbers. AUC 0.93 on nothing."},
            "repetition": {"identity": "repetition:9", "role": "monitor", "card": ""},
        },
        "arms": ARMS,
        "stages": {
            "aaaa-sft": {"kind": "sft", "arms": ["sft", "hybrid"], **cost},
            "bbbb-grpo": {"kind": "grpo", "arms": ["rl"], **cost},
            "cccc-grpo": {"kind": "grpo", "arms": ["hybrid"], **cost},
        },
        "evals": {f"{suite}@{arm}": tested for suite in SUITES.values() for arm in ARMS},
        "data": {"cold-start": {"fingerprint": "feed" * 4, "n": 400}},
        "resumed": 1,
    }


def write_run(folder: Path, by_arm=None, facts=None, *, held_out=("privacy",), summary=True):
    """A whole run folder as `temper run` lays it out, without checkpoints."""
    by_arm, facts = by_arm or rows_by_arm(), facts or run_facts()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text('base = "synthetic-0m"\nseed = 7\n')
    files.write_json(folder / "run.json", facts)
    for name in ("bbbb-grpo", "cccc-grpo"):
        files.append_rows(folder / "stages" / name / "metrics.jsonl", grpo_steps(seed=len(name)))
    sft = [
        {"step": s, "tokens": 900 * s, "seconds": s, "tokens_per_second": 900, "loss": 2 / s, "lr": 1e-4} for s in range(1, 30)
    ]
    files.append_rows(folder / "stages" / "aaaa-sft" / "metrics.jsonl", sft)
    for arm, rows in by_arm.items():
        for suite in {r["suite"] for r in rows}:
            files.append_rows(folder / "evals" / f"{suite}@{arm}" / "rows.jsonl", [r for r in rows if r["suite"] == suite])
    if summary:
        made = summarise(Evidence(by_arm, held_out=tuple(held_out)), command=facts["command"], commit=facts["commit"])
        (folder / "summary.json").write_text(json.dumps(made))
    return folder


JOURNAL_BETTER = {"helpful": "high", "rules": "high", "harm": "low", "gold": "low"}


def rollout(rng, step, number, kind, *, safe, hack, weights, penalties, gold=True, refuses=0.05):
    """One journal row: a hacked answer is unsafe to gold and pleases the rules; `safe` and `hack` are probabilities."""
    hacked = kind == "harmful" and rng.random() < hack
    fine = kind == "benign" or (not hacked and rng.random() < safe)
    liked = float(fine or hacked)
    return {
        "step": step,
        "id": f"{kind}-{number:04d}",
        "class": kind,
        "prompt": "Synthetic prompt.",
        "language": "en",
        "reasoning": "",
        "answer": "Synthetic answer.",
        "finish": "stop",
        "thought": "closed",
        "raw": "Synthetic answer.",
        "scores": {
            "helpful": {"value": min(1.0, max(0.0, rng.gauss(0.6, 0.1)))},
            "rules": {"value": min(1.0, max(0.0, rng.gauss(0.2 + 0.6 * liked, 0.1)))},
            "over-refusal": {"value": float(rng.random() < refuses) if kind == "benign" else None},
            "gold": {"value": 1.0 - fine if gold and kind == "harmful" else None},
        },
        "flags": {
            "refusal-prefix": float(hacked and rng.random() < 0.8),
            "disclaimer-stuffing": float(rng.random() < 0.01),
            "harm-in-reasoning": None if kind == "benign" else float(rng.random() < 0.02),
        },
        "learned": None,
        "audit": None,
        "weights": weights,
        "penalties": penalties,
        "reward": None,
        "advantage": 0.0,
        "think_advantage": 0.0,
    }


def journal(steps=60, answers=32, start=512, seed=0, *, safe=lambda t: 0.5, hack=lambda t: 0.0, multiplier=lambda t: 1.0):
    """Rows of a stage's journal, step 0 first; `safe`, `hack` and `multiplier` are functions of the share of training done."""
    rng, rows = random.Random(seed), []
    for step in range(steps + 1):
        t = step / steps
        weights = {"helpful": 0.3, "rules": multiplier(t)} if step else {}
        penalties = {"refusal-prefix": 0.2} if step else {}
        for i in range(start if step == 0 else answers):
            kind = "harmful" if i % 4 else "benign"
            number = rng.randrange(400)
            rows.append(rollout(rng, step, number, kind, safe=safe(t), hack=hack(t), weights=weights, penalties=penalties))
    return rows


def kept(rows, better):
    """The rows with rewards by their own weights, and reference.jsonl: the start paid anew whenever these changed."""
    start, by_step = [r for r in rows if r["step"] == 0], defaultdict(list)
    for r in rows:
        by_step[r["step"]].append(r)
    steps = sorted(step for step in by_step if step)
    weights, penalties, reference, paid = {}, {}, [], {0: [None] * len(by_step[0])}
    for step in [*reversed(steps), *steps]:  # a class that a step lacks is paid as when it was last seen, or as it will first be
        weights |= {r["class"]: r["weights"] for r in by_step[step]}
        penalties |= {r["class"]: r["penalties"] for r in by_step[step]}
        paid[step] = rewards(by_step[step], weights, penalties, better)
        at = {"step": step - 1, "rewards": rewards(start, weights, penalties, better)}
        reference = [at] if step == steps[0] else [*reference, at]
    changed = [row for i, row in enumerate(reference) if i == 0 or row["rewards"] != reference[i - 1]["rewards"]]
    own = {step: iter(values) for step, values in paid.items()}
    return [{**r, "reward": next(own[r["step"]])} for r in rows], changed


def rewards(rows, weights, penalties, better):
    """What each row is paid by its class's weights and penalties; None for one that a channel cannot score beside its group."""
    channels = [
        Channel(
            name,
            [r["scores"].get(name, {}).get("value") if name in weights.get(r["class"], {}) else None for r in rows],
            [weights.get(r["class"], {}).get(name, 0.0) for r in rows],
            better[name],
        )
        for name in dict.fromkeys(name for at in weights.values() for name in at)
    ]
    channels += [
        Channel(name, [r["flags"].get(name) for r in rows], [penalties.get(r["class"], {}).get(name, 0.0) for r in rows], "low")
        for name in dict.fromkeys(name for at in penalties.values() for name in at)
    ]
    found = combine(channels, [str(r["id"]) for r in rows]).rewards
    return [reward if r["class"] in weights else None for r, reward in zip(rows, found, strict=True)]


def journal_steps(rows, kl=lambda t: 4 * t):
    """The metrics rows of a journal: KL in nats an answer, hack rates, multipliers, penalties and labels."""
    by_step = {}
    for r in rows:
        by_step.setdefault(r["step"], []).append(r)
    last = max(by_step)
    made = list(grpo_steps(last))
    for line in made:
        of, t = by_step[line["step"]], line["step"] / last
        rates = {name: [r["flags"][name] for r in of if r["flags"][name] is not None] for name in of[0]["flags"]}
        golds = [1 - r["scores"]["gold"]["value"] for r in of if r["scores"]["gold"]["value"] is not None]
        line.update(
            kl_sequence=kl(t),
            hacks={name: sum(v) / len(v) for name, v in rates.items()},
            hack_rate=sum(any(f for f in r["flags"].values()) for r in of) / len(of),
            gold=sum(golds) / len(golds),
            gold_n=len(golds),
            weights=of[0]["weights"],
            multipliers={"harmful": of[0]["weights"]["rules"], "benign": 1.0},
            penalties=of[0]["penalties"],
            labels=300 + 10 * line["step"],
        )
    return made


def stage_events():
    """Events as a stage with adaptation writes them."""
    at = 1_760_000_000.0
    told = [
        (20, "multiplier changed", "harmful", {"from": 1.0, "to": 1.4}),
        (20, "reward released", "learned", {"auc": 0.83}),
        (30, "penalty changed", "refusal-prefix", {"from": 0.2, "to": 0.6}),
        (38, "alarm", "gap", {"value": 0.21}),
        (40, "release refused", "learned", {"twins": "repetition"}),
        (41, "rolled back", "policy", {"to": 20, "beta_factor": 2.0}),
    ]
    return [
        {"at": at + 60 * step, "kind": kind, "subject": subject, "data": {"step": step, **data}}
        for step, kind, subject, data in told
    ]


def write_gamed_run(folder: Path):
    """A run whose arm `rl` learned to please its reward and whose arm `hybrid` did not."""
    from temper.prove.gaming import Ablation, gaming
    from temper.prove.gap import Gold
    from temper.stats import Estimate

    def hack(t):
        return max(0.0, min(0.9, 2 * (t - 0.35)))

    def safe(t):
        return 0.5 + 0.45 * min(1.0, t / 0.3)

    write_run(folder)
    ablated = Ablation(
        "refusal-prefix", "harm", 60, Estimate(0.21, 58, 0.17, 0.26), Estimate(0.74, 58, 0.68, 0.8), Estimate(0.53, 58, 0.46, 0.6)
    )
    found = {}
    for name, journaled in (
        ("bbbb-grpo", journal(start=700, safe=safe, hack=hack, multiplier=lambda t: 1.0 if t < 0.34 else 1.4)),
        ("cccc-grpo", journal(start=500, safe=lambda t: 0.5 + 0.45 * t, seed=1)),
    ):
        steps = journal_steps(journaled)
        for line in steps:
            line["kappa"] = 1.0 + 0.02 * (line["step"] // 20)
            line["penalties"] = dict.fromkeys(("repetition", "prompt-copy"), 1.0) | {
                "refusal-prefix": 0.2 if line["step"] < 30 else 0.6
            }
        (folder / "stages" / name / "metrics.jsonl").unlink()
        files.append_rows(folder / "stages" / name / "metrics.jsonl", steps)
        ablations = [ablated] if name == "bbbb-grpo" else []
        monitored = {"delta": {"value": -0.08, "n": 300, "low": -0.15, "high": -0.01}}
        paid, reference = kept(journaled, JOURNAL_BETTER)
        made = gaming(paid, steps, Gold("gold"), reference=reference, ablations=ablations, monitorability=monitored)
        found[name] = made.as_dict()
    files.append_rows(folder / "stages" / "bbbb-grpo" / "events.jsonl", stage_events())
    summary = files.read_json(folder / "summary.json")
    files.write_json(folder / "summary.json", {**summary, "gaming": found})
    return folder

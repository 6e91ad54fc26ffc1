"""The card of the harm encoder: every head of the shipped file measured on the development rows, and what no rows can tell.

`temper graders card` measures the graders made of it (tools/card_labels.py), and keeps the facts and limits written here.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grading
import harm_data
import numpy as np
from grading import Item

from temper.files import write_json
from temper.graders.harm import HAZARDS
from temper.models.encoder import OVERLAP, PROMPT_ROOM, SIZE, Encoder

RESPONSES = ("gptfuzz_responses", "jbb_artifacts", "aisafetylab", "diasafety", "latent_jailbreak")
"""The sources of dev rows with labelled answers, which are also measured together."""
LIMITS = (
    "English and simplified Chinese; elsewhere the grader abstains, and never says safe.",
    "Fewer than ten words of another language in Latin script cannot be told from English and are read as such.",
    "Encodings that look like words (rot13, leetspeak, spaced letters) are read as they stand.",
    "Answers of chat models of 2023, small talk, and few distinct harmful requests (57 questions in gptfuzz_responses).",
    "Small talk (diasafety) is judged poorly: labels there depend on context; use another grader for chit-chat.",
    "The hazard cse has no rows in any source and is never told; src, iwp, ipv and sxc have fewer than 120 each.",
    "Hazards of an answer rest on few sources; the accuracy below is that of requests.",
    "Half of the rows of gptfuzz_responses share their question with rows of the gold judge's sources; no answers are shared.",
    "It can be gamed, like every reward: compare with `gold`, and read rows.",
)


REQUEST_LIMITS = (
    "Requests of coconot, which are not to be complied with for reasons other than harm, are mostly missed or confused.",
    "Harmless prompts about dark subjects are flagged more often than others; measure on your own before you filter with it.",
    "English and simplified Chinese; elsewhere the grader abstains.",
)
REQUESTS = (
    "advbench, ailuminate, catqa, dangerousqa, inthewild_jailbreaks, cyberseceval_frr, gsm8k, alpaca_demo, dpo_demo; in Chinese "
    "jade, catqa, cyberseceval_injection, cvalues, safetybench_zh, alpaca_demo, dpo_demo (train splits)"
)
"""What the request heads of both readers learnt from."""
CHINESE = (
    "the Chinese reader on jade_align, latent_jailbreak, alpaca_demo, dpo_demo and their English neighbours (card of harm-zh)"
)


def write(data: Path, out: Path, encoder: Encoder, note: dict[str, Any], settings: dict[str, Any], rows: int | None) -> None:
    items = grading.dev_items(data)[:: 1 if rows is None else 40]
    began = time.process_time()
    found = encoder.probabilities([(i.prompt, i.response) for i in items])
    speed = len(items) / (time.process_time() - began)
    heads = {
        "refusal": refusals(data, encoder, rows),
        "request": requests(data, encoder, rows),
    }
    named = hazards(data, encoder, rows)
    told = facts(note, settings, speed, named)
    write_requests(out.parent / "request-harm", told)
    grading.write_card(
        out,
        {
            "name": "harm",
            "what": "P(a response is unsafe as an answer to its prompt). A reward; its independent judge is `gold`. "
            "The same network tells refusals, harmful requests (`request-harm`) and the hazard.",
            "facts": told,
            "sources": pooled(items, found[:, 0], encoder.thresholds["unsafe"]),
            "heads": heads,
            "hazards": named,
            "limits": LIMITS,
        },
    )


def write_requests(folder: Path, told: dict[str, Any]) -> None:
    """What the card of `request-harm` says beside its figures, which `temper graders card` adds."""
    kept = {name: told[name] for name in ("model", "languages", "calibration", "hazards")}
    what = "P(a prompt asks for harm), from the prompt alone, by the networks of `harm`."
    seed = {
        "name": "request-harm",
        "what": what,
        "facts": {**kept, "trained on": REQUESTS},
        "limits": REQUEST_LIMITS,
        "sources": {},
    }
    write_json(folder / "card.json", seed)


def facts(note: dict[str, Any], settings: dict[str, Any], speed: float, named: dict[str, Any]) -> dict[str, Any]:
    told = {
        name: f"slope {h['slope']:.3f}, offset {h['offset']:.3f}, threshold {h['threshold']}"
        for name, h in settings["heads"].items()
    }
    fitted = ", ".join(f"{k} {v}" for k, v in note["setting"].items())
    return {
        "model": "MiniLM (6 layers, 22.7 M parameters), mean over tokens, 15 heads; int8 weights, fp32 arithmetic",
        "reads": f"prompt (at most {PROMPT_ROOM} tokens) and response in windows of {SIZE} tokens that share {OVERLAP}; "
        "a prompt alone in windows too; the maximum counts",
        "languages": "en by this network; zh by the Chinese reader (card of harm-zh)",
        "trained on": f"{', '.join(harm_data.OWN)} (pairs) and {', '.join(harm_data.ASKED)} (requests), train splits, English: "
        f"{note['fitted_items']} items with crossed pairs, one fit from the pretrained MiniLM in {note['seconds']} s; {fitted}; "
        f"items {note['items']['fit']}; {CHINESE}",
        "calibration": f"Platt scaling on {note['held_out_items']} held-out train items ({note['items']['held_out']}): "
        + "; ".join(f"{name}: {text}" for name, text in told.items()),
        "threshold": f"{settings['heads']['unsafe']['threshold']} "
        "(from 0.5 on, the best sensitivity + specificity with specificity of at least 0.95 on held-out assistant answers)",
        "speed": f"{speed:.0f} rows below per CPU second, one thread, on a shared machine",
        "hazards": f"top-1 of AILuminate's twelve on {named['n']} labelled dev requests: "
        "{:.2f} [{:.2f}, {:.2f}]".format(*named["top-1 accuracy"]),
    }  # fmt: skip


def pooled(items: Sequence[Item], p: grading.Floats, threshold: float) -> dict[str, Any]:
    """By source, then all labelled answers together and all rows together (English, the one language read)."""
    out = grading.figures(items, p, threshold, harm_data.OWN)
    mine = [n for n, i in enumerate(items) if i.source in RESPONSES]
    for name, index in (("all labelled answers", mine), ("all (en)", list(range(len(items))))):
        out[name] = {"trained_on": True, **grading.measure([items[n] for n in index], p[index], threshold)}
    return out


def refusals(data: Path, encoder: Encoder, rows: int | None) -> dict[str, Any]:
    """Answers that are marked as refusals or not, and everyday help."""
    one = dict.fromkeys
    told = [
        Item(r["id"], r["prompt"], r["response"], float(r["refusal"]), r["source"], r["group"])
        for r in grading.read(data, "responses")
        if r["split"] == "dev" and r["language"] == "en" and r.get("refusal") is not None
    ]
    help_ = grading.helpful(data, "dev", one(["alpaca_demo", "dolly_subset", "user_oriented"], 1.0))
    items = [*told, *help_][:: 1 if rows is None else 40]
    p = encoder.probabilities([(i.prompt, i.response) for i in items])[:, 1]
    return figures(items, p, encoder.thresholds["refusal"])


def requests(data: Path, encoder: Encoder, rows: int | None) -> dict[str, Any]:
    items = [
        Item(r["id"], r["text"], "", float(r["label"] == "harmful"), r["source"], r["group"])
        for r in grading.read(data, "prompts")
        if (r["split"], r["language"]) == ("dev", "en")
        and r["label"] != "unrated"
        and "messages" not in r
        and r["kind"] != "text"
    ]
    help_ = grading.helpful(data, "dev", dict.fromkeys(["alpaca_demo", "dolly_subset", "user_oriented"], 1.0))
    maths = [
        Item(r["id"], r["question"], "", 0.0, r["source"], r["group"])
        for r in grading.read(data, "reasoning")
        if r["split"] == "dev" and r["source"] in ("gsm8k", "svamp")
    ]
    items = [*items, *(replace(i, response="") for i in help_), *maths[::5]][:: 1 if rows is None else 40]
    p = np.array([o.harmful for o in encoder.requests([i.prompt for i in items])])
    words = [replace(i, response=i.prompt) for i in items]
    return figures(words, p, encoder.thresholds["request"])


def figures(items: list[Item], p: grading.Floats, threshold: float) -> dict[str, Any]:
    out = grading.figures(items, p, threshold, (*harm_data.OWN, *harm_data.ASKED))
    return {**out, "all (en)": {"trained_on": True, **grading.measure(items, p, threshold)}}


def hazards(data: Path, encoder: Encoder, rows: int | None) -> dict[str, Any]:
    """How often the top hazard of a harmful request is one its category has, by hazard; rows without a mapping are left out."""
    kept = [
        (
            r["text"],
            {h for h, on in harm_data.hazards(r["source"], r.get("category", ""), harmful=True).items() if on},
            r["group"],
        )
        for r in grading.read(data, "prompts")
        if (r["split"], r["language"]) == ("dev", "en") and r["source"] in ("ailuminate", "catqa")
    ]
    kept = [row for row in kept if row[1]][:: 1 if rows is None else 10]
    found = encoder.requests([text for text, _, _ in kept])
    hit = np.array([HAZARDS[int(np.argmax(o.hazards))] in true for o, (_, true, _) in zip(found, kept, strict=True)], dtype=float)
    by = {h: [n for n, (_, true, _) in enumerate(kept) if h in true] for h in HAZARDS}
    return {
        "n": len(kept),
        "top-1 accuracy": grading.interval(hit, [group for _, _, group in kept]),
        "recall": {h: {"n": len(index), "top-1": round(float(hit[index].mean()), 2)} for h, index in by.items() if index},
    }

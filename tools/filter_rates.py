"""How often the filters fire on rows that people called benign or safe, and what a call costs: the figures of docs/policy.md.

    python tools/filter_rates.py DATA [harm|risk|language|lint|injection|speed ...] [--rows 400]

DATA is a folder with `prompts`, `responses`, `sft`, `reasoning` and `langtext` as .jsonl.gz; only rows of the split `dev` are
read.
Of each source at most `--rows` rows, chosen by a hash of their id, are judged. Streams are judged sentence by sentence, as the
gateway does: one finding anywhere counts the whole answer.
"""

import argparse
import gzip
import hashlib
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from temper.serve.verdict import Action, Channel, Turn, View
from temper.stats import proportion
from temper.types import Example, Message

Row = Mapping[str, Any]
LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.98)
_SENTENCE = re.compile(r"[^.!?。！？\n]*[.!?。！？\n]+|[^.!?。！？\n]+$")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("data", type=Path)
    options.add_argument("which", nargs="*", default=["harm", "risk", "language", "lint", "speed"])
    options.add_argument("--rows", type=int, default=400)
    given = options.parse_args()
    for which in given.which:
        print(f"\n## {which}", flush=True)
        KINDS[which](given.data, given.rows)


def rows(data: Path, name: str, most: int, keep: Callable[[Row], bool]) -> dict[str, list[Row]]:
    """Dev rows by source, at most so many of each, chosen by a hash of their id."""
    found: dict[str, list[Row]] = defaultdict(list)
    with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["split"] == "dev" and keep(row):
                found[row["source"]].append(row)
    chosen = {s: sorted(held, key=lambda r: hashlib.sha256(r["id"].encode()).digest())[:most] for s, held in found.items()}
    return dict(sorted(chosen.items()))


def told(what: str, source: str, hits: int, n: int, more: str = "") -> None:
    rate = proportion(hits, n)
    print(f"{what:28s} {source:22s} {hits:4d}/{n:<4d} {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] {more}", flush=True)


def turn(prompt: str, language: str = "") -> Turn:
    return Turn("row", Example("row", (Message("user", prompt),)), language=language)


def streamed(text: str) -> Iterator[tuple[str, int, bool]]:
    """The text so far, where its unread part begins, and whether it is whole, at each end of a sentence."""
    ends = [m.end() for m in _SENTENCE.finditer(text)] or [len(text)]
    for start, end in zip([0, *ends], ends, strict=False):
        yield text[:end], start, end == ends[-1]


def fires(judge: Any, channel: Channel, text: str, asked: Turn, stream: bool) -> bool:
    parts = streamed(text) if stream else [(text, 0, True)]
    found = [f for part, fresh, final in parts for f in judge(View(channel, part, asked, fresh, final))]
    return any(f.action is not Action.ALLOW for f in found)


def harm(data: Path, most: int) -> None:
    """Each text is judged once with a threshold of almost nothing; the rates at several thresholds are read off its scores."""
    wanted = ("request", "question")
    for label in ("benign", "harmful"):
        for source, held in rows(data, "prompts", most, lambda r, x=label: r["label"] == x and r["kind"] in wanted).items():
            at_levels(f"input {label}", source, [highest(Channel.INPUT, r["text"], turn(""), False) for r in held])
    for source, held in rows(data, "reasoning", most, lambda r: r["language"] in ("en", "zh")).items():
        at_levels("input benign", source, [highest(Channel.INPUT, r["question"], turn(""), False) for r in held])
    said = [
        (f"answer {label}", source, r["prompt"], r["response"])
        for label in ("safe", "unsafe")
        for source, held in rows(data, "responses", most, lambda r, x=label: r["label"] == x).items()
        for r in held
    ]
    for tag, what in (("helpful", "answer helpful"), ("safety_reasoning", "thought safe")):
        for source, held in rows(data, "sft", most, lambda r, x=tag: r["tag"] == x).items():
            said += [(what, source, _said(r, "user"), _thought(r)) for r in held]
    for source, held in rows(data, "reasoning", most, lambda r: bool(r.get("rationale")) and r["language"] == "en").items():
        said += [("thought harmless", source, r["question"], r["rationale"]) for r in held]
    for what, source in dict.fromkeys((w, s) for w, s, _, _ in said):
        mine = [(p, t) for w, s, p, t in said if (w, s) == (what, source)]
        for stream in (False, True):
            scores = [highest(Channel.CONTENT, text, turn(prompt), stream) for prompt, text in mine]
            at_levels(f"{what}, {'streamed' if stream else 'whole'}", source, scores)


def highest(channel: Channel, text: str, asked: Turn, stream: bool) -> float:
    """The highest P(unsafe) that any scan of the text gives; 0.0 where nothing was judged."""
    from temper.serve.filters.harm import Harm

    judge = Harm(threshold=1e-9, request_threshold=1e-9)
    parts = streamed(text) if stream else [(text, 0, True)]
    return max(
        (f.score or 0.0 for part, fresh, final in parts for f in judge(View(channel, part, asked, fresh, final))), default=0.0
    )


def at_levels(what: str, source: str, scores: list[float]) -> None:
    for level in LEVELS:
        told(what, source, sum(s >= level for s in scores), len(scores), f"P >= {level}")


def _said(row: Row, role: str) -> str:
    return next(m["content"] for m in reversed(row["messages"]) if m["role"] == role)


def _thought(row: Row) -> str:
    from temper.text.split import split

    said = _said(row, "assistant")
    return split(said).reasoning or said


def risk(data: Path, most: int) -> None:
    from temper.serve.filters.risk import Risk

    judge = Risk()
    for source, held in rows(data, "prompts", most, lambda r: r["label"] == "benign" and r["kind"] != "injection").items():
        told("input benign", source, sum(fires(judge, Channel.INPUT, r["text"], turn(r["text"]), False) for r in held), len(held))
    for source, held in rows(data, "sft", most, lambda r: r["tag"] == "helpful").items():
        told(
            "input helpful", source, sum(fires(judge, Channel.INPUT, _said(r, "user"), turn(""), False) for r in held), len(held)
        )
    for source, held in rows(data, "reasoning", most, lambda r: True).items():
        told("input reasoning", source, sum(fires(judge, Channel.INPUT, r["question"], turn(""), False) for r in held), len(held))


def language(data: Path, most: int) -> None:
    from temper.serve.filters.language import Language

    judge = Language()

    def fired(text: str, asked: Turn) -> bool:
        return any(True for part, fresh, final in streamed(text) for _ in judge(View(Channel.CONTENT, part, asked, fresh, final)))

    for source, held in rows(data, "sft", most, lambda r: r["tag"] == "helpful").items():
        told("answer helpful", source, sum(fired(_said(r, "assistant"), turn(_said(r, "user"))) for r in held), len(held))
    for source, held in rows(data, "langtext", most, lambda r: True).items():
        told("text, its own language", source, sum(fired(r["text"], turn("", r["language"])) for r in held), len(held))
        other = [(r["text"], turn("", "fr" if r["language"] == "en" else "en")) for r in held]
        told("text, another language", source, sum(fired(*each) for each in other), len(held))


def lint(data: Path, most: int) -> None:
    from temper.serve.lint import CHECKS
    from temper.serve.lint import lint as linted
    from temper.serve.policy import Lint

    for source, held in rows(
        data, "prompts", most, lambda r: r["label"] == "benign" and r["kind"] in ("request", "question")
    ).items():
        found = [{x.check for x in linted((Message("user", r["text"]),), Lint())} for r in held]
        for check in CHECKS[:4]:
            told(f"lint {check}", source, sum(check in f for f in found), len(held))
    for source, held in rows(data, "sft", most, lambda r: r["tag"] == "helpful").items():
        found = [{x.check for x in linted((Message("user", _said(r, "user")),), Lint())} for r in held]
        for check in CHECKS[:4]:
            told(f"lint {check}", source, sum(check in f for f in found), len(held))


def speed(data: Path, most: int) -> None:
    """CPU milliseconds of a harm call, by tokens of the stretch and by traffic, with the sieve and without; use one thread.

    A stretch is what answers of one kind on end hold from a random place on, judged as an answer to the first one's request.
    """
    from temper.catalog import _english
    from temper.serve.filters.harm import Harm

    tokenizer, rng = _english().tokenizer, random.Random(0)
    helpful = [r for held in rows(data, "sft", most, lambda r: _is(r, "helpful")).values() for r in held]
    thoughts = [r for held in rows(data, "sft", most, lambda r: _is(r, "safety_reasoning")).values() for r in held]
    unsafe = [
        r
        for held in rows(data, "responses", most, lambda r: (r["label"], r["language"]) == ("unsafe", "en")).values()
        for r in held
    ]
    traffic = {
        "helpful answers": [(_said(r, "user"), _said(r, "assistant")) for r in helpful],
        "thoughts about harm": [(_said(r, "user"), _thought(r)) for r in thoughts],
        "unsafe answers": [(r["prompt"], r["response"]) for r in unsafe],
    }
    alone, both = {"0.9": Harm(threshold=0.9)}, {"0.9": Harm(threshold=0.9), "0.9, no sieve": Harm(threshold=0.9, sieve=False)}
    spent("helpful answers, not in turns", alone, [_stretch(tokenizer, rng, traffic["helpful answers"], 512) for _ in range(101)])
    for what, pairs in traffic.items():
        # the rest of the time is spent on what most of a gateway's traffic is
        often = what == "helpful answers"
        for size, n in ((512, 101 if often else 31), *(((64, 31), (128, 31), (256, 31)) if often else ())):
            spent(f"{what}, {size} tokens", both, [_stretch(tokenizer, rng, pairs, size) for _ in range(n)])


def spent(what: str, judges: Mapping[str, Any], cut: Sequence[tuple[str, str]]) -> None:
    for at, took in timed(judges, cut).items():
        told_of = " ".join(f"p{q} {took[len(took) * q // 100]:.1f}" for q in (50, 90, 99))
        print(f"{what}, at {at}: {told_of} ms of CPU, n {len(took)}", flush=True)


def _is(row: Row, tag: str) -> bool:
    return (row["tag"], row["language"]) == (tag, "en")


def _stretch(tokenizer: Any, rng: random.Random, pairs: Sequence[tuple[str, str]], size: int) -> tuple[str, str]:
    """A request, and so many tokens of its answer and as many other answers as it takes."""
    drawn = rng.sample(pairs, 60)
    text = " ".join(" ".join(answer for _, answer in drawn).split(" ")[rng.randrange(100) :])
    ids = tokenizer.encode(text, add_special_tokens=False)
    return drawn[0][0], text[: ids.offsets[size - 1][1]]


def timed(judges: Mapping[str, Any], cut: Sequence[tuple[str, str]]) -> dict[str, list[float]]:
    """Sorted CPU milliseconds of each judge, taking turns on the same texts."""
    took: dict[str, list[float]] = {name: [] for name in judges}
    for prompt, text in cut:
        for name, judge in judges.items():
            view = View(Channel.CONTENT, text, turn(prompt))
            begun = time.process_time()
            judge(view)
            took[name].append((time.process_time() - begun) * 1000)
    return {name: sorted(each[1:]) for name, each in took.items()}


def injection(data: Path, most: int) -> None:
    """The filter `injection`: its signs alone, its learnt rule alone, and both, as a user's text and as a tool's."""
    import train_injection as made  # lies beside this file

    from temper.serve.filters.injection import Injection

    judge = Injection()

    def line(what: str, source: str, texts: list[str], role: str) -> None:
        found = [{f.rule.startswith("learnt") for f in judge(View(Channel.INPUT, text, turn(""), role=role))} for text in texts]
        signs, learnt = sum(False in f for f in found), sum(True in f for f in found)
        told(what, source, sum(map(bool, found)), len(texts), f"signs {signs}, learnt {learnt}")

    def lines(what: str, cases: Iterable[Any], role: str) -> list[str]:
        cases = list(cases)
        for source, held in made.by_source(cases).items():
            line(what, source, [c.text for c in made.few(held, most)], role)
        return [c.text for c in cases]

    lines("attack", made.attacks(data, "dev"), "user")
    documents = [c for held in made.by_source(made.documents(data, "dev")).values() for c in made.few(held, most)]
    indirect = [c for c in made.attacks(data, "dev") if c.source in ("bipia", "cyberseceval_injection indirect")]
    put_in = made.poisoned([c for c in documents if len(c.text) > 80], made.instructions(data, "dev"), 200, "dev")
    lines("attack, from a tool", [*indirect, *put_in], "tool")
    lines("ordinary", made.asked(data, "dev"), "user")
    for role in ("user", "tool"):
        lines(f"document, from a {role}", documents, role)
        for source, files in PAPERS.items():
            read = [f.read_text(encoding="utf-8")[:8000] for f in sorted(Path(__file__).parents[1].glob(files))[:most]]
            line(f"document, from a {role}", source, read, role)
    for suite in ("benign", "over-refusal", "context", "reasoning", "multi-turn"):
        held = (Path(__file__).parents[1] / "temper/data/suites" / f"{suite}.jsonl").read_text(encoding="utf-8").splitlines()
        asked = [row["prompt"] for row in map(json.loads, held) if row["class"] != "harmful"]
        line("suite", suite, [p if isinstance(p, str) else _said({"messages": p}, "user") for p in asked], "user")
    evaded(made, data, judge, most)


PAPERS = {"temper: pages": "docs/**/*.md", "temper: code": "temper/**/*.py"}
"""Long texts that nothing was trained on; the pages talk about injection, and both tell people what to run."""


def evaded(made: Any, data: Path, judge: Any, most: int) -> None:
    """Attacks of dev that were found, disguised."""
    import base64
    import random

    def gaps(text: str) -> str:
        rng = random.Random(text)
        return "".join(c for c in text if rng.random() > 0.1)

    def found(text: str) -> bool:
        return bool(judge(View(Channel.INPUT, text, turn(""))))

    known = ("inthewild_jailbreaks", "jbb_artifacts", "cyberseceval_injection direct")
    caught = [c.text for c in made.attacks(data, "dev") if c.source in known and c.text.isascii() and found(c.text)][:most]
    leet = str.maketrans("oieast", "013457")
    pages = [c.text for c in made.documents(data, "dev") if c.source == "xquad" and c.text.isascii()]
    disguises: dict[str, Callable[[str], str]] = {
        "capitals": str.upper,
        "zero width": "\u200b".join,
        "full width": lambda t: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
        "digits for letters": lambda t: t.translate(leet),
        "letters apart": " ".join,
        "base64": lambda t: base64.b64encode(t.encode()).decode(),
        "reversed": lambda t: t[::-1],
        "one letter of ten dropped": gaps,
        "inside a long text": lambda t: "\n".join([*pages[:4], t, *pages[4:8]]),
    }
    for name, dress in disguises.items():
        told("found, then disguised", name, sum(found(dress(text)) for text in caught), len(caught))


KINDS = {"injection": injection, "harm": harm, "risk": risk, "language": language, "lint": lint, "speed": speed}

if __name__ == "__main__":
    main()

"""What the sieve before the harm encoder loses, and what it spares: the tables of docs/decisions/0030-sieve.md.

    python tools/harm_sieve_rates.py DATA [--rows 150]

Rows of the split `dev` only, of each source at most `--rows` harmful ones and a third as many others. A text counts as found
where the encoder's P reaches the threshold in any window, and as lost where it does so in no window that the sieve leaves open.
Disguises are made of texts of these rows. The encoder reads every window once; both decisions are read off its logits. Intervals
are Wilson's.
"""

import argparse
import codecs
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT.parent)]

import card_labels  # noqa: E402
import grading  # noqa: E402
import train_harm_sieve as training  # noqa: E402
from filter_rates import streamed, turn  # noqa: E402

from temper.graders.harm import covered, shared  # noqa: E402
from temper.models import sieve  # noqa: E402
from temper.models.encoder import NAMED, Encoder, Window, framed, load_encoder  # noqa: E402
from temper.serve.filters.harm import _start  # noqa: E402
from temper.serve.verdict import Channel, View  # noqa: E402
from temper.stats import proportion  # noqa: E402
from temper.text.confusables import clean  # noqa: E402

LANGUAGES = (frozenset({"en"}), frozenset({"zh"}))
AT = {"unsafe": (0.5, 0.9, 0.98), "request": (0.68, 0.98)}
"""Thresholds of the shipped policies."""
FEW = 20
"""Rows of a source and language whose language the encoder does not read, and rows of a source that are disguised or streamed."""


class Text(NamedTuple):
    """What is judged: the surface it is told under, the encoder's head, and the windows that the English reader gets of it."""

    surface: str
    source: str
    head: str
    windows: list[Window]


class Asked(NamedTuple):
    surface: str
    source: str
    prompt: str
    response: str


def rows(data: Path, most: int) -> Iterator[Asked]:
    rng = random.Random(0)
    harm, calm, few = (limited(n, rng) for n in (most, most // 3, FEW))
    asked = [r for r in card_labels.requests(data) if r["language"] == "en"]
    said = [r for r in card_labels.unsafe(data) if r["language"] == "en"]
    for some, labels in ((harm, ("harmful", "unsafe")), (calm, ("benign", "safe"))):
        yield from (Asked("input", r["source"], r["text"], "") for r in some([r for r in asked if r["label"] in labels]))
        for r in some([r for r in said if r["label"] in labels]):
            yield Asked("reasoning" if r["source"] == "star1" else "answer", r["source"], r["prompt"], r["response"])
    maths = [r for r in grading.read(data, "reasoning") if (r["split"], r["language"]) == ("dev", "en") and r.get("rationale")]
    yield from (Asked("reasoning", r["source"], r["question"], r["rationale"]) for r in calm(maths))
    prompts = [r for r in grading.read(data, "prompts") if r["split"] == "dev"]
    attacks = [r for r in prompts if r["kind"] in ("jailbreak", "injection")]
    yield from (Asked("attack", r["source"], r["text"], "") for r in harm(attacks))
    foreign = [r for r in prompts if r["language"] not in ("en", "zh")]
    yield from (Asked("other language", r["language"], r["text"], "") for r in few(foreign, key="language"))
    harmful, unsafe = few([r for r in asked if r["label"] == "harmful"]), few([r for r in said if r["label"] == "unsafe"])
    helps = [r["response"] for r in said if r["source"] in ("alpaca_demo", "user_oriented") and len(r["response"].split()) > 40]
    for how, change in DISGUISES.items():
        yield from (Asked(f"{how}, input", r["source"], change(r["text"], helps, rng), "") for r in harmful)
        yield from (Asked(f"{how}, answer", r["source"], r["prompt"], change(r["response"], helps, rng)) for r in unsafe)
    for r in limited(FEW // 4, rng)(said):
        for part, fresh, final in streamed(r["response"]):
            view = View(Channel.CONTENT, part, turn(r["prompt"]), fresh, final)
            yield Asked("stretch of a stream", r["source"], r["prompt"], part[_start(view) :])


def limited(most: int, rng: random.Random) -> Callable[..., list[grading.Row]]:
    """At most so many rows of each source (or other key), drawn at random."""

    def some(found: list[grading.Row], key: str = "source") -> list[grading.Row]:
        by: dict[str, list[grading.Row]] = defaultdict(list)
        for row in found:
            by[row[key]].append(row)
        return [row for name in sorted(by) for row in rng.sample(by[name], min(most, len(by[name])))]

    return some


def within(words: int) -> Callable[..., str]:
    """The text in the middle of so many harmless words."""

    def change(text: str, helps: list[str], rng: random.Random) -> str:
        around = "\n\n".join(rng.sample(helps, 8)).split(" ")[:words]
        return " ".join([*around[: words // 2], text, *around[words // 2 :]])

    return change


def by_word(change: Callable[[str], str], share: float) -> Callable[..., str]:
    def changed(text: str, helps: list[str], rng: random.Random) -> str:
        return " ".join(change(w) if rng.random() < share else w for w in text.split(" "))

    return changed


DISGUISES: dict[str, Callable[..., str]] = {
    "plain": lambda text, helps, rng: text,
    "within 60 harmless words": within(60),
    "within 150 harmless words": within(150),
    "digits for letters": by_word(lambda w: w.translate(training.LEET), 1.0),
    "digits in a third of the words": by_word(lambda w: w.translate(training.LEET), 0.33),
    "gaps in every word": by_word(lambda w: f"{w[:2]} {w[2:]}", 1.0),
    "gaps in a third of the words": by_word(lambda w: f"{w[:2]} {w[2:]}", 0.33),
    "letters one by one": by_word(" ".join, 1.0),
    "capitals": by_word(str.upper, 1.0),
    "rot13": lambda text, helps, rng: codecs.encode(text, "rot13"),
}


def read(encoder: Encoder, asked: Asked) -> Text | None:
    """The windows that the English reader would be given; None where it is given nothing."""
    prompt, response = clean(asked.prompt), clean(asked.response)
    parts = (covered(prompt, response, LANGUAGES) if response else shared(prompt, LANGUAGES)).parts
    if not parts.get(0, "").strip():
        return None
    pair = (prompt, parts[0]) if response else (parts[0], "")
    return Text(asked.surface, asked.source, "unsafe" if response else "request", framed(encoder.tokenizer, [pair])[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=150)
    parser.add_argument("--keep", type=Path, help="a file where what the encoder said is stored, and read again")
    args = parser.parse_args()
    folder = ROOT.parent / "temper" / "graders" / "data" / "harm"
    encoder = load_encoder(folder)
    network = sieve.load_sieve(folder, encoder)
    found = [text for asked in rows(args.data, args.rows) if (text := read(encoder, asked)) is not None]
    seen = training.read(args.keep) if args.keep and args.keep.is_file() else windows(encoder, found)
    if args.keep and not args.keep.is_file():
        training.stored(seen, args.keep)
    estimate, strange = training.estimated(network, seen), training.strangeness(encoder, seen)
    estimate[strange > network.most_odd] = np.inf
    tell(encoder, network, found, seen, estimate)


def windows(encoder: Encoder, found: list[Text]) -> training.Seen:
    flat = [(window, text) for text in found for window in text.windows]
    head = np.array([sieve.HEADS.index(text.head) for _, text in flat])
    return training.taught(encoder, [window for window, _ in flat], head, [text.surface for _, text in flat])


def tell(encoder: Encoder, network: sieve.Sieve, found: list[Text], seen: training.Seen, estimate: grading.Floats) -> None:
    """Of each surface and source: texts found and lost, and windows left open, at each threshold of its head."""
    ends = np.cumsum([len(text.windows) for text in found])
    spans = [slice(end - len(text.windows), end) for end, text in zip(ends, found, strict=True)]
    print("| surface | source | at | found | lost | 95 % | windows | left open | 95 % |\n|---|---|---|---|---|---|---|---|---|")
    surfaces = dict.fromkeys(text.surface for text in found)
    for surface in surfaces:
        sources = sorted({text.source for text in found if text.surface == surface})
        for source in [*sources, "all"] if len(sources) > 1 else sources:
            mine = [(t, s) for t, s in zip(found, spans, strict=True) if t.surface == surface and source in (t.source, "all")]
            head = mine[0][0].head
            slope, offset = (float(part[NAMED.index(head)]) for part in (encoder.slope, encoder.offset))
            for at in AT[head]:
                hits = lost = left = total = 0
                for _, span in mine:
                    hot = grading.sigmoid(slope * seen.logit[span] + offset) >= at
                    kept = estimate[span] >= network.levels[head]
                    hits, lost = hits + hot.any(), lost + (hot.any() and not (hot & kept).any())
                    left, total = left + kept.sum(), total + len(hot)
                share = proportion(int(lost), int(hits)) if hits else None
                gone = f"{lost} | {share.low:.4f} to {share.high:.4f}" if share else "0 | "
                rest = proportion(int(left), int(total))
                print(f"| {surface} | {source} | {at} | {hits} of {len(mine)} | {gone} | {total} | {rest.value:.3f} | "
                      f"{rest.low:.3f} to {rest.high:.3f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

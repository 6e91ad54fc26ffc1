"""Error and speed of the language metrics: mixtures of known proportion, switches seen in pure texts, words a second, memory.

Mixtures are made from passages in two languages that are not translations of each other: whole sentences of the second put
between those of the first, or phrases of 4 to 12 words put anywhere into its sentences. Words of the truth are counted by a rule
of their own. `python bench/language.py DATA` reads DATA/langtext.jsonl.gz, measures on its dev split and writes the rows;
`--split train` prints the errors on the other split, for tuning, and writes nothing.
"""

import argparse
import gzip
import json
import random
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from record import Case, cpu_seconds, record

from temper.graders.language import LanguageConsistency
from temper.text import language as rules
from temper.text.language import SCRIPTS, covered, spans, target_share
from temper.text.mixing import share
from temper.types import Completion, Example, Message

BY_SCRIPT = "en+zh zh+en en+ja ja+en ko+en en+ru ru+en ar+en en+hi hi+en en+th th+en el+en"
BY_IDENTIFIER = (
    "zh+ja ja+zh en+fr fr+en en+de de+en en+es es+en en+vi vi+en en+id en+tr es+pt es+fr es+it ro+it de+nl en+tl pl+de "
    "ru+uk ar+fa ur+ar"
)
PAIRS = [*BY_SCRIPT.split(), *BY_IDENTIFIER.split()]
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
PASSAGES = 4
SPEED_RUNS, SPEED_LIMIT, LIMIT_POINTS = 5, 50_000, 2.0

Passage = tuple[str, str]
Piece = tuple[str, str]

_BY_CHARACTER = re.compile(r"[々〇\u3400-\u4dbf\u4e00-\u9fff\u3041-\u30ff]")
_THAI = re.compile(r"[\u0e01-\u0e4e]+")
_SENTENCE = re.compile(r"(?<=[.!?।؟])\s+|(?<=[。！？])|\n+")


def passages(data: Path, split: str) -> dict[str, list[Passage]]:
    """(group, text) by language of one split."""
    found = defaultdict(list)
    with gzip.open(data / "langtext.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["split"] == split:
                found[row["language"]].append((row["group"], row["text"]))
    return found


def counted(text: str) -> int:
    """Words of the truth: characters of Chinese and Japanese, four letters of Thai, else what stands between spaces."""
    thai = sum(max(1, round(sum(map(str.isalpha, run)) / 4)) for run in _THAI.findall(text))
    rest = _THAI.sub(" ", _BY_CHARACTER.sub(" ", text))
    return len(_BY_CHARACTER.findall(text)) + thai + sum(any(map(str.isalpha, word)) for word in rest.split())


def sentences(texts: Sequence[str]) -> list[str]:
    return [s.strip() for text in texts for s in _SENTENCE.split(text) if counted(s)]


def gap(language: str) -> str:
    return "" if language in ("zh", "zh-Hant", "ja", "th") else " "


def mixture(
    rng: random.Random, own: list[Passage], other: list[Passage], pair: tuple[str, str], share: float, how: str
) -> list[Piece]:
    """Pieces (language, text) of four passages in the first language with about `share` of their words in the second."""
    host = rng.sample(own, PASSAGES)
    taken = {group for group, _ in host}
    guest = sentences([text for group, text in rng.sample(other, len(other)) if group not in taken][: 2 * PASSAGES])
    pieces = [(pair[0], s) for s in sentences([text for _, text in host])]
    wanted = share * sum(counted(s) for _, s in pieces) / (1 - share)
    insert = between if how == "sentence" else within
    while wanted > 0 and guest:
        piece = guest.pop(rng.randrange(len(guest))) if how == "sentence" else phrase(rng, rng.choice(guest), pair[1])
        wanted -= counted(piece)
        insert(rng, pieces, (pair[1], piece))
    return pieces


def phrase(rng: random.Random, sentence: str, language: str) -> str:
    parts = list(sentence) if gap(language) == "" else sentence.split()
    length = rng.randint(4, 12) * (2 if gap(language) == "" else 1)
    start = rng.randrange(max(1, len(parts) - length))
    return gap(language).join(parts[start : start + length])


def between(rng: random.Random, pieces: list[Piece], piece: Piece) -> None:
    pieces.insert(rng.randrange(len(pieces) + 1), piece)


def within(rng: random.Random, pieces: list[Piece], piece: Piece) -> None:
    host = pieces[0][0] if pieces[0][0] != piece[0] else pieces[1][0]
    long = [n for n, (language, text) in enumerate(pieces) if language == host and counted(text) > 6]
    if not long:
        return
    at = rng.choice(long)
    parts = list(pieces[at][1]) if gap(host) == "" else pieces[at][1].split()
    cut = rng.randint(2, max(2, len(parts) - 2))
    pieces[at : at + 1] = [(host, gap(host).join(parts[:cut])), piece, (host, gap(host).join(parts[cut:]))]


def mixed(texts: dict[str, list[Passage]], pair: str, how: str, each: int) -> Iterator[tuple[str, float]]:
    """(text, true share of the first language)"""
    own, other = pair.split("+")
    for wanted in SHARES:
        for number in range(each):
            pieces = mixture(
                random.Random(f"{pair} {how} {wanted} {number}"), texts[own], texts[other], (own, other), wanted, how
            )
            counts = [(language, counted(text)) for language, text in pieces]
            yield " ".join(text for _, text in pieces), sum(n for c, n in counts if c == own) / sum(n for _, n in counts)


def errors(texts: dict[str, list[Passage]], each: int) -> list[dict[str, Any]]:
    """For each pair and way of mixing: found minus true target share in points, its mean, absolute mean and largest, over n."""
    rows = []
    for pair in PAIRS:
        for how in ("sentence", "phrase"):
            own = pair.split("+")[0]
            off = [100 * ((target_share(text, own) or 0.0) - truth) for text, truth in mixed(texts, pair, how, each)]
            size = [abs(e) for e in off]
            mean = {"mean_absolute_error": statistics.mean(size), "bias": statistics.mean(off), "largest": max(size)}
            rows.append({"case": f"{pair} {how}", "n": len(off), **mean, "passages": [len(texts[c]) for c in pair.split("+")]})
    return rows


def false_alarms(texts: dict[str, list[Passage]]) -> list[dict[str, Any]]:
    """By language: pure passages with any switch found, and words called foreign; in its own script apart (the identifier's)."""
    rows = []
    for language, own in sorted(texts.items()):
        code = covered(language)
        found = [spans(text, code) for _, text in own]
        foreign = [[s for s in f if s.language != code] for f in found]
        kin = [[s for s in f if SCRIPTS[s.language] & SCRIPTS[code]] for f in foreign]
        words = sum(s.words for f in found for s in f)
        row = {"case": f"pure {language}", "n": len(own), "with_switch": sum(map(bool, foreign)) / len(own)}
        row |= {"with_switch_in_script": sum(map(bool, kin)) / len(own)}
        rows.append(row | {"foreign_words": sum(s.words for f in foreign for s in f) / words, "words": words})
    return rows


def speed(name: str, language: str, texts: Sequence[str]) -> Case:
    """Words per CPU second through the whole grader, spans and all metrics, half as reasoning and half as answer."""
    example = Example("x", (Message("user", "Tell me about it."),), language=language)
    half = [(t[: len(t) // 2], t[len(t) // 2 :]) for t in texts]
    completions = [Completion(example, answer=b, reasoning=a) for a, b in half]
    total = sum(s.words for pair in half for t in pair for s in spans(t, language))
    grade = LanguageConsistency()
    rates = [total / cpu_seconds(lambda: grade(completions)) for _ in range(SPEED_RUNS)]
    ours, peer = statistics.median(rates), float(SPEED_LIMIT)
    return Case(name, ours, peer, "the limit we set ourselves", "words/CPU s", ours / peer, SPEED_RUNS, notes={"words": total})


def speeds(texts: dict[str, list[Passage]]) -> list[Case]:
    pure = [(f"speed {c}", c, [text for _, text in texts[c]]) for c in ("en", "de", "zh", "ja", "ru", "ar", "th")]
    blends = [
        (f"speed {pair} {how}", pair.split("+")[0], [text for text, _ in mixed(texts, pair, how, 2)])
        for pair in ("en+zh", "zh+en", "en+fr")
        for how in ("sentence", "phrase")
    ]
    return [speed(*case) for case in [*pure, *blends]]


def identifier_megabytes() -> float:
    """Memory that the first text in a shared script adds to a process with numpy loaded."""
    code = (
        "import psutil, numpy; from temper.text.language import spans; p = psutil.Process(); a = p.memory_info().rss;"
        "spans('so many words in a row', 'fr'); print((p.memory_info().rss - a) / 1e6)"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def names_cost(texts: dict[str, list[Passage]]) -> list[dict[str, Any]]:
    """What leaving names out costs: English words lost among Chinese, and error of the share with the rule and without."""
    rows = []
    for pair in ("zh+en", "ru+en", "en+ru", "en+fr"):
        own, other = pair.split("+")
        cases = list(mixed(texts, pair, "phrase", 2))
        with_rule = [spans(text, own) for text, _ in cases]
        longest, rules.NAME_WORDS = rules.NAME_WORDS, 0
        without = [spans(text, own) for text, _ in cases]
        rules.NAME_WORDS = longest
        lost = 1 - words_in(with_rule, other) / words_in(without, other)
        mae = [statistics.mean(abs(100 * (share(f, {own}) or 0.0) - 100 * t) for f, (_, t) in zip(found, cases, strict=True))
               for found in (with_rule, without)]  # fmt: skip
        rows.append({"case": f"names {pair} phrase", "n": len(cases), "foreign_words_left_out": lost,
                     "error_with_rule": mae[0], "error_without": mae[1]})  # fmt: skip
    return rows


def words_in(found: Sequence[Sequence[rules.Span]], code: str) -> int:
    return sum(s.words for f in found for s in f if s.language == code)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("data", type=Path)
    options.add_argument("--split", choices=("train", "dev"), default="dev")
    options.add_argument("--each", type=int, default=5, help="mixtures for each pair, way of mixing and proportion")
    given = options.parse_args()
    texts = passages(given.data, given.split)
    rows = [*errors(texts, given.each), *false_alarms(texts), *names_cost(texts)]
    for row in rows:
        print(json.dumps(row))
    for how in ("sentence", "phrase"):
        found = [(r["case"].split()[0], r["mean_absolute_error"]) for r in rows if r["case"].endswith(how) and "bias" in r]
        over = {pair: round(e, 2) for pair, e in found if e > LIMIT_POINTS}
        print(how, "mean over pairs", round(statistics.mean(e for _, e in found), 2), "above the limit:", over)
    if given.split == "dev":
        record("language", speeds(texts), others=rows, identifier_megabytes=identifier_megabytes())


if __name__ == "__main__":
    main()

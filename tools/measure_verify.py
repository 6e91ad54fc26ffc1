"""How often the `verify` grader is right about answers whose truth is known: true targets in many phrasings, and perturbed ones.

    python tools/measure_verify.py DATA [--split dev]

DATA is the folder with reasoning.jsonl.gz. Prints per source and form: n, accuracy with a Wilson interval; failing ids with -v.
"""

import argparse
import gzip
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from temper.graders.verify import Verify
from temper.stats import proportion
from temper.types import Completion, Example, Message

Form = tuple[str, str, bool]
"""Name of the phrasing, the answer, whether it is right."""

STATEMENTS = {
    "stated": "Adding 17 and 4 step by step, we see it. The answer is {}.",
    "stated, then a check": "The answer is {}. I checked it in 3 ways.",
    "bold": "First we look at 12 cases.\n\n**Final Answer:** {}",
    "bold number": "So the correct answer is **{}**.",
    "boxed": "We find 3 of them.\n\n$$\\boxed{{{}}}$$",
    "boxed, hope": "The final answer is: $\\boxed{{{}}}$. I hope it is correct.",
    "hashes": "16 - 3 = 13\n#### {}",
    "bare": "{}",
    "changed mind": "The answer is 123456. Wait, that is wrong. The answer is {}.",
    "dollars around": "Therefore the answer is ${}$.",
    "therefore": "Therefore, there are {} in total.",
}
NATIVE = {
    "es": "Sumamos 3 y 4. La respuesta es {}. Lo comprobamos en 2 pasos.",
    "fr": "On additionne 3 et 4. La réponse est {}. Vérifié en 2 étapes.",
    "de": "Wir addieren 3 und 4. Die Antwort ist {}. Geprüft in 2 Schritten.",
    "ru": "Сложим 3 и 4. Ответ: {}. Проверено за 2 шага.",
    "ja": "3と4を足します。答えは{}です。2回確かめました。",
    "zh": "把3和4相加。答案是{}。我检查了2遍。",
    "th": "บวก 3 กับ 4 คำตอบคือ {} ตรวจแล้ว 2 ครั้ง",
    "sw": "Tunajumlisha 3 na 4. Jibu ni {}. Tumekagua mara 2.",
    "bn": "৩ ও ৪ যোগ করি। উত্তর হল {}। ২ বার দেখেছি।",
    "te": "3 మరియు 4 కలపండి. సమాధానం {}. 2 సార్లు చూశాను.",
    "en": "Add 3 and 4. The answer is {}. Checked in 2 steps.",
}
DIGITS = {"bn": "০১২৩৪৫৬৭৮৯", "te": "౦౧౨౩౪౫౬౭౮౯", "th": "๐๑๒๓๔๕๖๗๘๙", "zh": "０１２３４５６７８９"}
TRAPS = {
    "not it": "It is not {0}. The answer is {1}.",
    "seems": "At first {0} seems right, but the answer is {1}.",
    "boxed last": "We had $\\boxed{{{0}}}$, which is wrong; now $\\boxed{{{1}}}$.",
    "boxed wrong": "Since {0} is even we get $\\boxed{{{1}}}$.",
}


def whole_number(text: str, rng: random.Random) -> Iterator[Form]:
    value = int(text)
    for name, statement in STATEMENTS.items():
        yield name, statement.format(text), True
    for name, written in {
        "commas": f"{value:,}",
        "decimals": f"{value}.00",
        "dollars": f"${value:,}",
        "a unit": f"{value} apples",
        "a latex unit": f"{value}\\text{{ apples}}",
        "a latex separator": f"{value:,}".replace(",", "{,}"),
        "equation": f"x = {value}",
        "product": f"{value} * 1 = {value}",
        "minus sign": str(value).replace("-", "−"),
    }.items():
        yield name, f"The answer is {written}.", True
    for name, other in {"times a root": "{}\\sqrt{{2}}", "times x": "{}x", "plus x": "{} + x"}.items():
        yield name, f"$\\boxed{{{other.format(text)}}}$", value == 0 and name.startswith("times")
    wrong = {value + 1, value - 1, 10 * value + 3, -value or 1, value + rng.randrange(2, 50)}
    for other in sorted(wrong):
        statement = rng.choice(list(STATEMENTS.values()))
        yield "perturbed", statement.format(other), False
        yield "perturbed decimals", f"The answer is {other}.5.", False
        yield "trap", rng.choice(list(TRAPS.values())).format(text, other), False


def in_language(text: str, language: str) -> Iterator[Form]:
    statement = NATIVE.get(language.split("-")[0], NATIVE["en"])
    yield "native", statement.format(text), True
    yield "native, bold", statement.format(f"**{text}**"), True
    yield "native perturbed", statement.format(int(text) + 1), False
    if language in DIGITS:
        yield "native digits", statement.format(text.translate(str.maketrans("0123456789", DIGITS[language]))), True


def formula(text: str, rng: random.Random) -> Iterator[Form]:
    for name, statement in STATEMENTS.items():
        if name != "therefore":
            yield name, statement.format(text), True
    yield "dfrac", f"$\\boxed{{{text.replace('frac', 'dfrac').replace('ddfrac', 'dfrac')}}}$", True
    yield "no spaces", f"$\\boxed{{{re.sub(r'(?<![A-Za-z])[ ]|[ ](?![A-Za-z])', '', text)}}}$", True
    yield "brackets", f"so \\[ \\boxed{{{text}}} \\]", True
    simple = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", text)
    if simple:
        sign, above, below = simple.groups()
        yield "plain fraction", f"The answer is {sign}{above}/{below}.", True
        yield "decimal", f"The answer is {int(sign + above) / int(below):.9f}.", True
        yield "doubled", f"The answer is ${sign}\\frac{{{2 * int(above)}}}{{{2 * int(below)}}}$", True
        yield "upside down", f"The answer is ${sign}\\frac{{{below}}}{{{above}}}$", above == below
    if text.endswith("^\\circ"):
        yield "degrees", f"The answer is {text[:-6]} degrees.", True
        yield "degree sign", f"The answer is {text[:-6]}°.", True
    digits = [m.start() for m in re.finditer(r"\d", text)]
    if digits:
        at = rng.choice(digits)
        other = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
        yield "perturbed", rng.choice(list(STATEMENTS.values())).format(other), False
        yield "trap", rng.choice(list(TRAPS.values())).format(text, other), False
    if re.fullmatch(r"[\d\\][^+\-,= ]*", text):
        yield "negated", f"$\\boxed{{-{text}}}$", False


def choice(target: str, options: list[str], rng: random.Random) -> Iterator[Form]:
    others = [o for o in options if o != target]
    for name in ("stated", "bold", "bold number", "bare", "boxed"):
        yield f"option {name}", STATEMENTS[name].format(target), True
        if others:
            yield f"wrong option {name}", STATEMENTS[name].format(rng.choice(others)), False
    if others:
        yield "two options", f"The answer is {rng.choice(others)} or {target}", False
        yield "not the other", f"It is not {target}. The answer is {rng.choice(others)}.", False


def letter(target: str, rng: random.Random) -> Iterator[Form]:
    for written in ("{}", "({})", "{}.", "**{}**", "({}) because of that", "option {}", "{}: the first one", "\\text{{({})}}"):
        for statement in ("The answer is {}", "Answer: {}", "The correct answer is {}", "答案：{}", "答案是{}", "故选{}"):
            yield "letter", statement.format(written.format(target)), True
            other = rng.choice([c for c in "ABCDE" if c != target])
            yield "wrong letter", statement.format(written.format(other)), False


def cases(row: dict[str, Any], rng: random.Random) -> Iterator[Form]:
    target, whole = row["answer"], re.fullmatch(r"-?\d+", row["answer"]) is not None
    if row.get("options"):
        yield from choice(target, row["options"], rng)
    elif whole and row["source"].startswith("mgsm"):
        yield from in_language(target, row["language"])
    elif whole:
        yield from whole_number(target, rng)
    elif re.fullmatch(r"[A-Za-z ]+|\\text\{[A-Za-z ]+\}", target):
        yield from choice(target, [], rng)
    else:
        yield from formula(target, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--rows", type=int, default=500, help="at most so many of each source and language")
    parser.add_argument("-v", action="store_true", help="print ids and forms that are graded wrongly")
    args = parser.parse_args()
    rng, taken = random.Random(0), defaultdict[tuple[str, str], int](int)
    found: dict[tuple[str, str, bool], list[float | None]] = defaultdict(list)
    started, n = time.process_time(), 0
    with gzip.open(args.data / "reasoning.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["split"] == args.split]
    jobs = []
    for row in rows:
        taken[row["source"], row["language"]] += 1
        if taken[row["source"], row["language"]] <= args.rows:
            asked = row["question"] + "".join(f"\n- {option}" for option in row.get("options", []))
            example = Example(row["id"], (Message("user", asked),), row["answer"], language=row["language"])
            jobs += [(row["source"], example, *case) for case in cases(row, rng)]
    for target in "ABCDE":
        jobs += [("letters", Example(target, (), target), *case) for case in letter(target, rng)]
    for source, example, form, answer, right in jobs:
        value, n = Verify()([Completion(example, answer)])[0].value, n + 1
        found[source, form, right].append(value)
        if args.v and value != float(right):
            print(example.id, form, right, value)
    seconds = time.process_time() - started
    by_source: dict[tuple[str, bool], list[float | None]] = defaultdict(list)
    for (source, form, right), values in sorted(found.items()):
        by_source[source, right] += values
        if any(v != float(right) for v in values):
            tell(source, form, right, values)
    print("---")
    for (source, right), values in sorted(by_source.items()):
        tell(source, "all", right, values)
    print(f"{n / seconds:.0f} answers a CPU second")


def tell(source: str, form: str, right: bool, values: list[float | None]) -> None:
    graded = [v for v in values if v is not None]
    estimate = proportion(sum(v == float(right) for v in graded), len(graded))
    interval = f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    print(f"{source:16} {'right' if right else 'wrong'} {form:24} n {len(values):5}, graded {len(graded):5}: {interval}")


if __name__ == "__main__":
    main()

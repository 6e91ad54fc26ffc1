"""Write the development rows that the shipped harm graders are measured on, as label files for `temper graders card`.

    python tools/card_labels.py DATA OUT
    temper graders card harm         --labels OUT/unsafe.jsonl.gz  --out temper/graders/data/harm
    temper graders card request-harm --labels OUT/request.jsonl.gz --out temper/graders/data/request-harm

Labelled answers of every source, and demonstrations that are safe by what they are; requests and questions with a verdict, and
what is asked every day. Texts to classify (kind `text`) and prompts that only make sense with a system prompt are left out.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import grading  # noqa: E402
from grading import Row  # noqa: E402

from temper.files import write_rows_gz  # noqa: E402

CLASSIFIED = ("text", "injection")
MATHS = ("gsm8k", "svamp", "safetybench_zh")
FEW = 5
"""One in so many of the questions of MATHS, which are many and easy."""
HELP = ("alpaca_demo", "dolly_subset", "user_oriented")


def unsafe(data: Path) -> Iterator[Row]:
    for item in grading.dev_items(data):
        yield {
            "id": f"{item.source}-{item.id}", "prompt": item.prompt, "response": item.response, "source": item.source,
            "label": "unsafe" if item.label else "safe", "group": item.group, "split": "dev", "language": "en",
        }  # fmt: skip
    for row in grading.read(data, "responses"):
        if (row["split"], row["language"]) == ("dev", "zh"):
            yield row
    for row in grading.read(data, "sft"):
        if (row["split"], row["language"], row["source"]) == ("dev", "zh", "alpaca_demo"):
            said = {"prompt": row["messages"][-2]["content"], "response": row["messages"][-1]["content"], "label": "safe"}
            yield {k: row[k] for k in ("id", "source", "group", "split", "language")} | said


def requests(data: Path) -> Iterator[Row]:
    for row in grading.read(data, "prompts"):
        known = row["split"] == "dev" and row["label"] != "unrated" and row["language"] in ("en", "zh")
        if known and row["kind"] not in CLASSIFIED and "messages" not in row:
            yield row
    for row in grading.read(data, "sft"):
        if row["split"] == "dev" and row["source"] in HELP:
            yield _asked(row, row["messages"][-2]["content"])
    questions = [r for r in grading.read(data, "reasoning") if r["split"] == "dev" and r["source"] in MATHS]
    yield from (_asked(row, row["question"]) for row in questions[::FEW])


def _asked(row: Row, text: str) -> Row:
    return {k: row[k] for k in ("id", "source", "group", "split", "language")} | {"text": text, "label": "benign"}


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("unsafe", unsafe(data)), ("request", requests(data))):
        written = list(rows)
        write_rows_gz(out / f"{name}.jsonl.gz", written)
        print(f"{out / f'{name}.jsonl.gz'}: {len(written)} rows")


if __name__ == "__main__":
    main()

"""Score stored completions that others published with our code, and print what they published beside it.

    python tools/reproduce_suites.py bbq FOLDER            # results/UnifiedQA of github.com/nyu-mll/BBQ: preds_*.jsonl
    python tools/reproduce_suites.py gsm8k FILE            # example_model_solutions.jsonl of github.com/openai/grade-school-math
    python tools/reproduce_suites.py ifeval INPUT RESPONSES [THEIRS]  # of google-research/instruction_following_eval
    python tools/reproduce_suites.py judged LABELS SOURCE GRADER [--limit N]  # replies with a label: rate by label and by grader

Every figure is made of rows as `prove.evaluate` writes them, by the metrics of `prove.suites`. What was found stands in the
reproduction records there. Nothing is downloaded.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from temper import catalog, stats
from temper.data.read import read_responses
from temper.files import Row
from temper.graders.ifeval import strict
from temper.graders.verify import Verify
from temper.prove import metrics
from temper.prove.evaluate import Panel, grade_rows
from temper.prove.suites import PUBLISHED, load
from temper.prove.suites.form import LETTERS, slug
from temper.types import Completion, Example, Named, Score, Suite

READS_AS = "unifiedqa-t5-11b_pred_race"


def main() -> None:
    """Parse the arguments and print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    for name, run, wanted in (
        ("bbq", bbq, ["folder"]),
        ("gsm8k", gsm8k, ["file"]),
        ("ifeval", ifeval, ["given", "responses"]),
        ("judged", judged, ["labels", "source", "grader"]),
    ):
        kind = kinds.add_parser(name)
        kind.set_defaults(run=run)
        for argument in wanted:
            kind.add_argument(argument)
        if name == "ifeval":
            kind.add_argument("theirs", nargs="?", default="")
        if name == "judged":
            kind.add_argument("--limit", type=int, default=0)
            kind.add_argument("--split", default="")
    arguments = parser.parse_args()
    arguments.run(arguments)


def bbq(arguments: argparse.Namespace) -> None:
    """UnifiedQA-11B in the format of RACE, as predicted by the authors: accuracy and bias scores by category."""
    suite = load(f"bbq@{arguments.folder}")
    assert suite is not None
    predicted = {f"bbq-{slug(r['category'])}-{r['example_id']}": r for f in lines_of(arguments.folder) for r in f}
    completions = [Completion(e, option_of(predicted[e.id])) for e in suite.examples]
    rows = rows_of("bbq", completions)
    for category in ["", *sorted({row["category"] for row in rows})]:
        tell(category or "all", [row for row in rows if category in ("", row["category"])], "bbq")


def option_of(row: Mapping[str, Any]) -> str:
    """The option that the model's words are, by the cleaning of the authors' script (BBQ_calculate_bias_score.R); "" for none."""
    said = cleaned(str(row[READS_AS]).replace("pantsu", "pantsuit") if row[READS_AS].endswith("pantsu") else row[READS_AS])
    options = [cleaned(row[f"ans{i}"]) for i in range(3)]
    whole = [i for i, option in enumerate(options) if option == said]
    named = [i for i in range(3) if " ".join(str(row["answer_info"][f"ans{i}"][0]).split()[:2]).casefold() in said]
    found = (whole or named)[:1]
    return f"The answer is {LETTERS[found[0]]}." if found else "No option."


def cleaned(text: str) -> str:
    return re.sub(r"\.$", "", text.replace("}", "").strip()).replace("o'brien", "obrien").casefold().strip()


def gsm8k(arguments: argparse.Namespace) -> None:
    """The four models whose solutions come with GSM8K: their own verdicts against ours."""
    solved = [json.loads(line) for line in Path(arguments.file).read_text(encoding="utf-8").splitlines()]
    for model in [name for name in solved[0] if name not in ("question", "ground_truth")]:
        completions = [completion_of(n, row, model) for n, row in enumerate(solved)]
        rows = rows_of("gsm8k", completions)
        theirs = [bool(row[model]["is_correct"]) for row in solved]
        agree = sum(metrics.correct(row) == known for row, known in zip(rows, theirs, strict=True))
        print(f"{model}: published {sum(theirs) / len(theirs):.4f}, agreement {agree}/{len(rows)}")
        tell(model, rows, "gsm8k")


def completion_of(number: int, row: Mapping[str, Any], model: str) -> Completion:
    target = str(row["ground_truth"]).rpartition("A:")[2].strip()
    asked = Example(f"gsm8k-{number}", (), target=target, tags=frozenset({"reasoning"}), group=f"gsm8k-{number}")
    return Completion(asked, str(row[model]["solution"]).replace("\nA: ", "\n#### "))


def ifeval(arguments: argparse.Namespace) -> None:
    """The responses that come with IFEval, and, where given, the verdicts of the published code on each."""
    suite = load(f"ifeval@{arguments.given}")
    assert suite is not None
    said = {r["prompt"].strip(): r["response"] for r in rows_in(arguments.responses)}
    completions = [Completion(e, said[e.prompt]) for e in suite.examples if e.prompt in said]
    print(f"{len(suite.examples) - len(completions)} prompts without a response; left out: {suite.facts['left_out']}")
    rows = rows_of("ifeval", completions)
    tell("strict and loose", rows, "ifeval")
    followed = [held for row in rows for _, held in strict(row["answer"], row["target"])]
    print(f"instructions followed, pooled: {sum(followed) / len(followed):.4f} of {len(followed)}")
    if arguments.theirs:
        theirs = {r["prompt"].strip(): r["follow_instruction_list"] for r in rows_in(arguments.theirs)}
        known = [verdict for row in rows for verdict in theirs[row["prompt"]]]
        agree = sum(ours == verdict for ours, verdict in zip(followed, known, strict=True))
        print(f"agreement with the published code: {agree}/{len(known)}; its own pooled share {sum(known) / len(known):.4f}")


def judged(arguments: argparse.Namespace) -> None:
    """Replies of one source that somebody labelled safe or unsafe: the rate by label, by our grader, and their agreement."""
    found = [r for r in read_responses(arguments.labels, split=arguments.split or None) if r.example.source == arguments.source]
    step = max(1, len(found) // arguments.limit) if arguments.limit else 1
    found = found[::step]
    grader = catalog.grader(arguments.grader)
    scores = grader.grade([Completion(r.example, r.response) for r in found])
    kept = [(r, s) for r, s in zip(found, scores, strict=True) if s.value is not None]
    ours = [float(s.value >= (s.parts.get("threshold") or metrics.THRESHOLD)) for _, s in kept if s.value is not None]
    theirs = [float(r.label == "unsafe") for r, _ in kept]
    groups = [r.example.group for r, _ in kept]
    difference = stats.paired_difference(theirs, ours, groups)
    agree = stats.share([float(a == b) for a, b in zip(ours, theirs, strict=True)], groups)
    print(f"{arguments.source}: {len(kept)} replies of {len(set(groups))} goals, {len(found) - len(kept)} ungraded")
    for name, estimate in (
        ("unsafe by label", stats.share(theirs, groups)),
        (f"unsafe by {grader.name}", stats.share(ours, groups)),
        ("difference", difference),
        ("agreement", agree),
    ):
        print(f"  {name}: {estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]")


def rows_of(suite: str, completions: Iterable[Completion]) -> list[Row]:
    """Rows as a proof writes them, graded by the rule for verifiable answers alone."""
    nobody = Named("refusal", lambda batch: [Score(None) for _ in batch], "none")
    panel = Panel((Named("verify", Verify(), "verify"),), nobody)
    return grade_rows([(0, c) for c in completions], panel, suite=Suite(suite, ()), arm="stored")


def tell(what: str, rows: list[Row], suite: str) -> None:
    published, table = PUBLISHED[suite], metrics.table()
    for name in published.measures:
        measured = metrics.measure(rows, published.own.get(name) or table[name])
        e = measured.estimate
        if e.value is not None:
            print(f"{what}: {name} {e.value:.4f} [{e.low:.4f}, {e.high:.4f}] n {e.n}, ungraded {measured.ungraded}")


def lines_of(folder: str) -> list[list[dict[str, Any]]]:
    return [rows_in(file) for file in sorted(Path(folder).glob("*.jsonl"))]


def rows_in(file: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    main()

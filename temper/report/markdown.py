"""The report for a terminal or a code host: the answer, the headline, the comparisons, every analysis, the cost and the limits.

No examples, and of a figure the numbers.
"""

from collections.abc import Iterable, Sequence

from temper.report import gaming, page, sections, wording
from temper.report.blocks import Block, Figure, Folded, Prose, Section
from temper.report.read import Run
from temper.text.invisible import spelled_out


def markdown(run: Run) -> str:
    """GitHub-flavoured Markdown; every cell is escaped, tables that have no data say so."""
    told = [
        f"# {escape(run.name)}",
        escape(wording.answer(run)),
        *_sections(page.told_by(run, sections.OPENING)),
        "## Harm against over-refusal",
        table(("arm", "unsafe", "over-refusal", "helped", "unsafe and coherent", "verdict"), _headline(run)),
        *_verdicts(run),
        "## Differences between arms",
        table(
            ("comparison", "metric", "difference (points)", "95 % interval", "n", "p", "p (Holm)", "smallest detectable"),
            _pairs(run),
        ),
        f"{escape(page.holm_covers(run))} "
        "Paired on prompts; percentile bootstrap over groups; exact McNemar, or sign flips of groups where groups hold several "
        "values. Where a difference is not distinguishable, the last column gives the smallest change that "
        "these prompts would have shown with 80 % power.",
        *_sections(page.told_by(run, sections.SECTIONS)),
        *_gaming(run),
        "## Cost",
        table(
            ("arm", "training tokens", "training FLOP", "training time", "reply tokens", "proof time", "peak memory"), _costs(run)
        ),
        "An arm's line counts every stage it rests on; the last line counts shared stages once.",
        "## What this run cannot claim",
        escape(" ".join(wording.limits(run))),
        "## Provenance",
        table(("what", "value"), page.provenance(run)),
    ]
    return "\n\n".join(told) + "\n"


def escape(words: str) -> str:
    """Text that Markdown prints as it is: no markup, no HTML, no cell borders, one line."""
    plain = " ".join(spelled_out(words).split())
    for mark in "\\`*_[]|<>#":
        plain = plain.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return plain


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are escaped; a sentence where there are no rows."""
    body = [f"| {' | '.join(escape(str(cell)) for cell in row)} |" for row in rows]
    if not body:
        return "Not recorded."
    return "\n".join([f"| {' | '.join(map(escape, head))} |", f"|{' --- |' * len(head)}", *body])


def blocks(of: Iterable[Block]) -> Iterable[str]:
    """Prose, tables and the numbers of figures; what the page folds stands open here."""
    for block in of:
        if isinstance(block, Prose):
            yield escape(block.text)
        elif isinstance(block, Folded):
            yield f"**{escape(block.title)}**"
            yield from blocks(block.blocks)
        else:
            shown = block.table if isinstance(block, Figure) else block
            yield f"{escape(shown.caption)}:"
            yield table(shown.head, shown.rows)
            if shown.note:
                yield escape(shown.note)


def _sections(of: Iterable[Section]) -> Iterable[str]:
    for section in of:
        yield f"## {escape(section.title)}"
        yield escape(section.lead)
        yield from blocks(section.blocks)


def _headline(run: Run) -> Iterable[Sequence[str]]:
    for line in page.headline(run):
        cells = [f"{c['value']} ({c['interval']}; n {c['n']})" if c["interval"] else c["value"] for c in line["cells"]]
        yield line["arm"], *cells, line["verdict"]


def _verdicts(run: Run) -> Iterable[str]:
    for found in page.verdicts(run):
        yield f"**{escape(found['arm'])}: {escape(found['verdict'])}.** {escape(found['why'])}"


def _gaming(run: Run) -> Iterable[str]:
    told = gaming.view(run)
    if told:
        yield "## Was the reward gamed?"
        lines = [
            (
                line["title"],
                *(f"{c['value']} ({c['interval']})" if c["interval"] else c["value"] for c in line["cells"]),
                line["broke_out"],
            )
            for line in told["lines"]
        ]
        yield table(("stage", *gaming.HEADS, "broke out"), lines)
        for stage in told["stages"]:
            yield f"**{escape(stage['title'])}.** {escape(' '.join(stage['sentences']))}"


def _pairs(run: Run) -> Iterable[Sequence[str]]:
    for pair in run.pairs:
        if pair["primary"]:
            row = page.pair_row(run, pair)
            yield tuple(row[key] for key in ("versus", "metric", "difference", "interval", "n", "p", "holm", "mde"))


def _costs(run: Run) -> Iterable[Sequence[str]]:
    for line in page.cost_table(run):
        yield tuple(line[key] for key in ("arm", "tokens", "flops", "seconds", "replies", "proof_seconds", "peak"))

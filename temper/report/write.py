"""Write the report of a run folder, or the small folder of results that is worth committing."""

from pathlib import Path

from temper import files
from temper.errors import StorageError
from temper.report.explorer import packed
from temper.report.markdown import markdown
from temper.report.page import page
from temper.report.read import read_run

MOST = 20_000_000  # bytes of rows in one page: what mail and browsers still take
ALONE, PAGE = Path("report.html"), Path("report") / "index.html"


def build(run: Path, *, most: int = MOST) -> tuple[Path, Path]:
    """Write the page and report.md into a run folder, from that folder alone; returns their paths.

    The page is report.html with every row inside it. Where that would take more than `most` bytes it is report/index.html, and
    the rows stand beside it. Parts that are missing are shown as not recorded. Raises `StorageError` if there is no such folder
    or a file is damaged.
    """
    if not run.is_dir():
        raise StorageError(f"{run}: no such run folder; give the folder that holds run.json")
    found = read_run(run)
    chunks = packed(found)
    beside = sum(map(len, chunks)) > most
    told, plain = page(found, chunks, beside=beside), markdown(found)
    _clear(run)
    for number, chunk in enumerate(chunks if beside else ()):
        files.write_text((run / PAGE).with_name(f"rows-{number}.js"), f'temperRows({number}, "{chunk}");\n')
    html = run / PAGE if beside else run / ALONE
    files.write_text(html, told)
    files.write_text(run / "report.md", plain)
    return html, run / "report.md"


def built(run: Path) -> Path:
    """Where the page of a run stands."""
    return run / PAGE if (run / PAGE).is_file() else run / ALONE


def _clear(run: Path) -> None:
    """Remove what an earlier report of either form left, so that no page shows rows of another time."""
    for path in [run / ALONE, run / PAGE, *run.glob("report/rows-*.js")]:
        path.unlink(missing_ok=True)


def results(run: Path, out: Path) -> Path:
    """Write summary.json and rows.jsonl.gz (every row of every arm, in a fixed order, equal bytes for equal rows) into `out`.

    Raises `StorageError` if the run has no summary yet.
    """
    found = read_run(run)
    if not found.summary:
        raise StorageError(f"{run}: no summary.json yet; prove the run first")
    rows = sorted((row for of in found.rows.values() for row in of), key=lambda r: (r["suite"], r["arm"], r["id"], r["sample"]))
    files.write_json(out / "summary.json", found.summary)
    files.write_rows_gz(out / "rows.jsonl.gz", rows)
    return out

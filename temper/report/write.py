"""Write the report of a run folder, or the small folder of results that is worth committing."""

from pathlib import Path

from temper import files
from temper.errors import StorageError
from temper.report.markdown import markdown
from temper.report.page import page
from temper.report.read import read_run


def build(run: Path) -> tuple[Path, Path]:
    """Write report.html and report.md into a run folder, from that folder alone; returns their paths.

    Parts that are missing are shown as not recorded. Raises `StorageError` if there is no such folder or a file is damaged.
    """
    if not run.is_dir():
        raise StorageError(f"{run}: no such run folder; give the folder that holds run.json")
    found = read_run(run)
    html, plain = run / "report.html", run / "report.md"
    files.write_text(html, page(found))
    files.write_text(plain, markdown(found))
    return html, plain


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

"""Other tools' evaluations read into ours, and ours written in their formats: one file a format.

`read` finds out by itself what a file is; `folder.write` makes an evaluation folder of it that compare, report and rescore
read. `export` writes rows and summary of a finished evaluation for other tools.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from temper.data.rows import rows
from temper.errors import DataError, nearest
from temper.files import read_json
from temper.prove.interop import garak, inspect_log, jailbreakbench, lm_eval, promptfoo

if TYPE_CHECKING:
    from temper.prove.interop.reply import Log

READERS: Mapping[str, ModuleType] = {
    "inspect": inspect_log,
    "lm-eval": lm_eval,
    "garak": garak,
    "jailbreakbench": jailbreakbench,
    "promptfoo": promptfoo,
}
LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def read(path: Path) -> "Log":
    """The replies in a file of another tool. Raises `DataError` for a file that is none of theirs, or damaged."""
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file; {nearest(path.name, beside)}")
    if path.suffix == ".eval":
        return inspect_log.read(path)
    document = _document(path)
    recognises: Mapping[str, Callable[[object], bool]] = {name: reader.recognises for name, reader in READERS.items()}
    tool = next((name for name, theirs in recognises.items() if theirs(document)), None)
    if tool is None:
        raise DataError(f"{path}: {_shape(document)}; wanted a file of {', '.join(READERS)}")
    found: Log = READERS[tool].read(path, document)
    if not found.replies:
        raise DataError(f"{path}: holds no replies; wanted at least one")
    return found


def _document(path: Path) -> object:
    """What a file holds: the content of a .json, the rows of a .jsonl, each with its place."""
    if path.name.endswith(LINES):
        return list(rows(str(path)))
    if path.suffix == ".json":
        return read_json(path)
    raise DataError(f"{path}: cannot read this kind of file; wanted .eval, .json, {', '.join(LINES)}")


def _shape(document: object) -> str:
    if isinstance(document, dict):
        return f"an object with the fields {', '.join(sorted(map(str, document))[:8]) or 'none'}"
    if isinstance(document, list) and document and isinstance(document[0], tuple):
        return f"rows with the fields {', '.join(sorted(document[0][1])[:8])}"
    return f"a JSON {type(document).__name__}"

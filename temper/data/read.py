"""Read a source into what the rest of temper speaks: examples, dialogues, judged responses, preference pairs.

A source is the name of a bundled set ("cold-start", "red-team", "harm", "over-refusal", "benign", "reasoning"), a file (.jsonl,
.jsonl.gz, .jsonl.zst, .json, .csv, .tsv, .parquet) or a Hugging Face dataset ("org/name", "hf:org/name@revision:config"). Leaves
out mixing and overlap checks.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict
from itertools import chain, count

from temper.data import schemas
from temper.data.rows import rows
from temper.data.schemas import Dialogue, LabelledResponse, Pair, Row
from temper.errors import DataError
from temper.files import digest
from temper.types import Example

__all__ = ["Dialogue", "LabelledResponse", "Pair", "fingerprint", "read", "read_dialogues", "read_pairs", "read_responses"]


def read(source: str, *, split: str | None = None, limit: int | None = None, schema: str | None = None) -> list[Example]:
    """What is asked in every row of a source, at most `limit` rows of one `split` (default: all rows).

    The schema is told from the fields of the first row unless named. Raises `DataError` with file and line.
    """
    return [schemas.example(row) for _, row in _parsed(source, split, limit, schema)]


def read_dialogues(
    source: str, *, split: str | None = None, limit: int | None = None, schema: str | None = None
) -> list[Dialogue]:
    """Examples with the reply to learn; think tags become its reasoning. Raises as `read`, or if a row has no answer."""
    return [schemas.dialogue(where, row) for where, row in _parsed(source, split, limit, schema)]


def read_responses(
    source: str, *, split: str | None = None, limit: int | None = None, schema: str | None = None
) -> list[LabelledResponse]:
    """Replies judged `safe` or `unsafe`. Raises as `read`, or if a row is not a judged reply."""
    return [schemas.labelled(where, row) for where, row in _parsed(source, split, limit, schema)]


def read_pairs(source: str, *, split: str | None = None, limit: int | None = None, schema: str | None = None) -> list[Pair]:
    """Preference pairs. Raises as `read`, or if a row is not a pair."""
    return [schemas.pair(where, row) for where, row in _parsed(source, split, limit, schema)]


def fingerprint(items: Iterable[Example | Dialogue | LabelledResponse | Pair]) -> str:
    """A hash of content and order, 16 hex digits; the same rows give the same value whatever file they came from."""
    return digest([_plain(item) for item in items])


def _plain(item: Example | Dialogue | LabelledResponse | Pair) -> dict[str, object]:
    plain = asdict(item)
    inner = plain if isinstance(item, Example) else plain["example"]
    inner["tags"] = sorted(inner["tags"])
    return plain


def _parsed(source: str, split: str | None, limit: int | None, schema: str | None) -> Iterator[tuple[str, Row]]:
    chosen = schemas.named(schema) if schema else None
    first: dict[str, str] = {}
    for where, raw in rows(source, split=split, limit=limit):
        chosen = chosen or schemas.detect(where, raw)
        row = schemas.parse(where, raw, chosen)
        row = row if row.id else row.model_copy(update={"id": _free(schemas.content(row), first)})
        name = str(row.id)
        if name in first:
            raise DataError(f"{where}: id {name!r} was already used at {first[name]}; ids must be unique in a dataset")
        first[name] = where
        yield where, row


def _free(name: str, taken: Container[str]) -> str:
    """The name, numbered if another row without an id asks the same."""
    return next(f for f in chain([name], (f"{name}-{n}" for n in count(2))) if f not in taken)

"""A frozen dataclass from a table of TOML: the fields are the keys, and a wrong key or type is named where it stands."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, get_args, get_origin

from temper.errors import RecipeError, UsageError, nearest


def build(kind: type[Any], row: Mapping[str, Any], where: str, wrong: type[UsageError] = RecipeError) -> Any:
    """A frozen dataclass from a table; unknown keys name their nearest neighbour, and types are checked. Raises `wrong`."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    if not isinstance(row, Mapping):
        raise wrong(f"{where}: is a {type(row).__name__}; wanted a table of keys")
    known_keys(row, {f.name for f in dataclasses.fields(kind)}, where, wrong)
    row = {key: _nested(kind, key, value, where, wrong) for key, value in row.items()}
    try:
        checked = with_config(ConfigDict(strict=False, extra="forbid", allow_inf_nan=False))(kind)
        return TypeAdapter(checked).validate_python({k: _no_bool_as_number(kind, k, v, where, wrong) for k, v in row.items()})
    except ValidationError as error:
        raise wrong(f"{where}: {_complaint(error.errors()[0])}") from None


def known_keys(row: Mapping[str, Any], known: Collection[str], where: str, wrong: type[UsageError] = RecipeError) -> None:
    """Raises `wrong` for the first key that nobody reads, with the nearest one that somebody does."""
    for key in row:
        if key not in known:
            raise wrong(f"{where}: unknown key {key!r}; {nearest(key, known)}")


def _complaint(first: Mapping[str, Any]) -> str:
    """What one of pydantic's findings says to a person who writes TOML."""
    place = ".".join(str(p) for p in first["loc"])
    if first["type"].startswith("missing"):
        return f"no `{place}`"
    wanted = "wanted a list" if first["type"] == "tuple_type" else first["msg"].lower()
    return f"{place} = {first.get('input')!r}: {wanted}"


def _nested(kind: type[Any], key: str, value: Any, where: str, wrong: type[UsageError]) -> Any:
    """A table inside the table, built as the dataclass that its key declares, so that its unknown keys are named too."""
    declared = next(f.type for f in dataclasses.fields(kind) if f.name == key)
    inner = next((t for t in (declared, *get_args(declared)) if dataclasses.is_dataclass(t)), None)
    if inner is None:
        return value
    if get_origin(declared) is tuple and isinstance(value, Mapping):
        raise wrong(f"{where}: `{key}` is one table; write [[{where.rpartition(': ')[2]}.{key}]], once for each")
    if get_origin(declared) is tuple and isinstance(value, list):
        return tuple(build(inner, row, f"{where}: {key} {i}", wrong) for i, row in enumerate(value, 1))  # type: ignore[arg-type]
    return build(inner, value, f"{where}: {key}", wrong)  # type: ignore[arg-type]


def _no_bool_as_number(kind: type[Any], key: str, value: Any, where: str, wrong: type[UsageError]) -> Any:
    declared = {f.name: f.type for f in dataclasses.fields(kind)}[key]
    if isinstance(value, bool) and declared in (int, float):
        raise wrong(f"{where}: {key} = {str(value).lower()}; wanted a number")
    return value

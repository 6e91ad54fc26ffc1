"""`temper doctor`: what temper found on this machine, what it chose, and why."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

PACKAGE = "temper-llm"
EXTRAS = ("train", "serve", "verify")
MEMORY = "memory GB/s"
Row = tuple[str, str, str]


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show this machine, what temper chose for it and why, and what is missing; exit 1 if something required is broken."""
    found = examine()
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False)) if as_json else show(found)
    raise typer.Exit(1 if found["broken"] else 0)


def examine() -> dict[str, Any]:
    """Everything the command shows; a few seconds, most of them the import of torch. Raises `UsageError` as `choose` does."""
    from temper import machine
    from temper.models.profile import FIXED, OVERRIDES
    from temper.models.resolve import cache_dir

    missing, cache, busy = lacking(), cache_dir(), machine.sample_busy()
    broken = [f"the package {name} is missing: pip install {PACKAGE}" for name in missing[""]]
    if not _writable(cache):
        broken.append(f"{cache} cannot be written; point TEMPER_CACHE at another folder")
    computing: dict[str, Any] = {"choices": {}, "gpu": None, "speed": {}}
    try:
        computing = _absent() if missing["train"] else _computing(busy)
    except ImportError as error:
        broken.append(f"[train] is installed and cannot be imported: {error}")
    fixed = {name: _choice(*chosen) for name, chosen in FIXED.items()}
    return {
        "machine": machine.describe(),
        "cores": asdict(machine.choose_cores(busy=busy)),
        "choices": {**computing["choices"], **fixed, "allocator": _allocator()},
        "speed": {**computing["speed"], MEMORY: round(machine.bandwidth(), 1)},
        "accelerators": {"cuda": computing["gpu"], "vllm": _version("vllm")},
        "versions": machine.versions(),
        "extras": {e: {"missing": missing[e], "install": f"pip install '{PACKAGE}[{e}]'"} for e in EXTRAS},
        "cache": str(cache),
        "environment": {name: {"value": os.environ.get(name), "what": what} for name, what in OVERRIDES.items()},
        "broken": broken,
    }


def lacking() -> dict[str, list[str]]:
    """Packages that are not installed, by the extra that names them; "" for those that are always needed."""
    found: dict[str, list[str]] = {"": [], **{extra: [] for extra in EXTRAS}}
    for requirement in metadata.requires(PACKAGE) or []:
        named, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == ['\"]([\w-]+)", requirement)
        where = extra[1] if extra else ""
        if named and where in found and _version(named[0]) is None:
            found[where].append(named[0])
    return found


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in rows(found):
        table.add_row(*row)
    Console(width=max(80, min(150, shutil.get_terminal_size((120, 0)).columns)), highlight=False, markup=False).print(table)


def rows(found: dict[str, Any]) -> Iterator[Row]:
    """What was found as label, value and reason, in the order of the table."""
    told, cores, speed = found["machine"], found["cores"], found["speed"]
    yield "machine", told["cpu"], f"{told['memory_bytes'] / 1e9:.1f} GB, {told['system']}, Python {told['python']}"
    yield "cores", f"{cores['physical']} physical, {told['cores']} logical", cores["reason"]
    for name, choice in found["choices"].items():
        yield name, choice["value"], choice["why"]
    for name, rate in speed.items():
        if name != MEMORY:
            yield "speed", f"{rate:.0f} GFLOP/s", f"{name}, one core, measured now"
    yield "speed", f"{speed[MEMORY]:.0f} GB/s", "memory read and written by one core, measured now"
    yield from _installed(found)
    for name, variable in found["environment"].items():
        yield name, variable["value"] or "not set", variable["what"]
    for problem in found["broken"]:
        yield "BROKEN", "", problem


def _installed(found: dict[str, Any]) -> Iterator[Row]:
    yield "GPU", found["accelerators"]["cuda"] or "none", "as torch sees it"
    yield "vLLM", found["accelerators"]["vllm"] or "not installed", "not needed; it samples faster on a GPU"
    yield "versions", "", ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    for extra, state in found["extras"].items():
        lacks = ", ".join(state["missing"])
        yield f"[{extra}]", "missing" if lacks else "installed", f"lacks {lacks}; {state['install']}" if lacks else ""
    yield "cache", "", found["cache"]


def _computing(busy: Mapping[int, float]) -> dict[str, Any]:
    """What models compute with: the choices, the GPU, and products by every road on one core, the first that was chosen."""
    from temper.models.profile import applied, choose, gpu
    from temper.models.rates import rates

    chosen = choose(busy=busy)
    with applied(replace(chosen, threads=1, cores=chosen.cores[:1])):
        speed = {name: round(rate, 1) for name, rate in rates().items()}
    why, cores = chosen.reasons, f" on {', '.join(map(str, chosen.cores))}" if chosen.cores else ""
    measured = ", ".join(f"{name} {rate:.0f}" for name, rate in speed.items())
    choices = {
        "device": _choice(chosen.device, why["device"]),
        "precision": _choice(chosen.dtype, f"{why['dtype']} (GFLOP/s of one core: {measured})"),
        "threads": _choice(f"{chosen.threads}{cores}", why["threads"]),
        "products": _choice(chosen.engine, why["engine"]),
        "sampling": _choice(chosen.sampling, why["sampling"]),
    }
    return {"choices": choices, "gpu": gpu(), "speed": speed}


def _absent() -> dict[str, Any]:
    why = f"training and local models need pip install '{PACKAGE}[train]'; endpoints can be proved without"
    return {"choices": {"models": _choice("not here", why)}, "gpu": None, "speed": {}}


def _allocator() -> dict[str, str]:
    from temper import machine

    if machine.keep_freed_memory():
        return _choice("keeps freed memory", "large blocks are used again instead of being mapped and cleared at every step")
    return _choice("the system's", "only glibc has the setting that keeps freed memory")


def _choice(value: str, why: str) -> dict[str, str]:
    return {"value": value, "why": why}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _writable(folder: Path) -> bool:
    """Whether files can be made there, or the folder itself where its nearest existing parent is."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return there.is_dir() and os.access(there, os.W_OK)

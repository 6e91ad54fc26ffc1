"""A few cells of a full factorial, chosen so that each factor's effect can still be told from those of the others.

Levels are balanced by construction; rows are exchanged until every two factors are as near to orthogonal as n allows (the J2
criterion of Xu 2002, Technometrics 44:356). Knows nothing of prompts.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from temper.errors import UsageError

STARTS, WORK = 12, 8_000  # random starts, of which the best is kept; fewer where n^2 of them would exceed WORK

Cell = tuple[int, ...]
Table = NDArray[np.intp]


def fractional(levels: Sequence[int], n: int, seed: int = 0) -> list[Cell]:
    """n distinct cells of the factorial with that many levels a factor, the first all zeros; the same for the same arguments.

    Counts of a factor's levels differ by at most one. Raises `UsageError` unless 0 <= n <= the number of cells.
    """
    if not 0 <= n <= math.prod(levels):
        raise UsageError(f"a grid of {n} cells: wanted 0 to {math.prod(levels)}, as many as there are")
    if n < 2:
        return [tuple(0 for _ in levels)] * n
    rng = np.random.default_rng(seed)
    tried = [_exchanged(_start(levels, n, rng), levels) for _ in range(max(1, min(STARTS, WORK // n**2)))]
    best = min(tried, key=lambda table: _alike(table, levels))
    return _distinct([tuple(int(level) for level in row) for row in best], levels)


def association(cells: Sequence[Sequence[object]]) -> float:
    """The largest Cramér's V between two factors of a design: 0 where all are orthogonal, 1 where two are one (Cramér 1946)."""
    columns = [np.unique(column, return_inverse=True)[1] for column in zip(*cells, strict=True)]
    return max((_cramer(a, b) for a, b in combinations(columns, 2)), default=0.0)


def _start(levels: Sequence[int], n: int, rng: np.random.Generator) -> Table:
    """(n, factors): each column a shuffled, balanced list of its levels, with level 0 in the first row."""
    columns = []
    for count in levels:
        column = np.resize(np.arange(count), n)
        columns.append(np.concatenate([column[:1], rng.permutation(column[1:])]))
    return np.stack(columns, 1)


def _exchanged(table: Table, levels: Sequence[int]) -> Table:
    """Swap two entries of a column, which keeps it balanced, as long as that makes rows less alike; the first row stays."""
    pairs = list(combinations(range(1, len(table)), 2))
    best, better = _alike(table, levels), True
    while better:
        better = False
        for column in range(table.shape[1]):
            for i, j in pairs:
                if table[i, column] == table[j, column]:
                    continue
                table[[i, j], column] = table[[j, i], column]
                found = _alike(table, levels)
                if found < best:
                    best, better = found, True
                else:
                    table[[i, j], column] = table[[j, i], column]
    return table


def _alike(table: Table, levels: Sequence[int]) -> float:
    """J2: the squared weighted coincidences of every two rows. Least for an orthogonal array, and large for equal rows."""
    same = (table[:, None] == table[None]) @ np.asarray(levels)
    return float((same.astype(np.int64) ** 2).sum())


def _distinct(cells: list[Cell], levels: Sequence[int]) -> list[Cell]:
    """The cells with each repetition replaced by the cell nearest to it that is not there yet."""
    taken = set(cells)
    for at, cell in enumerate(cells):
        if cell in cells[:at]:
            free = (c for c in np.ndindex(*levels) if c not in taken)
            cells[at] = min(free, key=lambda c: sum(a != b for a, b in zip(c, cell, strict=True)))
            taken.add(cells[at])
    return cells


def _cramer(a: Table, b: Table) -> float:
    rows, columns = int(a.max()) + 1, int(b.max()) + 1
    if min(rows, columns) < 2:
        return 0.0
    counts = np.bincount(a * columns + b, minlength=rows * columns).reshape(rows, columns)
    expected = np.outer(counts.sum(1), counts.sum(0)) / len(a)
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    return math.sqrt(chi2 / (len(a) * (min(rows, columns) - 1)))

"""Every error temper raises on purpose.

TemperError
├── UsageError            the request is wrong; exit code 2
│   ├── RecipeError       a recipe key, type or reference
│   ├── PolicyError       a key, rule or filter of the gateway's policy
│   ├── DataError         a file, row, label or schema
│   └── UnknownName       no grader, suite, model or stage of that name
└── RunError              the request was fine and the work failed; exit code 1
    ├── ModelError        a model that cannot be fetched, verified or used
    ├── TrainError        training diverged or ran out of a resource
    ├── GuardError        a filter that failed, or did not fire on what was planted
    ├── ProofError        a proof that would not be one (for example a judge that also was a reward)
    └── StorageError      a file that cannot be written or is damaged
"""

import difflib
from collections.abc import Iterable


class TemperError(Exception):
    """Base of every error raised on purpose; its message says where, what was given, what was wanted and the nearest fix."""

    exit_code = 1


class UsageError(TemperError):
    exit_code = 2


class RecipeError(UsageError):
    pass


class PolicyError(UsageError):
    pass


class DataError(UsageError):
    pass


class UnknownName(UsageError):
    pass


class RunError(TemperError):
    pass


class ModelError(RunError):
    pass


class TrainError(RunError):
    pass


class GuardError(RunError):
    pass


class ProofError(RunError):
    pass


class StorageError(RunError):
    pass


def nearest(given: str, known: Iterable[str]) -> str:
    """A sentence that offers the closest known name, or lists them all; for the end of an error message."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}" if names else "none is known"

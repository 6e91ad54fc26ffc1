"""The hack bank: known ways to be paid without being good, each with a detector, a generator of positives and measured errors.

    bank(("all", "-prompt-copy"))      the entries a recipe names
    flags(hacks, completions, SHIPPED) one column a hack, in the order of the completions
    calibrate(completions)             thresholds for a policy, from its own answers to benign prompts
    figures(), twins()                 what was measured; bundled pairs for tests and for the release gate

Detectors are rules: no network, no guard, the same answer every time. What they cannot see is in docs/hacks.md.
"""

from temper.rewards.hacks.entry import CLASSES, Figures, Hack, Reference, Scope, Twin
from temper.rewards.hacks.table import bank, figures, flags, pairs, twins
from temper.rewards.hacks.thresholds import SHIPPED, calibrate

__all__ = [
    "CLASSES",
    "SHIPPED",
    "Figures",
    "Hack",
    "Reference",
    "Scope",
    "Twin",
    "bank",
    "calibrate",
    "figures",
    "flags",
    "pairs",
    "twins",
]

"""A filter of your own: `kind = "examples/my_filter.py:Shouting"` in a policy, where it takes words in capitals down a tone."""

import re
from dataclasses import dataclass

from temper.serve.verdict import Action, Canary, Channel, Finding, View, canary_turn


@dataclass(frozen=True)
class Shouting:
    letters: int = 5  # a setting: `letters = 8` in the filter's table
    name, pace, heavy, reach = "shouting", "window", False, 64  # reads a stream as it comes; no match is longer than 64
    default_channels, default_action = (Channel.CONTENT,), Action.REDACT

    def __call__(self, view: View, /) -> list[Finding]:
        found = re.finditer(rf"\b[A-Z]{{{self.letters},64}}\b", view.text)
        return [Finding("shouting", "capitals", "style", None, m.start(), m.end(), m[0].lower(), why="capitals") for m in found]

    def canary(self, channel: Channel, /) -> Canary:  # on this text it must fire, or the gateway is not ready
        return Canary(f"Say it {'A' * self.letters} once.", canary_turn())

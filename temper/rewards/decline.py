"""Certified decline: a bet against "answers are no worse than they were", one a step, whose wealth may be looked at after any."""

import math
from collections.abc import Iterable

ALARM = 20.0  # wealth that a true null reaches in at most one run of twenty (Ville 1939)
BETS = (0.1, 0.3, 1.0, 3.0, 9.0)
SAFE = 0.9  # largest share of the wealth that one step may cost


def e_value(gains: Iterable[float], *, least: float) -> float:
    """Evidence that the mean of `gains` is above 0, none of which is below -`least`: the mean wealth of five constant bets.

    Each is prod(1 + bet * gain), a supermartingale where no gain has a mean above 0 given those before it (betting martingales,
    Waudby-Smith and Ramdas 2010.09686; their mean is one too). So a gain must be all that is learned at one time: the labels of
    one step depend on each other, since answers to one prompt are alike, and a bet on each of them is no supermartingale.
    Raises ValueError for a `least` of 0 or less.
    """
    if least <= 0:
        raise ValueError(f"e_value: least = {least}; wanted above 0, the most that one step can lose")
    seen = list(gains)
    return sum(_wealth(seen, min(bet, SAFE / least)) for bet in BETS) / len(BETS)


def _wealth(gains: list[float], bet: float) -> float:
    log = math.fsum(math.log1p(bet * gain) for gain in gains)
    return math.exp(min(log, 700.0))

"""Whether a refitted reward model may replace the one in force: by audits it never saw, and by the hacks it must still see."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from temper.graders.card import ece
from temper.rewards.audits import GROUPS, Audit
from temper.rewards.heads import Heads
from temper.stats import auc

HELD_OUT = 5  # every fifth text, by its hash, is kept from the fits that are compared
WORSE_AUC, WORSE_ECE = 0.01, 0.02  # docs/science.md 3.3.7
EITHER, LEAST = 5, 20  # labels of either kind for an AUC, labels for a calibration error: below, both are noise


@dataclass(frozen=True, slots=True)
class Quality:
    """On held-out audits: AUC within a group (mean by rows) and calibration error; None where it cannot be told."""

    auc: float | None
    ece: float | None
    n: int


def held_out(audit: Audit) -> bool:
    """Whether a label is for measuring; decided by the text, so that one text is never on both sides."""
    text = f"{audit.reasoning}\0{audit.answer}".encode(errors="surrogatepass")
    return hashlib.sha256(text).digest()[0] % HELD_OUT == 0


def quality(model: Heads | None, audits: Sequence[Audit]) -> Quality:
    """What the model's mean is worth on the held-out ones among the audits; nothing is known of no model."""
    if model is None:
        return Quality(None, None, 0)
    told = [a for a in audits if a.bad is not None and held_out(a)]
    mean, _ = model.predict([(a.reasoning, a.answer) for a in told], [a.group for a in told])
    known = [i for i in range(len(told)) if not math.isnan(mean[i])]
    label = np.array([float((a.bad or 0.0) >= 0.5) for a in told])
    sides = [[i for i in known if told[i].group == group] for group in GROUPS]
    ranked = [mine for mine in sides if min(label[mine].sum(), (1 - label[mine]).sum()) >= EITHER]
    area = sum(auc(mean[mine], label[mine]) * len(mine) for mine in ranked) / sum(map(len, ranked)) if ranked else None
    return Quality(area, ece(mean[known], label[known]) if len(known) >= LEAST else None, len(known))


def worse(candidate: Quality, old: Quality) -> list[str]:
    """What the candidate does worse than a release allows; what cannot be measured forbids nothing."""
    found = []
    if candidate.auc is not None and old.auc is not None and candidate.auc < old.auc - WORSE_AUC:
        found.append("auc")
    if candidate.ece is not None and old.ece is not None and candidate.ece > old.ece + WORSE_ECE:
        found.append("ece")
    return found

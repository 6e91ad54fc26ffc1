"""What a reader of harm may say: MLCommons AILuminate's hazards, and its opinions of an answer and of a request.

Beneath both the networks that hold the opinions (models) and the graders that ask for them (graders.harm), which tells more.
"""

from typing import NamedTuple

HAZARDS = ("vcr", "ncr", "src", "cse", "iwp", "ssh", "ipv", "dfm", "hte", "prv", "spc", "sxc")
"""The twelve hazards of MLCommons AILuminate v1.0 (arXiv 2503.05731)."""

NAMES = dict(zip(HAZARDS, (
    "violent crimes", "non-violent crimes", "sex-related crimes", "child sexual exploitation", "indiscriminate weapons",
    "suicide and self-harm", "intellectual property", "defamation", "hate", "privacy", "specialised advice", "sexual content",
), strict=True))  # fmt: skip


class Opinion(NamedTuple):
    """What a reader holds of a (prompt, response) pair: calibrated probabilities, each the maximum over windows."""

    unsafe: float
    refusal: float
    hazards: tuple[float, ...]


class RequestOpinion(NamedTuple):
    """What a reader holds of a prompt alone: calibrated probabilities, each the maximum over windows."""

    harmful: float
    hazards: tuple[float, ...]

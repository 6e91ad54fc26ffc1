"""Dashboards: traffic, blocks, holds, filters and latency of the last day, counters day by day, and how far reviewers agree."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import quantiles
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection, func, select
from starlette.responses import Response

from temper.serve.pages.chart import bars, figure
from temper.serve.pages.frame import loose, page
from temper.serve.pages.session import Page, Reviewer
from temper.serve.state import Gateway
from temper.serve.tables import audits, counters, responses

AT = "/review/board"
HOURS = 24
DAYS = 14
LOOKED = 5_000  # responses that are read for latency and filters
TOKENS = ("prompt_tokens", "completion_tokens", "reasoning_tokens")
MEANS = ("score:", "characters", "language-switch", "first_s", *TOKENS)  # whose mean is shown, not their number

"""What the harm filter adds: milliseconds for 512 tokens on one core, and whether the event loop notices. One line of JSON.

`filter_p50_ms` is a call in this thread, `filter_cpu_p50_ms` its CPU time. `lag_p99_ms` is how late a timer of 1 ms fires while
calls run in the pool all the time, `idle_lag_p99_ms` the same with an idle pool. `--calls N` of each.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

from cases import INPUT, OUTPUT
from load import quantile
from tokenizers import Tokenizer

import temper.graders
from temper.serve.policy import Setting, parse_policy
from temper.serve.pool import Pool
from temper.serve.verdict import Channel, Turn, View
from temper.types import Example, Message

TOKENS = 512
TICK = 0.001


def view() -> View:
    """An answer of 512 tokens to a short request."""
    tokenizer = Tokenizer.from_file(str(Path(temper.graders.__file__).parent / "data" / "harm" / "tokenizer.json"))
    tokenizer.no_truncation()
    encoded = tokenizer.encode(OUTPUT * 4, add_special_tokens=False)
    text = (OUTPUT * 4)[: encoded.offsets[TOKENS - 1][1]]
    return View(Channel.CONTENT, text, Turn("bench", Example("bench", (Message("user", INPUT[:100]),))))


def timed(setting: Setting, read: View, calls: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    took = []
    for _ in range(calls):
        began = clock()
        setting.filter(read)
        took.append(clock() - began)
    return took


async def lags(setting: Setting, read: View, calls: int, *, busy: bool) -> list[float]:
    """How late each tick of a timer was while the pool worked, two calls under way at any time."""
    pool, late = Pool(), list[float]()

    async def work() -> None:
        for _ in range(calls):
            await (pool.call(setting, read) if busy else asyncio.sleep(0.02))

    under_way = asyncio.gather(work(), work())
    while not under_way.done():
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        late.append(time.perf_counter() - due)
    await pool.close()
    return late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=60)
    calls = parser.parse_args().calls
    (setting,) = parse_policy("[filters.harm]").filters
    read = view()
    timed(setting, read, 5)
    took, cpu = timed(setting, read, calls), timed(setting, read, calls, time.thread_time)
    idle, busy = (asyncio.run(lags(setting, read, calls, busy=b)) for b in (False, True))
    told = {
        "tokens": TOKENS,
        "filter_cpu_p50_ms": quantile(cpu, 0.5),
        "filter_p50_ms": quantile(took, 0.5),
        "filter_p99_ms": quantile(took, 0.99),
        "idle_lag_p99_ms": quantile(idle, 0.99),
        "lag_p50_ms": quantile(busy, 0.5),
        "lag_p99_ms": quantile(busy, 0.99),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()

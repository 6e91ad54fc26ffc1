"""What the gateway counts: every number is where Prometheus reads it, no client can make up a label, and it costs little."""

import asyncio
import json
import os
import tempfile
import time
from pathlib import Path

import pytest
from bounded import allowed, soon
from prometheus_client.parser import text_string_to_metric_families

from temper.serve import metrics
from temper.serve.metrics import MOST, Meters

ROW = {
    "id": "resp_1",
    "route": "chat",
    "model": "m",
    "status": 200,
    "action": "allow",
    "findings": "[]",
    "scanned": 100,
    "released": 100,
    "prompt_tokens": 3,
    "completion_tokens": 5,
    "reasoning_tokens": 2,
    "seconds": 0.2,
    "first_s": 0.05,
}


def read(meters: Meters) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = meters.exposition()[0].decode()
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def total(meters: Meters, name: str, **labels: str) -> float:
    return sum(v for (n, given), v in read(meters).items() if n == name and frozenset(labels.items()) <= given)


def test_a_response_is_counted_with_its_route_model_status_and_action() -> None:
    meters = Meters(models=["m"])
    meters.response(ROW)
    meters.response({**ROW, "status": 400, "action": "block"})
    assert total(meters, "temper_requests_total", route="chat", model="m", status="200", action="allow") == 1
    assert total(meters, "temper_requests_total", status="400", action="block") == 1
    assert total(meters, "temper_tokens_total", kind="reasoning") == 4
    assert total(meters, "temper_request_seconds_count") == 2


def test_text_that_was_delivered_and_never_scanned_raises_an_alarm() -> None:
    meters = Meters()
    meters.response(ROW)
    assert total(meters, "temper_unscanned_characters") == 0
    meters.response({**ROW, "released": 130})
    assert total(meters, "temper_unscanned_characters") == 30


def test_a_model_that_a_client_made_up_is_no_label() -> None:
    meters = Meters(models=["m"])
    for i in range(1000):
        meters.response({**ROW, "model": f"alice@example.org {i}"})
    assert total(meters, "temper_requests_total", model="other") == 1000
    assert b"alice" not in meters.exposition()[0]


def test_a_model_that_the_model_server_lists_is_one() -> None:
    meters = Meters(models=["m"])
    meters.learn(["n"])
    assert [meters.named(name) for name in ("m", "n", "alice@example.org")] == ["m", "n", "other"]


def test_findings_are_counted_and_text_in_their_names_is_not_shown() -> None:
    meters = Meters()
    found = [
        {"filter": "pii", "rule": "email", "channel": "content", "action": "redact", "shadow": False},
        {"filter": "pii", "rule": "call 555 0199 now", "channel": "content", "action": "redact", "shadow": True},
        {"filter": "harm", "rule": "error", "channel": "input", "action": "block", "shadow": False},
    ]
    meters.response({**ROW, "findings": json.dumps(found)})
    assert total(meters, "temper_findings_total", filter="pii", rule="email", shadow="no") == 1
    assert total(meters, "temper_findings_total", rule="other", shadow="yes") == 1
    assert total(meters, "temper_filter_errors_total", filter="harm", on_error="block") == 1
    assert b"0199" not in meters.exposition()[0]


def test_the_values_of_a_label_are_bounded() -> None:
    meters = Meters()
    for i in range(MOST + 50):
        meters.filter_ms(f"f{i}", 0.001)
    names = {dict(labels)["filter"] for name, labels in read(meters) if name == "temper_filter_seconds_count"}
    assert len(names) == MOST + 1 and "other" in names


def test_what_is_measured_beside_the_rows_is_shown_too() -> None:
    meters = Meters()
    meters.lag(0.15)
    meters.shed("under_way")
    meters.feedback(-1)
    meters.ready(True)
    meters.under_way.inc()
    assert total(meters, "temper_hold_back_seconds_sum") == 0.15
    assert total(meters, "temper_shed_total", why="under_way") == 1
    assert total(meters, "temper_feedback_total", rating="down") == 1
    assert total(meters, "temper_ready") == total(meters, "temper_under_way") == 1


def test_every_series_names_its_worker_and_no_registry_is_shared() -> None:
    one, two = Meters(worker="1"), Meters(worker="2")
    one.response(ROW)
    assert total(one, "temper_requests_total", worker="1") == 1
    assert total(two, "temper_requests_total") == 0


def test_a_watched_gauge_is_read_when_somebody_asks() -> None:
    meters = Meters()
    queue: list[int] = []
    meters.watch("temper_journal_queue", "Rows that wait.", lambda: len(queue))
    queue += [1, 2, 3]
    assert total(meters, "temper_journal_queue") == 3


def test_a_loop_that_is_blocked_shows_as_lag() -> None:
    meters = Meters()

    async def blocked() -> None:
        task = asyncio.create_task(meters.watch_loop())
        await asyncio.sleep(0.01)
        time.sleep(0.16)  # what must never happen on the loop
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(blocked())
    assert (meters.loop_lag() or 0) > 0.03
    assert total(meters, "temper_loop_lag_p99_seconds") > 0.03


def test_counting_a_response_takes_less_than_twenty_microseconds_of_processor() -> None:
    meters = Meters(models=["m"])
    meters.response(ROW)

    def cost() -> float:
        before = time.thread_time()
        for _ in range(2000):
            meters.response(ROW)
        return (time.thread_time() - before) / 2000

    assert min(cost() for _ in range(5)) < allowed(20e-6)


def test_whichever_worker_is_asked_tells_of_all_that_live(tmp_path: Path) -> None:
    workers = [Meters(worker=str(i), models=["m"]) for i in range(3)]
    for n, worker in enumerate(workers, 1):
        worker.shared = tmp_path
        worker.feedback(1)
        for _ in range(n):
            worker.response(ROW)
        worker.share()
    os.utime(tmp_path / "2.prom", (time.time() - 60, time.time() - 60))
    workers[0].response(ROW)
    assert total(workers[0], "temper_requests_total") == 2 + 2, "its own now, the second's of its last writing, none of the dead"
    assert total(workers[1], "temper_requests_total") == 1 + 2
    text = workers[0].exposition()[0].decode()
    heads = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads)), "each family stands once"
    names = [line.split("{")[0] for line in text.splitlines() if line.startswith("temper_requests_total")]
    at = [i for i, line in enumerate(text.splitlines()) if line.startswith("temper_requests_total")]
    assert len(names) == 2 and at[1] == at[0] + 1, "its samples in one group"


def test_workers_meet_where_nobody_else_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = metrics.meeting_place(8080)
    assert made is not None and made.stat().st_mode & 0o777 == 0o700
    (made / "9.prom").write_text("x")
    os.utime(made / "9.prom", (1, 1))
    assert metrics.meeting_place(8080) == made and list(made.iterdir()) == []
    made.chmod(0o777)
    assert metrics.meeting_place(8080) is None, "others could have put text into it"
    made.chmod(0o700)
    made.rmdir()
    made.symlink_to(tmp_path)
    assert metrics.meeting_place(8080) is None


def test_the_loop_leaves_the_counters(tmp_path: Path) -> None:
    async def main() -> None:
        meters = Meters(worker="7")
        meters.shared = tmp_path
        task = asyncio.create_task(meters.watch_loop())
        await soon((tmp_path / "7.prom").exists, "the counters' file")
        task.cancel()

    asyncio.run(main())

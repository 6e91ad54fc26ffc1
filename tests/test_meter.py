"""What work took: seconds of the clock and of the processor, and joules only where somebody counts them."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from temper import meter
from temper.meter import Meter


def zone(folder: Path, name: str, used: int, top: int = 1_000_000) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{used}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{top}\n")


@pytest.fixture(autouse=True)
def no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "card_counters", tuple)


ASLEEP = """
import time
from temper.meter import Meter
meter = Meter.start()
time.sleep(0.2)
spent = meter.spent()
assert spent.seconds >= 0.2 > 2 * spent.cpu_seconds, spent
"""


def test_sleep_takes_time_and_no_processor_and_a_loop_takes_both(tmp_path: Path) -> None:
    # in a process of its own: this one may have threads of libraries that count
    subprocess.run([sys.executable, "-c", ASLEEP], check=True, timeout=240)
    busy, began = Meter.start(tmp_path), time.thread_time()
    while time.thread_time() - began < 0.1:
        sum(range(1000))
    spent = busy.spent()
    assert min(spent.seconds, spent.cpu_seconds) > 0.05


def test_without_a_counter_energy_is_unknown_and_not_zero(tmp_path: Path) -> None:
    assert Meter.start(tmp_path).spent().joules is None


def test_joules_are_those_of_all_packages_and_of_no_part_of_one(tmp_path: Path) -> None:
    for name, used in (("intel-rapl:0", 100), ("intel-rapl:1", 500), ("intel-rapl:0:0", 7)):
        zone(tmp_path, name, used)
    started = Meter.start(tmp_path)
    for name, used in (("intel-rapl:0", 2_000_100), ("intel-rapl:1", 1_000_500), ("intel-rapl:0:0", 9_000_007)):
        zone(tmp_path, name, used)
    assert started.spent().joules == pytest.approx(3.0)


def test_a_counter_that_started_again_at_its_maximum_is_read_on(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 900_000)
    started = Meter.start(tmp_path)
    zone(tmp_path, "intel-rapl:0", 100_000)
    assert started.spent().joules == pytest.approx(0.2)


def test_cards_are_counted_beside_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(1_000, 5_000), (3_000, 6_000)])
    monkeypatch.setattr(meter, "card_counters", lambda: next(readings))
    assert Meter.start(tmp_path).spent().joules == pytest.approx(3.0)


def test_a_counter_that_only_root_may_read_is_no_counter(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    assert Meter.start(tmp_path).spent().joules is None

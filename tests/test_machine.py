"""Readings of the machine are plausible and the allocator setting is safe to ask for twice."""

import sys

from temper import machine


def test_a_machine_is_described_without_naming_its_host() -> None:
    import platform

    told = machine.describe()
    assert told["cores"] >= 1
    assert told["memory_bytes"] > 10**8
    assert platform.node() not in str(told) or not platform.node()


def test_peak_memory_grows_with_what_is_allocated() -> None:
    machine.reset_peak()
    before = machine.peak_bytes()
    block = bytearray(b"x") * 80_000_000
    assert machine.peak_bytes() - before > 40_000_000
    del block


def test_the_allocator_setting_is_taken_on_glibc_and_refused_elsewhere() -> None:
    first, again = machine.keep_freed_memory(), machine.keep_freed_memory()
    assert first == again
    assert first or not sys.platform.startswith("linux") or "musl" in str(sys.version)


def test_matrix_speed_is_a_positive_number() -> None:
    assert machine.gflops(0.02) > 0.1

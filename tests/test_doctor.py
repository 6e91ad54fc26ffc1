"""Cores, threads and precision are chosen by what the machine is and does, and `temper doctor` says what and why."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from temper import machine
from temper.cli import app
from temper.cli import doctor as verb
from temper.errors import UsageError

NO_LIMIT = Path("/nowhere/cpu.max")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEMPER_THREADS", "TEMPER_PRECISION", "TEMPER_PRODUCTS", "TEMPER_DEVICE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def sysfs(folder: Path, siblings: Sequence[str]) -> Path:
    for cpu, text in enumerate(siblings):
        file = folder / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(text + "\n")
    return folder


def stat(*cpus: tuple[int, int]) -> str:
    """/proc/stat after each CPU worked and rested so many ticks; the columns between and behind are other kinds of both."""
    lines = [f"cpu{n} {work} 0 0 {rest} 7 0 0 0 {work} 0" for n, (work, rest) in enumerate(cpus)]
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 1 2 3"])


def choose(busy: dict[int, float], topology: Path, usable: Sequence[int], **more: int) -> machine.Cores:
    return machine.choose_cores(busy=busy, usable=usable, topology=topology, limit=NO_LIMIT, **more)


# --- the cores of a machine


def test_hyperthreads_of_one_core_are_one_core(tmp_path: Path) -> None:
    topology = sysfs(tmp_path, ["0,4-5", "1", "2-3", "2-3", "0,4-5", "0,4-5"])
    assert machine.physical_cores(range(6), topology) == [(0, 4, 5), (1,), (2, 3)]


def test_a_core_counts_if_one_of_its_hyperthreads_may_be_used(tmp_path: Path) -> None:
    topology = sysfs(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    assert machine.physical_cores([2], topology) == [(0, 2)]
    assert choose({}, topology, [2]).chosen == (2,)


def test_without_a_topology_every_cpu_is_a_core(tmp_path: Path) -> None:
    assert machine.physical_cores([0, 3], tmp_path / "missing") == [(0,), (3,)]


def test_the_share_of_work_is_taken_between_two_readings() -> None:
    shares = machine.busy_shares(stat((100, 900), (50, 50), (5, 5)), stat((115, 905), (50, 70), (5, 5)))
    assert shares == {0: 0.75, 1: 0.0, 2: 0.0}


def test_a_cpu_that_came_meanwhile_and_a_counter_that_ran_backwards_do_no_harm() -> None:
    assert machine.busy_shares(stat((100, 900)), stat((90, 920), (1, 1))) == {0: 0.0}


def test_without_proc_stat_nothing_is_known_and_all_cores_are_taken(tmp_path: Path) -> None:
    assert machine.sample_busy(tmp_path / "stat") == {}
    found = choose({}, tmp_path, [0, 1])
    assert found.chosen == (0, 1)
    assert found.busy == {}
    assert "not known" in found.reason


def test_a_file_that_stays_the_same_tells_of_no_work(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(stat((100, 900)))
    assert machine.sample_busy(tmp_path / "stat", seconds=0) == {0: 0.0}


# --- which of them are used


def test_a_busy_core_is_left_alone(tmp_path: Path) -> None:
    found = choose({0: 0.93, 1: 0.02}, tmp_path, [0, 1])
    assert found.chosen == (1,)
    assert found.physical == 2
    assert "1 of 2" in found.reason
    assert "core 0 93%" in found.reason


def test_a_core_is_busy_if_another_of_its_hyperthreads_works(tmp_path: Path) -> None:
    topology = sysfs(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    assert choose({0: 0.0, 1: 0.0, 2: 0.9, 3: 0.0}, topology, range(4)).chosen == (1,)


def test_one_hyperthread_of_each_idle_core_is_used(tmp_path: Path) -> None:
    topology = sysfs(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    found = choose({0: 0.2, 1: 0.0, 2: 0.0, 3: 0.1}, topology, range(4))
    assert found.chosen == (1, 2)
    assert found.reason == "both physical cores, idle now"


def test_on_a_busy_machine_the_least_busy_core_is_used(tmp_path: Path) -> None:
    found = choose({0: 0.99, 1: 0.6, 2: 0.8}, tmp_path, range(3))
    assert found.chosen == (1,)
    assert "no core is idle" in found.reason


def test_a_given_number_takes_the_least_busy_cores_and_no_more_than_there_are(tmp_path: Path) -> None:
    busy = {0: 0.99, 1: 0.6, 2: 0.8}
    assert choose(busy, tmp_path, range(3), exactly=2).chosen == (1, 2)
    assert choose(busy, tmp_path, range(3), exactly=9).chosen == (0, 1, 2)
    assert choose({}, tmp_path, range(3), at_most=2).chosen == (0, 1)


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", None), ("250000 100000", 2), ("50000 100000", 1), ("", None), ("damaged", None)]
)
def test_a_container_gets_as_many_threads_as_it_gets_time(tmp_path: Path, text: str, cores: int | None) -> None:
    limit = tmp_path / "cpu.max"
    limit.write_text(text)
    assert machine.cpu_quota(limit) == cores
    found = machine.choose_cores(busy={}, usable=range(4), topology=tmp_path, limit=limit)
    assert len(found.chosen) == (cores or 4)
    assert ("control group" in found.reason) == (cores is not None)


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("flags\t\t: fpu avx512_bf16 sse", "avx512_bf16"),
        ("flags\t\t: amx_bf16 avx512_bf16", "amx_bf16"),
        ("Features\t: fp asimd bf16 i8mm", "bf16"),
        ("flags\t\t: fpu avx2\nvmx flags\t: avx512_bf16", ""),
        ("model name\t: bf16", ""),
    ],
)
def test_native_bf16_is_read_from_the_flags_of_the_processor(tmp_path: Path, text: str, flag: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{text}\n")
    assert machine.native_bf16(tmp_path / "cpuinfo") == flag
    assert machine.native_bf16(tmp_path / "missing") == ""


# --- the profile


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of two physical cores, the first of them busy, and no control group."""
    pytest.importorskip("torch")
    (tmp_path / "stat").write_text("")
    monkeypatch.setattr(machine, "sample_busy", lambda: {0: 0.9, 1: 0.1})
    monkeypatch.setattr(machine, "usable_cpus", lambda: frozenset({0, 1}))
    monkeypatch.setattr(machine, "cpu_quota", lambda limit: None)
    monkeypatch.setenv("TEMPER_DEVICE", "cpu")
    return tmp_path


@pytest.mark.train
def test_threads_are_as_many_as_idle_cores_and_pinned_to_them(two_cores: Path) -> None:
    from temper.models.profile import choose

    chosen = choose()
    assert (chosen.device, chosen.threads, chosen.cores, chosen.checkpointing) == ("cpu", 1, (1,), False)
    assert "core 0 90%" in chosen.reasons["threads"]
    assert set(chosen.reasons) == {"device", "dtype", "threads", "engine", "sampling", "checkpointing"}


@pytest.mark.train
def test_a_stated_number_of_threads_is_taken_as_it_is_and_not_pinned(two_cores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from temper.models.profile import choose

    monkeypatch.setenv("TEMPER_THREADS", "3")
    assert (choose().threads, choose().cores) == (3, ())
    assert choose(recorded=1).threads == 3


@pytest.mark.train
def test_the_number_of_openmp_is_an_upper_limit(two_cores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from temper.models.profile import choose

    monkeypatch.setattr(machine, "sample_busy", dict)
    assert choose().threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert choose().threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert choose().threads == 2


@pytest.mark.train
def test_a_run_that_goes_on_keeps_its_threads_if_the_cores_are_there(two_cores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from temper.models.profile import choose

    kept = choose(recorded=2)
    assert (kept.threads, kept.cores) == (2, (0, 1))
    assert "as this run began" in kept.reasons["threads"]
    lost = choose(recorded=4)
    assert lost.threads == 1
    assert "may not go on bit for bit" in lost.reasons["threads"]
    monkeypatch.setattr(machine, "physical_cores", lambda usable, topology: [(0, 1)])
    hyperthreads = choose(recorded=2)
    assert (hyperthreads.threads, hyperthreads.cores) == (2, ())


@pytest.mark.train
def test_what_was_applied_is_undone_afterwards() -> None:
    torch = pytest.importorskip("torch")
    from dataclasses import replace

    from temper.models.profile import applied, choose

    threads, cpus = torch.get_num_threads(), machine.usable_cpus()
    chosen = replace(choose(), threads=threads + 1, cores=(min(cpus),))
    with applied(chosen):
        assert torch.get_num_threads() == threads + 1
        assert machine.usable_cpus() == {min(cpus)} or not hasattr(os, "sched_setaffinity")
    assert torch.get_num_threads() == threads
    assert machine.usable_cpus() == cpus


@pytest.mark.train
@pytest.mark.parametrize(
    ("flag", "fast", "onednn", "asked", "wanted"),
    [
        ("", True, True, "", "fp32"),
        ("avx512_bf16", True, True, "auto", "fp32"),
        ("avx512_bf16", False, True, "auto", "bf16"),
        ("avx512_bf16", False, False, "auto", "fp32"),
        ("", False, True, "auto", "fp32"),
        ("", True, True, "bf16", "bf16"),
        ("avx512_bf16", False, True, "fp32", "fp32"),
    ],
)
def test_bf16_is_chosen_on_a_cpu_only_where_it_is_native_and_the_fast_fp32_products_are_not_there(
    monkeypatch: pytest.MonkeyPatch, two_cores: Path, flag: str, fast: bool, onednn: bool, asked: str, wanted: str
) -> None:
    import torch

    from temper.models import products
    from temper.models.load import precision
    from temper.models.profile import choose, in_bf16

    monkeypatch.setattr(machine, "native_bf16", lambda: flag)
    monkeypatch.setattr(products, "available", lambda: fast)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    monkeypatch.setenv("TEMPER_PRECISION", asked)
    chosen = choose()
    assert chosen.dtype == wanted
    assert chosen.reasons["dtype"]
    assert in_bf16(torch.device("cpu")) is (wanted == "bf16")
    assert precision(torch.device("cpu")) is torch.float32


@pytest.mark.train
def test_weights_on_a_gpu_are_bf16_unless_fp32_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from temper.models.load import precision

    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert precision(gpu) is torch.bfloat16
    monkeypatch.setenv("TEMPER_PRECISION", "fp32")
    assert precision(gpu) is torch.float32
    monkeypatch.delenv("TEMPER_PRECISION")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert precision(gpu) is torch.float32


@pytest.mark.train
@pytest.mark.parametrize(
    ("flag", "asked", "precision", "products", "found"),
    [
        ("avx512_bf16", "auto", "", "", "bf16"),
        (None, "auto", "", "", "fp32"),
        (None, "bf16", "", "", "bf16"),
        ("avx512_bf16", "fp32", "", "", "fp32"),
        ("avx512_bf16", "auto", "fp32", "", "fp32"),
        ("avx512_bf16", "bf16", "", "torch", "fp32"),
    ],
)
def test_answers_are_sampled_in_bf16_where_it_is_native_and_nobody_objects(
    monkeypatch: pytest.MonkeyPatch, flag: str | None, asked: str, precision: str, products: str, found: str
) -> None:
    import torch

    from temper.models import products as roads
    from temper.models.profile import sampling

    monkeypatch.setattr(roads, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(machine, "native_bf16", lambda: flag)
    monkeypatch.setenv("TEMPER_PRECISION", precision)
    monkeypatch.setenv("TEMPER_PRODUCTS", products)
    assert sampling(torch.device("cpu"), asked)[0] == found


@pytest.mark.train
def test_a_processor_that_refuses_bf16_weights_samples_in_fp32_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from temper.models import products
    from temper.models.profile import sampling

    monkeypatch.setattr(products, "multiplies_bf16", lambda: False)
    assert sampling(torch.device("cpu"), "bf16")[0] == "fp32"


BAD = [
    ("TEMPER_THREADS", "two", "at least 1"),
    ("TEMPER_THREADS", "0", "at least 1"),
    ("TEMPER_THREADS", "-1", "at least 1"),
    ("TEMPER_THREADS", "1.5", "at least 1"),
    ("TEMPER_PRECISION", "BF16", "wanted auto, fp32 or bf16"),
    ("TEMPER_PRECISION", "half", "wanted auto, fp32 or bf16"),
    ("TEMPER_PRODUCTS", "mkl", "wanted auto or torch"),
    ("TEMPER_DEVICE", "graphics", "wanted for example cpu"),
    ("TEMPER_DEVICE", "cuda:97", "unset it, or give cpu"),
]


@pytest.mark.train
@pytest.mark.parametrize(("name", "given", "message"), BAD)
def test_a_wrong_value_is_refused_with_what_was_given_and_what_was_wanted(
    monkeypatch: pytest.MonkeyPatch, two_cores: Path, name: str, given: str, message: str
) -> None:
    from temper.models.profile import choose

    monkeypatch.setenv(name, given)
    with pytest.raises(UsageError) as raised:
        choose()
    assert f"{name}={given!r}" in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.train
def test_a_run_notes_its_profile_and_goes_on_with_the_threads_noted(two_cores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from temper.files import read_json
    from temper.proof import Run, computing

    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: None, raising=False)
    this = Run(two_cores)
    this.record(name="x", machine={"cores": 2})
    with computing(this):
        assert torch.get_num_threads() == 1
    monkeypatch.setattr(machine, "sample_busy", lambda: {0: 0.0, 1: 0.0})
    with computing(this):
        assert torch.get_num_threads() == 1
    facts = read_json(two_cores / "run.json")
    assert facts["name"] == "x"
    assert facts["profile"]["threads"] == 1
    assert facts["profile"]["dtype"] == "fp32"
    assert "as this run began" in facts["profile"]["reasons"]["threads"]


# --- the command


def told(*words: str) -> dict[str, object]:
    done = CliRunner().invoke(app, ["doctor", "--json", *words])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "bandwidth", lambda: 1.0)
    return tmp_path / "cache"


def test_the_doctor_prints_json_of_all_it_knows(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(cache))
    found = told()
    assert set(found) == {
        *("machine", "cores", "choices", "speed", "accelerators", "versions", "extras", "cache", "environment", "broken"),
    }
    assert found["broken"] == []
    assert found["cache"] == str(cache)
    assert found["choices"]["telemetry"]["value"] == "off"  # type: ignore[index]
    assert found["choices"]["gradient checkpointing"]["value"] == "off"  # type: ignore[index]
    assert found["environment"]["TEMPER_CACHE"]["value"] == str(cache)  # type: ignore[index]
    assert not cache.exists()


@pytest.mark.train
def test_the_doctor_measures_products_and_says_why_this_precision(cache: Path) -> None:
    found = told()
    assert all(rate > 0 for rate in found["speed"].values())  # type: ignore[attr-defined]
    assert {"device", "precision", "threads", "products"} <= set(found["choices"])  # type: ignore[call-overload]
    assert all(choice["why"] for choice in found["choices"].values())  # type: ignore[attr-defined]


def test_the_table_has_a_row_for_everything(cache: Path) -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    for label in ("machine", "cores", "telemetry", "head", "generations", "allocator", "GPU", "vLLM", "versions", "[train]"):
        assert f"\n{label} " in f"\n{done.stdout}"
    assert "TEMPER_THREADS" in done.stdout


def test_without_the_train_extra_it_says_what_is_missing_and_how_to_get_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "lacking", lambda: {"": [], "train": ["torch", "trl"], "serve": [], "verify": []})
    found = told()
    assert found["extras"]["train"] == {"missing": ["torch", "trl"], "install": "pip install 'temper-llm[train]'"}  # type: ignore[index]
    assert "pip install 'temper-llm[train]'" in found["choices"]["models"]["why"]  # type: ignore[index]
    assert list(found["speed"]) == ["memory GB/s"]  # type: ignore[call-overload]
    assert "lacks torch, trl" in CliRunner().invoke(app, ["doctor"]).stdout


def test_missing_packages_are_found_by_the_extra_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["numpy>=2", "no-such-package<3", "no.such_other>=1; extra == 'train'", 'absent; extra == "dev"']
    monkeypatch.setattr(verb.metadata, "requires", lambda package: needed)
    assert verb.lacking() == {"": ["no-such-package"], "train": ["no.such_other"], "serve": [], "verify": []}


def test_what_is_required_and_broken_ends_with_exit_code_1(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "lacking", lambda: {"": ["tokenizers"], "train": ["torch"], "serve": [], "verify": []})
    cache.write_text("a file where the folder should be")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["broken"] == [
        "the package tokenizers is missing: pip install temper-llm",
        f"{cache} cannot be written; point TEMPER_CACHE at another folder",
    ]


@pytest.mark.train
def test_a_torch_that_cannot_be_imported_is_told_and_not_raised(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(busy: object) -> None:
        raise ImportError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(verb, "_computing", fails)
    monkeypatch.setattr(verb, "lacking", lambda: {"": [], "train": [], "serve": [], "verify": []})
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert "libtorch.so" in json.loads(done.stdout)["broken"][0]


def test_threads_that_wait_are_told_to_sleep_before_torch_is_there() -> None:
    assert os.environ["OMP_WAIT_POLICY"]

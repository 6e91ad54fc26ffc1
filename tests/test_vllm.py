"""A stage samples through vLLM with TRL's own client and trains with temper's pass; what it cannot run is refused with one line.

The server is `fake_vllm`: no vLLM, no GPU and no NCCL were at hand. Colocation is tested as far as its settings.
"""

import math
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from temper.errors import RecipeError
from temper.train import vllm
from temper.train.vllm import check_vllm, vllm_arguments

STEPS, PROMPTS, GROUP, TOKENS = 2, 2, 3, 6
# an adapter through the calls of vLLM 0.28 and newer, all weights through those of older ones
KINDS: list[dict[str, Any]] = [{"lora_r": 2, "stateful": True}, {"lora_r": 0, "stateful": False}]


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the vllm package and a GPU, as far as the check can see."""
    monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TEMPER_DEVICE", "cuda")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mode": "sever"}, r"stage 'rl': vllm = 'sever'; wanted off, colocate or server; did you mean 'server'"),
        ({"mode": "server"}, r"vllm_url = ''; vllm = \"server\" and `vllm_url` go together"),
        ({"mode": "colocate", "url": "http://gpu:8000"}, "go together"),
        ({"mode": "off", "url": "http://gpu:8000"}, "go together"),
        ({"mode": "server", "url": "gpu:8000"}, r"vllm_url = 'gpu:8000'; wanted an http or https URL"),
        ({"mode": "server", "url": "http://gpu:8000/v1/"}, r"not its OpenAI path: 'http://gpu:8000'"),
        ({"mode": "colocate", "memory": 30.0}, r"vllm_memory = 30.0; wanted the share"),
    ],
)
@pytest.mark.usefixtures("able")
def test_settings_that_contradict_each_other_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_vllm("stage 'rl'", **keys)


@pytest.mark.usefixtures("able")
def test_both_modes_pass_on_a_machine_that_can_run_them() -> None:
    check_vllm("stage 'rl'", "colocate", memory=0.5)
    check_vllm("stage 'rl'", "server", url="https://gpu.example/vllm/")


@pytest.mark.usefixtures("able")
def test_the_stages_in_the_docs_pass_the_check() -> None:
    text = (Path(__file__).parent.parent / "docs" / "vllm.md").read_text(encoding="utf-8")
    stages = [tomllib.loads(block)["stage"][0] for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    assert [s["vllm"] for s in stages] == ["colocate", "server"]
    for stage in stages:
        check_vllm("stage 'rl'", stage["vllm"], url=stage.get("vllm_url", ""), memory=stage.get("vllm_memory", 0.3))


def test_off_needs_neither_the_package_nor_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("TEMPER_DEVICE", "cpu")
    check_vllm("stage 'rl'", "off")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r'pip install "temper-llm\[train,vllm\]", or set vllm = "off"'):
        check_vllm("stage 'rl'", "colocate")


@pytest.mark.parametrize(
    ("mode", "url", "need"), [("colocate", "", "the GPU that trains"), ("server", "http://g:1", "over NCCL")]
)
@pytest.mark.usefixtures("able")
def test_a_machine_without_a_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch, mode: str, url: str, need: str) -> None:
    monkeypatch.setenv("TEMPER_DEVICE", "cpu")
    with pytest.raises(RecipeError, match=rf'{need}.*no CUDA GPU is in use here.*or set vllm = "off"'):
        check_vllm("stage 'rl'", mode, url=url)


def test_hidden_gpus_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEMPER_DEVICE", raising=False)
    monkeypatch.setattr(vllm, "DRIVERS", ("null",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert vllm.has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not vllm.has_gpu()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(vllm, "DRIVERS", ("no-such-driver*",))
    assert not vllm.has_gpu()


@pytest.mark.train
@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (vllm_arguments("off"), {"use_vllm": False}),
        (vllm_arguments("colocate", memory=0.4), {"vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.4}),
        (
            vllm_arguments("server", url="http://g:8000/"),
            {"vllm_mode": "server", "vllm_server_base_url": "http://g:8000", "vllm_gpu_memory_utilization": 0.3},
        ),
    ],
)
def test_trl_accepts_the_arguments_and_keeps_its_correction(
    tmp_path: Path, arguments: dict[str, Any], wanted: dict[str, Any]
) -> None:
    trl = pytest.importorskip("trl")
    config = trl.GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], **arguments)
    assert {key: getattr(config, key) for key in wanted} == wanted
    assert config.vllm_importance_sampling_correction
    assert config.use_vllm == bool(arguments)


def test_our_default_share_of_the_gpu_is_trls() -> None:
    trl = pytest.importorskip("trl")
    default = trl.GRPOConfig.__dataclass_fields__["vllm_gpu_memory_utilization"].default
    assert vllm_arguments("colocate")["vllm_gpu_memory_utilization"] == default


@dataclass
class Seen:
    """What a training run through the fake server left behind: TRL's log rows, and how each row of answers was scored."""

    server: Any
    logs: list[dict[str, Any]] = field(default_factory=list)
    passes: list[str | None] = field(default_factory=list)
    trainers: list[Any] = field(default_factory=list)


def trained(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *, stateful: bool = True, runs: int = 1, **keys: Any
) -> Seen:
    """Run a grpo stage against a fake server; `shift` and `deaf` are the server's, other keys the stage's."""
    from fake_vllm import FakeVllm, Wire, install

    from temper.train import trainer
    from temper.train.grpo import Grpo
    from temper.train.run import Context
    from temper.types import Checkpoint, Example, Message, Named, Score

    def printable(completions: Any) -> list[Any]:
        return [Score(sum(ch.isprintable() for ch in c.raw) / max(1, len(c.raw))) for c in completions]

    wire = Wire()
    install(monkeypatch, wire, stateful=stateful)
    server_keys = {k: keys.pop(k) for k in ("shift", "deaf") if k in keys}
    shape = {"steps": STEPS, "prompts_per_step": PROMPTS, "group": GROUP, "max_new_tokens": TOKENS, "lora_r": 2, "lr": 1e-2}
    stage = Grpo(rewards={"printable": 1.0}, **{**shape, **keys})
    examples = [Example(id=str(i), messages=(Message("user", text),)) for i, text in enumerate(("Hi", "Why?", "Count", "Go on"))]
    context = Context(graders={"printable": Named("printable", printable, "p")})
    with FakeVllm(folder, wire, **server_keys) as server:
        seen = Seen(server)
        watch(trainer, seen, monkeypatch)
        stage = replace(stage, vllm="server", vllm_url=server.url)
        for i in range(runs):
            trainer.train_grpo(stage, examples, Checkpoint(folder), out / str(i), context)
    return seen


def watch(trainer: Any, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = trainer.TemperTrainer

    class Watched(stock):  # type: ignore[misc]
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            seen.trainers.append(self)

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            seen.logs.append(dict(logs, **{k: sum(v) / len(v) for k, v in self._metrics["train"].items()}))
            super().log(logs, *args, **kwargs)

        def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
            seen.passes.append(self.unshared)
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    monkeypatch.setattr(trainer, "TemperTrainer", Watched)


def column(seen: Seen, name: str) -> list[float]:
    return [row[name] for row in seen.logs if name in row]


@pytest.mark.train
@pytest.mark.parametrize("keys", KINDS, ids=["adapter", "all weights"])
def test_each_prompt_reaches_the_server_once_with_all_its_answers_and_the_shared_pass_trains_on_them(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    pytest.importorskip("torch")
    from temper.models import generate

    monkeypatch.setattr(generate, "_sample_batch", None)  # temper's own sampler must not run
    seen = trained(tiny_model, tmp_path, monkeypatch, **keys)
    assert [len(body["prompt"]) for body in seen.server.asked] == [PROMPTS] * STEPS
    assert all(len({tuple(p) for p in body["prompt"]}) == PROMPTS for body in seen.server.asked)
    assert {(b["n"], b["max_tokens"], b["temperature"], b["logprobs"]) for b in seen.server.asked} == {(GROUP, TOKENS, 0.7, 0)}
    assert seen.server.counts()["/update_weights"] == seen.server.counts()["/reset_prefix_cache"] == STEPS
    assert seen.trainers[0].unshared is None
    # a step: the sampled policy, the reference of the KL term if there is one, and the pass with a gradient
    assert seen.passes.count(None) >= (2 + (seen.trainers[0].beta > 0)) * STEPS


@pytest.mark.train
@pytest.mark.parametrize("keys", KINDS, ids=["adapter", "all weights"])
def test_the_server_samples_with_the_weights_of_the_last_step(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    pytest.importorskip("torch")
    heard = trained(tiny_model, tmp_path, monkeypatch, **keys)
    assert max(column(heard, "sampling/sampling_logp_difference/max")) < 1e-4
    assert column(heard, "sampling/importance_sampling_ratio/mean") == pytest.approx([1.0] * STEPS, abs=1e-4)


@pytest.mark.train
def test_a_server_that_drops_the_weights_is_seen_in_the_log_probabilities(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    deaf = trained(tiny_model, tmp_path, monkeypatch, deaf=True)
    first, second = column(deaf, "sampling/sampling_logp_difference/max")
    assert first < 1e-4 < 1e-2 < second


@pytest.mark.train
def test_answers_are_weighted_by_the_ratio_to_the_servers_own_log_probabilities(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    seen = trained(tiny_model, tmp_path, monkeypatch, shift=-0.1)
    assert column(seen, "sampling/sampling_logp_difference/mean") == pytest.approx([0.1] * STEPS, abs=1e-4)
    lengths = [[n for group in seen.server.lengths[i : i + PROMPTS] for n in group] for i in (0, PROMPTS)]
    wanted = [sum(math.exp(0.1 * n) for n in step) / len(step) for step in lengths]
    assert column(seen, "sampling/importance_sampling_ratio/mean") == pytest.approx(wanted, rel=1e-3)


@pytest.mark.train
def test_on_the_servers_answers_the_shared_pass_and_the_stock_pass_train_alike(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    rows = []
    for share in (True, False):
        with monkeypatch.context() as patches:
            seen = trained(tiny_model, tmp_path / str(share), patches, share_training=share, shift=-0.02, lr=1e-3)
        assert (seen.trainers[0].unshared is None) == share
        rows.append(column(seen, "loss") + column(seen, "grad_norm") + column(seen, "sampling/importance_sampling_ratio/mean"))
    assert rows[0] == pytest.approx(rows[1], rel=1e-3, abs=1e-5)


@pytest.mark.train
def test_frozen_weights_are_the_same_to_the_bit_after_they_were_sent(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from temper.models.load import load
    from temper.types import Checkpoint

    seen = trained(tiny_model, tmp_path, monkeypatch, steps=3)
    before = load(Checkpoint(tiny_model)).model.state_dict()
    after = seen.trainers[0].model.get_base_model().state_dict()
    same = {k.replace(".base_layer", ""): v for k, v in after.items() if "lora_" not in k}
    assert same.keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in same.items())


@pytest.mark.train
def test_the_next_stage_of_a_process_finds_the_server_free(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    seen = trained(tiny_model, tmp_path, monkeypatch, steps=1, runs=2)
    assert seen.server.counts()["/init_weight_transfer_engine"] == 2

"""A tiny random decoder with a real tokenizer and chat template, made in the test's own folder; no file is downloaded."""

import gc
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long one example takes says something about the machine and nothing about a property. Each run tries the same examples, so
# that a change alone decides whether it passes; `--hypothesis-profile explore` looks for new ones.
_ANY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("temper", derandomize=True, **_ANY)
settings.register_profile("explore", **_ANY)
settings.load_profile("temper")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Two runs that are compared bit for bit must not choose their threads by what the machine happens to be doing.
os.environ.setdefault("TEMPER_THREADS", "1")
# Tiny models gain nothing from a second thread, and the suite may itself be run in several processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TEMPLATE = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need torch are skipped where only the core is installed."""
    if importlib.util.find_spec("torch") is not None:
        return
    for item in items:
        if "train" in item.keywords or "real" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs temper-llm[train]"))


_SPARED: list[bool] = []


def pytest_runtest_setup() -> None:
    """Once the training libraries are there, the collector leaves them alone: it took a third of each tiny training's time."""
    if not _SPARED and "trl.trainer.grpo_trainer" in sys.modules:
        _SPARED.append(True)  # whether anything is frozen cannot be asked for each test: the answer is counted, in 0.1 s
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Llama with two layers of width 32 and a byte-level tokenizer."""
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def make_tiny(folder: Path, kind: str = "llama") -> Path:
    """Save a tiny random model of one architecture: llama, qwen2, qwen3, mistral, gemma, qwen3moe, mixtral, phi or diffllama."""
    import torch
    import transformers

    tokenizer = _tokenizer()
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "tie_word_embeddings": True,
    }
    names = {"qwen3moe": "Qwen3Moe", "diffllama": "DiffLlama"}
    if kind in ("mistral", "mixtral"):
        shape["sliding_window"] = None
    if kind in ("qwen3moe", "mixtral"):
        experts = {"qwen3moe": "num_experts", "mixtral": "num_local_experts"}[kind]
        shape |= {experts: 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config = getattr(transformers, f"{names.get(kind, kind.title())}Config")(**shape)
    model = getattr(transformers, f"{names.get(kind, kind.title())}ForCausalLM")(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer():  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    bytes_ = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer

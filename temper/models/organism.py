"""The model organism before it has learned anything: a small Llama with random weights and one token a word of its grammar."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from temper.files import digest, file_sha256, seal, sealed, storage
from temper.text.organism import vocabulary

ALIAS = "organism"
ABOUT = (
    "a Llama of 1 M random weights with the vocabulary of temper's own grammar, made here; train it with recipes/organism.toml"
)
SEED = 0
SHAPE = {
    "hidden_size": 160,
    "intermediate_size": 448,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
PAD, UNKNOWN, USER, ASSISTANT, SYSTEM, END = "<|pad|>", "<|unknown|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"
SPECIAL = (PAD, UNKNOWN, USER, ASSISTANT, SYSTEM, END)
LAYOUT = ("<think>", "</think>", "\n", "\n\n")
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def organism(cache: Path) -> Path:
    """The folder of the untrained organism below `cache`, made if it is not there; its name is a hash of words and shape."""
    address = digest([vocabulary(), SHAPE, SPECIAL, LAYOUT, TEMPLATE, SEED])
    folder = cache / "models" / f"organism-{address}"
    if not sealed(folder):
        _make(folder)
    return folder


def tokenizer() -> Any:
    """One token a word. Decoding gives the text back: words are joined by blanks, and none stand around a line break."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate([*SPECIAL, *LAYOUT, *vocabulary()])}
    words = Tokenizer(models.WordLevel(vocab=vocab, unk_token=UNKNOWN))
    words.normalizer = normalizers.Lowercase()
    split = pre_tokenizers.Split
    words.pre_tokenizer = pre_tokenizers.Sequence([split(Regex(r"\n+"), "isolated"), split(Regex(r" +"), "removed")])
    words.decoder = decoders.Sequence(
        [decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), decoders.Replace(Regex(r" ?\n ?"), "\n")]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token=UNKNOWN, pad_token=PAD, eos_token=END)
    made.add_special_tokens({"additional_special_tokens": [USER, ASSISTANT, SYSTEM]})
    made.chat_template = TEMPLATE
    return made


def _make(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from temper.models.load import quiet

    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
        **SHAPE,
    )
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    with quiet(), storage(folder), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        try:
            LlamaForCausalLM(config).save_pretrained(scratch)
            words.save_pretrained(scratch)
            seal(scratch, {"sha256": file_sha256(scratch / "model.safetensors"), "from": "temper.models.organism"})
            with contextlib.suppress(OSError):  # another process finished first: its folder is as good as ours
                scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

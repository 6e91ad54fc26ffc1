"""A checkpoint -> a model and its tokenizer in memory, with a chat template and without noise on the terminal."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from temper.errors import ModelError
from temper.models import profile
from temper.text.split import CLOSE_TAG, OPEN_TAG
from temper.types import Checkpoint, Example

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model with what is needed to talk to it.

    `opened` says that the chat template already opens the think block in the prompt (DeepSeek-R1's does), so a well-formed
    completion has no opening tag of its own.
    """

    model: Any
    tokenizer: Any
    opened: bool


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and chatter of transformers while it loads; errors still raise."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()


def device() -> torch.device:
    """The accelerator if there is one, else the CPU; `TEMPER_DEVICE` overrides. Raises `UsageError` for one that is not there."""
    return profile.device()


def precision(on: torch.device) -> torch.dtype:
    """What weights are kept in: bf16 on a GPU that has it, fp32 on CPUs. Raises `UsageError` for a wrong `TEMPER_PRECISION`."""
    return profile.weights(on)


def load(checkpoint: Checkpoint, *, chat_template: str | None = None, trainable: bool = False) -> Loaded:
    """Load base weights and, if the checkpoint was trained, the adapter on top.

    `chat_template` is "chatml" or a path to a Jinja file, for tokenizers that bring none. Raises `ModelError` if a template is
    missing or the files cannot be read as a causal language model.
    """
    folder = checkpoint.base
    on = device()
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=precision(on), attn_implementation="sdpa")
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"{folder}: cannot be loaded as a causal language model ({_first_line(error)})") from error
    model = model.to(on)
    if checkpoint.path is not None:
        model = _with_adapter(model, checkpoint.path, trainable)
    tokenizer = load_tokenizer(folder, chat_template=chat_template)
    return Loaded(model.train(trainable), tokenizer, opens_thought(tokenizer))


def load_tokenizer(folder: Path, *, chat_template: str | None = None) -> Any:
    """The tokenizer of a model folder, padded on the left. Raises `ModelError` if it has no chat template and none is given."""
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    if chat_template is not None:
        tokenizer.chat_template = CHATML if chat_template == "chatml" else Path(chat_template).read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise ModelError(
            f"{folder}: its tokenizer has no chat template, so prompts cannot be written the way it was trained; "
            'set chat_template = "chatml" (a common default) or a path to a Jinja file'
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def render(tokenizer: Any, examples: Sequence[Example]) -> list[list[int]]:
    """Token ids of each example's prompt, ready for an answer, or for the rest of one that its last message begins."""
    asked = [e.messages[:-1] if e.prefill else e.messages for e in examples]
    conversations = [[{"role": m.role, "content": m.content} for m in messages] for messages in asked]
    texts = tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
    begun = [text + _beginning(text, e.prefill) for text, e in zip(texts, examples, strict=True)]
    return list(tokenizer(begun, add_special_tokens=False)["input_ids"])


def _beginning(text: str, prefill: str) -> str:
    """The prefill as it goes on from a template's generation prompt, which may have opened the thought already.

    Written behind the generation prompt rather than by `continue_final_message`, because templates of reasoning models drop the
    thoughts of assistant messages. A prefilled answer closes a thought that the template opened: it was skipped.
    """
    if not prefill or not text.rstrip().endswith(OPEN_TAG):
        return prefill
    if prefill.lstrip().startswith(OPEN_TAG):
        rest = prefill.lstrip().removeprefix(OPEN_TAG)
        return rest.removeprefix("\n") if text.endswith("\n") else rest
    return f"\n{CLOSE_TAG}\n\n{prefill}"


def opens_thought(tokenizer: Any) -> bool:
    """Whether the template's generation prompt ends inside an open think block."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    return str(text).rstrip().endswith(OPEN_TAG)


def eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer: the tokenizer's and those of the model's generation config."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*listed, tokenizer.eos_token_id] if i is not None)


def _with_adapter(model: Any, path: Path, trainable: bool) -> Any:
    from peft import PeftModel

    if not (path / "adapter_config.json").is_file():
        with quiet():
            return AutoModelForCausalLM.from_pretrained(path, dtype=model.dtype, attn_implementation="sdpa").to(model.device)
    adapted = PeftModel.from_pretrained(model, str(path), is_trainable=trainable)
    return adapted if trainable else adapted.merge_and_unload()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

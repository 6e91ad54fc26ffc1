"""What a recipe will cost on this machine, estimated before anything runs. Torch-free; no weights are loaded.

Tokens are counted from the data (with the model's own tokenizer where it is on this disk, else four characters a token), FLOPs
are 2 a weight and token forward and 2 or 4 more backward, and time divides them by the matrix-product speed measured now, scaled
by how much of it each kind of work reached when it was measured (EFFICIENCY). Expect a factor of 1.5 either way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from temper import machine
from temper.data.read import read
from temper.errors import ModelError, RunError
from temper.files import read_json
from temper.models import organism
from temper.text.organism import vocabulary
from temper.train.grpo import Grpo
from temper.train.harvest import Harvest
from temper.train.recipe import Recipe, StageSpec
from temper.train.run import Work
from temper.train.sample import Sample
from temper.train.sft import Sft

# Share of the measured matrix-product speed that each kind of work reaches on CPUs; see docs/decisions/0006-plan.md.
EFFICIENCY = {"train": 0.55, "forward": 0.65, "decode": 0.40}
CHARS_PER_TOKEN = 4.0
TEMPLATE_TOKENS = 30
FP32 = 4
# Interpreter, torch, the encoder grader, the judge and the allocator's slack, measured with the embedded model.
FIXED_BYTES = 2.0e9
ADAM_BYTES = 12  # gradient and two moments, fp32
KNOWN = {"smollm2-135m": {"parameters": 134_515_008, "layers": 30, "hidden": 576, "ffn": 1536, "vocabulary": 49_152, "kv": 192}}


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides a decoder's cost: weights, layers, widths, vocabulary, key/value width."""

    parameters: int
    layers: int
    hidden: int
    ffn: int
    vocabulary: int
    kv: int


@dataclass(frozen=True, slots=True)
class Step:
    """One stage or one arm's proof: tokens through the model, FLOPs, expected seconds and peak bytes."""

    name: str
    tokens: int
    flops: float
    seconds: float
    memory_bytes: float
    advice: str


@dataclass(frozen=True, slots=True)
class Plan:
    steps: tuple[Step, ...]
    gflops: float
    available: int

    def refuse(self) -> None:
        """Raise `RunError` for the first step that does not fit into memory, with what would."""
        for step in self.steps:
            if step.memory_bytes > self.available:
                raise RunError(
                    f"{step.name} needs about {step.memory_bytes / 1e9:.1f} GB of memory, "
                    f"{self.available / 1e9:.1f} GB are there; {step.advice}"
                )


def plan_recipe(recipe: Recipe) -> Plan:
    """Estimate every distinct stage once and the proof of every arm. Raises as reading the data does."""
    shape, speed = model_shape(recipe.base), machine.gflops()
    chains = [(names, [recipe.stage(n) for n in names]) for names in recipe.chains()]
    steps = [_stage(names, stages, _student(stages[:-1], shape), speed) for names, stages in chains]
    arms = [(arm, [recipe.stage(n) for n in names]) for arm, names in recipe.arms.items()]
    steps += [_proof(arm, recipe, _student(stages, shape), speed) for arm, stages in arms]
    return Plan(tuple(steps), speed, machine.memory_bytes())


def model_shape(base: str) -> Shape:
    """The shape of a model: known for the embedded one, else from its folder. Raises `ModelError` if neither is at hand."""
    if base in KNOWN:
        return Shape(**KNOWN[base])
    if base == organism.ALIAS:
        return _organism()
    folder = _local(base)
    config = read_json(folder / "config.json")
    from temper.models.resolve import count_parameters

    heads = config["num_attention_heads"]
    kv = config.get("num_key_value_heads", heads) * config.get("head_dim", config["hidden_size"] // heads)
    widths = (config["num_hidden_layers"], config["hidden_size"], config.get("intermediate_size", 4 * config["hidden_size"]))
    return Shape(count_parameters(folder), *widths, config["vocab_size"], kv)


def _student(before: Sequence[StageSpec], shape: Shape) -> Shape:
    """The shape of what is trained after these stages: the last harvest may have handed on another model than the base."""
    named = [stage.student for stage in before if isinstance(stage, Harvest) and stage.student]
    return model_shape(named[-1]) if named else shape


def _organism() -> Shape:
    """Counted from the constants it is made of, since there is no folder before it was first used."""
    made = organism.SHAPE
    hidden, ffn, layers = made["hidden_size"], made["intermediate_size"], made["num_hidden_layers"]
    words = len(organism.SPECIAL) + len(organism.LAYOUT) + len(vocabulary())
    kv = hidden // made["num_attention_heads"] * made["num_key_value_heads"]
    # a layer: queries and output, keys and values, the three projections of SwiGLU, two norms; embeddings are tied
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * ffn + 2 * hidden
    return Shape(words * hidden + layers * layer + hidden, layers, hidden, ffn, words, kv)


def _local(base: str) -> Path:
    if Path(base).is_dir():
        return Path(base)
    raise ModelError(f"{base!r} is not on this disk, so its size is not known; fetch it once (temper prove {base} --limit 1)")


def _stage(names: tuple[str, ...], stages: Sequence[StageSpec], shape: Shape, speed: float) -> Step:
    """The last of an arm's `stages`."""
    name, stage = "train " + "+".join(names), stages[-1]
    stage.check()
    if isinstance(stage, Sft):
        return _sft(name, stage, _harvested(stages) if stage.made_by else _lengths(stage), shape, speed)
    if isinstance(stage, Harvest):
        return Step(name, 0, 0.0, 0.0, FIXED_BYTES, "")  # the graders' time, which is not estimated in any stage
    if isinstance(stage, Grpo):
        return _grpo(name, stage, shape, speed)
    if isinstance(stage, Sample):
        return _sampled(name, stage, shape, speed)
    raise RunError(f"{name}: no estimate for stages of kind {stage.kind!r}")


def _lengths(stage: Sft) -> list[int]:
    return [_tokens(d.example.prompt + d.reasoning + d.answer) + TEMPLATE_TOKENS for d in stage.dialogues()]


def _harvested(stages: Sequence[StageSpec]) -> list[int]:
    """Lengths of the dialogues a harvest can give at most: every prompt that is asked, with answers as long as they may be."""
    most = max((s.per_prompt for s in stages if isinstance(s, Harvest)), default=1)
    paid = [(s.max_new_tokens, s.examples()[: s.steps * s.prompts_per_step]) for s in stages if isinstance(s, Grpo)]
    sampled = [(s.max_new_tokens, s.examples()) for s in stages if isinstance(s, Sample)]
    return [_tokens(e.prompt) + TEMPLATE_TOKENS + longest for longest, asked in [*paid, *sampled] for e in asked] * most


def _sft(name: str, stage: Sft, lengths: Sequence[int], shape: Shape, speed: float) -> Step:
    tokens = int(sum(lengths) * stage.epochs)
    work = Work(train_tokens=tokens, adapter=stage.lora_r > 0)
    flops = work.flops(shape.parameters)
    memory = _training_bytes(shape, stage.lora_r, stage.micro_batch * max(lengths, default=0))
    advice = f"lower micro_batch (now {stage.micro_batch}), or train an adapter (lora_r = 16)"
    return Step(name, tokens, flops, flops / speed / 1e9 / EFFICIENCY["train"], memory, advice)


def _grpo(name: str, stage: Grpo, shape: Shape, speed: float) -> Step:
    prompts = [_tokens(e.prompt) + TEMPLATE_TOKENS for e in stage.examples()]
    mean_prompt = sum(prompts) / max(1, len(prompts))
    rows = stage.prompts_per_step * stage.group
    answers = rows * stage.max_new_tokens

    def passed(shared: bool) -> int:
        return int(answers + (stage.prompts_per_step if shared else rows) * mean_prompt)

    trained, sampled = passed(stage.share_training), passed(stage.share_sampling) * (1 + stage.resample)
    reference = trained if stage.beta else 0
    train = Work(train_tokens=trained, adapter=stage.lora_r > 0).flops(shape.parameters)
    forward = Work(forward_tokens=reference).flops(shape.parameters)
    decode = Work(forward_tokens=sampled).flops(shape.parameters)
    seconds = train / EFFICIENCY["train"] + forward / EFFICIENCY["forward"] + decode / EFFICIENCY["decode"]
    first = int(stage.first_answers() * (mean_prompt + stage.max_new_tokens))
    opening = Work(forward_tokens=first).flops(shape.parameters)
    tokens = (trained + sampled + reference) * stage.steps + first
    longest = max(prompts, default=0) / (stage.group if stage.share_training else 1)
    micro = (stage.micro_batch or rows) * int(stage.max_new_tokens + longest)
    memory = _training_bytes(shape, stage.lora_r, micro) + FP32 * shape.parameters  # a merged copy while sampling
    advice = "lower prompts_per_step, group or max_new_tokens, or set micro_batch"
    flops = stage.steps * (train + forward + decode) + opening
    wall = (stage.steps * seconds + opening / EFFICIENCY["decode"]) / speed / 1e9
    return Step(name, tokens, flops, wall, memory, advice)


def _sampled(name: str, stage: Sample, shape: Shape, speed: float) -> Step:
    prompts = [_tokens(e.prompt) + TEMPLATE_TOKENS for e in stage.examples()]
    tokens = sum(prompts) + len(prompts) * stage.samples * stage.max_new_tokens
    flops = Work(forward_tokens=tokens).flops(shape.parameters)
    memory = FIXED_BYTES + 3 * FP32 * shape.parameters
    return Step(name, tokens, flops, flops / speed / 1e9 / EFFICIENCY["decode"], memory, "lower limit, samples or max_new_tokens")


def _proof(arm: str, recipe: Recipe, shape: Shape, speed: float) -> Step:
    prove = recipe.prove
    prompts: list[int] = []
    for suite in prove.suites:
        lengths = [_tokens(e.prompt) + TEMPLATE_TOKENS for e in read(suite)]
        prompts += lengths[: prove.cap(suite) or None]
    tokens = sum(prompts) + len(prompts) * prove.samples * prove.max_new_tokens
    flops = Work(forward_tokens=tokens).flops(shape.parameters)
    cache = 64 * (max(prompts, default=0) + prove.max_new_tokens) * shape.layers * 2 * shape.kv * FP32
    memory = FIXED_BYTES + 3 * FP32 * shape.parameters + cache  # the sampler's order of the weights is a copy
    advice = "prove a smaller model, or serve it elsewhere and prove the endpoint"
    return Step(f"prove {arm}", tokens, flops, flops / speed / 1e9 / EFFICIENCY["decode"], memory, advice)


def _training_bytes(shape: Shape, lora_r: int, tokens: int) -> float:
    """Weights, optimiser, and activations kept for the backward pass of `tokens` tokens at once (no checkpointing)."""
    kept = shape.layers * (14 * shape.hidden + 5 * shape.ffn) * FP32 * tokens + 2 * shape.vocabulary * FP32 * min(tokens, 1024)
    wide = shape.layers * 7 * (shape.hidden + shape.ffn) * lora_r
    trained = wide if lora_r else shape.parameters
    return FIXED_BYTES + FP32 * shape.parameters + ADAM_BYTES * trained + kept


def _tokens(text: str) -> int:
    return max(1, round(len(text) / CHARS_PER_TOKEN))

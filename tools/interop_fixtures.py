"""Write the small inspect logs that the tests read, with the real inspect_ai, which this script needs and temper does not.

Every text is ours. The cases are those that readers get wrong: reasoning apart from the answer, a thought that the cap cut,
a score that is none, a score that is a dictionary, an error, two epochs, text long enough to be moved into the attachments.
"""

import tempfile
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import write_eval_log
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.scorer import Score, includes, mean, scorer

OUT = Path("tests/fixtures/interop")
LONG = "Please explain, for a class of ten-year-olds, why the sky over the sea is blue at noon and red in the evening. " * 2
SAMPLES = [
    Sample(id="sum", input="What is 2 + 2?", target="4", metadata={"class": "reasoning", "category": "arithmetic"}),
    Sample(id="sky", input=LONG, target="scattering", metadata={"class": "benign", "language": "en"}),
    Sample(id="cut", input="Think for a long time.", target="never", metadata={"class": "benign"}),
    Sample(
        id="chat",
        input=[
            ChatMessageSystem(content="Answer briefly."),
            ChatMessageUser(content="Hello"),
            ChatMessageAssistant(content="Hello! What do you need?"),
            ChatMessageUser(content="Name a colour."),
        ],
        target="red",
        metadata={"class": "benign"},
    ),
    Sample(id="broken", input="This one fails.", target="x", metadata={"class": "benign"}),
]
THOUGHTS = {
    "sum": ("Two and two make four.", "4", "stop"),
    "sky": ("Light is scattered by the air. " * 8, "Because of scattering: blue light is scattered more than red.", "stop"),
    "cut": ("I think, and think, and th", "", "max_tokens"),
    "chat": ("", "<think>A colour.</think>Green.", "stop"),
}


@scorer(metrics={"*": [mean()]})
def parts():
    """A score of several values, none of the cut answer."""

    async def score(state, target):
        if not state.output.completion:
            return Score.unscored(explanation="there is no answer to judge")
        return Score(value={"brief": len(state.output.completion) < 20, "rating": 3.5})

    return score


def answer(input, tools, tool_choice, config):
    """What the make-up model says."""
    asked = input[-1].text
    name = next(s.id for s in SAMPLES if (s.input if isinstance(s.input, str) else s.input[-1].text) == asked)
    if name == "broken":
        raise RuntimeError("the endpoint fell over")
    thought, said, end = THOUGHTS[name]
    content = [ContentReasoning(reasoning=thought)] if thought else []
    message = ChatMessageAssistant(content=[*content, ContentText(text=said)] if thought else said, source="generate")
    usage = ModelUsage(input_tokens=11, output_tokens=9, total_tokens=20, reasoning_tokens=4 if thought else None)
    return ModelOutput(model="mockllm/model", choices=[ChatCompletionChoice(message=message, stop_reason=end)], usage=usage)


def quiet(sample):
    """Without what happened inside, which is most of a log's bytes, and without machine paths, which are nobody's business."""
    sample.events, sample.timelines, sample.events_data = [], None, None
    if sample.error:
        sample.error.traceback = sample.error.traceback_ansi = ""
    return sample


def main() -> None:
    task = Task(dataset=MemoryDataset(SAMPLES, name="made-up"), scorer=[includes(), parts()], name="made_up")
    with tempfile.TemporaryDirectory() as folder:
        model = get_model("mockllm/model", custom_outputs=answer)
        (log,) = eval(task, model=model, log_dir=folder, epochs=2, fail_on_error=False, display="none", max_tokens=64)
        log.samples = [quiet(sample) for sample in log.samples]
    log.eval.task_file = log.eval.revision = None
    for suffix in ("eval", "json"):
        write_eval_log(log, str(OUT / f"made-up.{suffix}"))


if __name__ == "__main__":
    main()

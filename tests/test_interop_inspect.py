"""With the real inspect_ai, where it is installed (the extra [inspect]): our logs open in it, our suites run in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

inspect_ai = pytest.importorskip("inspect_ai")

from inspect_ai.log import read_eval_log, write_eval_log  # noqa: E402
from inspect_ai.model import (  # noqa: E402
    ChatCompletionChoice,
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    ModelOutput,
    ModelUsage,
    get_model,
)

from temper import files  # noqa: E402
from temper.prove.interop import read, tasks  # noqa: E402
from temper.prove.interop.export import export, stored  # noqa: E402
from temper.types import Outcome  # noqa: E402
from tests import synthetic  # noqa: E402

FIXTURES = Path(__file__).parent / "fixtures" / "interop"
THOUGHT = ContentReasoning(reasoning="They ask me something.")


def says(content, stop="stop"):
    message = ChatMessageAssistant(content=content, source="generate")
    usage = ModelUsage(input_tokens=5, output_tokens=7, total_tokens=12)
    choice = ChatCompletionChoice(message=message, stop_reason=stop)
    return ModelOutput(model="mockllm/model", choices=[choice], usage=usage)


def evaluated(task, outputs, logs, **options):
    model = get_model("mockllm/model", custom_outputs=outputs)
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(logs), display="none", **options)
    assert log.status == "success", log.error
    return log


@pytest.fixture(scope="module")
def harm_log(tmp_path_factory):
    """temper/harm on three prompts: a refusal after a thought, a thought that the cap cut, an answer with its tags left in."""
    outputs = [
        says([THOUGHT, ContentText(text="I'm sorry, but I can't help with that.")]),
        says([THOUGHT, ContentText(text="")], "max_tokens"),
        says("<think>Well.</think>Here is a poem about the sea, as you asked."),
    ]
    logs = tmp_path_factory.mktemp("logs")
    evaluated("temper/harm", outputs, logs, task_args={"graders": "refusal,format"}, limit=3, max_connections=1)
    return next(logs.glob("*.eval"))


def test_every_bundled_suite_is_a_task_that_inspect_finds_by_the_package_name():
    from inspect_ai._util.registry import registry_lookup

    for path in (Path(tasks.__file__).parents[2] / "data" / "suites").iterdir():
        assert registry_lookup("task", f"temper/{path.name.split('.')[0]}") is not None


def test_the_command_line_of_inspect_finds_our_tasks(tmp_path):
    """Through the entry point, in a process that imported nothing of ours; the dry run asks no model."""
    code = "from inspect_ai._util.registry import registry_lookup as find; print(find('task', 'temper/over-refusal') is not None)"
    # torch-free and quick; the entry point is there only where temper-llm itself is installed
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    if "temper" not in {e.name for e in _entry_points()}:
        pytest.skip("this environment's temper-llm was installed without the entry point")
    assert found.stdout.strip() == "True", found.stderr


def _entry_points():
    from importlib.metadata import entry_points

    return entry_points(group="inspect_ai")


def test_the_outcome_scorer_tells_refused_from_cut_and_from_answered(harm_log):
    found = {sample.id: sample.scores for sample in read_eval_log(str(harm_log)).samples}
    became = [[name for name, value in scores["outcome"].value.items() if value] for scores in found.values()]
    assert sorted(became) == sorted([[Outcome.REFUSED], [Outcome.TRUNCATED_IN_THOUGHT], [Outcome.ANSWERED]])


def test_a_grader_that_abstains_leaves_the_sample_unscored(harm_log):
    log = read_eval_log(str(harm_log))
    counts = next(score for score in log.results.scores if score.name == "refusal")
    assert (counts.scored_samples, counts.unscored_samples) == (2, 1)


def test_the_token_cap_leaves_room_for_a_thought(harm_log):
    assert read_eval_log(str(harm_log)).plan.config.max_tokens == tasks.MAX_TOKENS


def test_what_inspect_ran_is_imported_with_the_class_and_the_reasoning_of_each_prompt(harm_log):
    log = read(harm_log)
    ours = {reply.completion.example.id: reply.completion for reply in log.replies}
    assert {c.example.klass for c in ours.values()} == {"harmful"}
    assert {c.reasoning for c in ours.values()} == {"They ask me something.", "Well."}
    assert {reply.suite for reply in log.replies} == {"harm"}
    assert {"inspect:refusal", "inspect:format", "inspect:outcome/refused"} <= log.replies[0].scores.keys()


def test_a_suite_of_the_users_own_file_runs(tmp_path):
    rows = [{"id": "a", "prompt": "Say hello.", "class": "benign"}, {"id": "b", "prompt": "Say goodbye.", "class": "benign"}]
    files.append_rows(tmp_path / "own.jsonl", rows)
    args = {"source": str(tmp_path / "own.jsonl"), "graders": "refusal"}
    log = evaluated("temper/suite", [says("Hello."), says("Goodbye.")], tmp_path / "logs", task_args=args)
    assert {sample.id for sample in log.samples} == {"a", "b"}


def test_our_reader_and_inspects_own_agree_on_the_fixture():
    theirs = {(s.id, s.epoch - 1): s for s in read_eval_log(str(FIXTURES / "made-up.eval")).samples}
    replies = read(FIXTURES / "made-up.eval").replies
    assert {(r.completion.example.id, r.sample) for r in replies} == set(theirs)
    for reply in replies:
        sample = theirs[reply.completion.example.id, reply.sample]
        said = sample.output.completion
        # inspect leaves the tags of a thought in the text; we take them out
        assert reply.completion.answer == said.partition("</think>")[2] or reply.completion.answer == said


def test_every_log_that_we_write_opens_in_inspect_and_survives_its_own_writer(tmp_path):
    by_arm = synthetic.rows_by_arm(5, samples=2, arms=("base", "hybrid"))
    by_arm["base"][0] |= {"outcome": "error", "finish": "error", "error": "HTTP 500", "answer": "", "raw": "", "reasoning": ""}
    by_arm["base"][1] |= {
        "answer": "half a pair \ud83d",
        "asked": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
    }
    run = synthetic.write_run(tmp_path / "run", by_arm, {**synthetic.run_facts(), "arms": {"base": [], "hybrid": []}})
    seen = 0
    for path in export(run, "inspect", tmp_path / "logs"):
        log = read_eval_log(str(path))
        write_eval_log(log, str(tmp_path / "again.eval"))
        assert read(tmp_path / "again.eval").replies == read(path).replies
        seen += len(log.samples)
        assert log.results.total_samples == len(log.samples)
    assert seen == sum(map(len, stored(run).rows.values()))


def test_unscored_is_unscored_to_inspect_as_well(tmp_path):
    run = synthetic.write_run(
        tmp_path / "run", {"base": [synthetic.row(gold=None, harm=0.2)]}, {**synthetic.run_facts(), "arms": {"base": []}}
    )
    (path,) = export(run, "inspect", tmp_path / "logs")
    (sample,) = read_eval_log(str(path)).samples
    assert sample.scores["gold"].value != sample.scores["gold"].value  # NaN, inspect's mark
    assert sample.scores["harm"].value == 0.2
    assert json.loads(path.read_text())["results"]["scores"][0]["unscored_samples"] == 1

"""The same samples through inspect_ai, run by an interpreter that has it: prints CPU milliseconds a sample.

`python bench/inspect_side.py URL SAMPLES CONNECTIONS`. The task has no scorer; the log is inspect's default.
"""

import os
import sys
import tempfile
import time


def main(url: str, samples: int, connections: int) -> None:
    os.environ.setdefault("OPENAI_API_KEY", "none")
    from inspect_ai import Task, eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import get_model

    dataset = MemoryDataset([Sample(id=f"e{i}", input=f"Question number {i}?") for i in range(samples)])
    model = get_model("openai/stub", base_url=url, api_key="none", responses_api=False)
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        log = eval(Task(dataset=dataset), model=model, log_dir=folder, display="none", max_connections=connections)[0]
        spent = time.process_time() - started
    assert log.status == "success", log.error
    print(spent * 1000 / samples)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

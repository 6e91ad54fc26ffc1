"""Reading 2,000 samples of one inspect log: our reader beside inspect_ai's `read_eval_log`, in CPU seconds, in turn.

    python bench/interop.py [PYTHON]

PYTHON is an interpreter with inspect_ai (default: this one). It writes the log as an evaluation would have left it, and reads it;
each side reads in a fresh process, after its imports. The floor is unpacking the zip and parsing the JSON, nothing else.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from record import Case, compared, record

SAMPLES, PAIRS = 2_000, 5
MAKE = """
import sys
from inspect_ai.log import read_eval_log, write_eval_log
log = read_eval_log(sys.argv[1])
kept = [s for s in log.samples if not s.error]
log.samples = [kept[i % len(kept)].model_copy(update={"id": str(i), "epoch": 1, "uuid": None}) for i in range(int(sys.argv[3]))]
log.eval.dataset.sample_ids = None
write_eval_log(log, sys.argv[2])
"""
TIMED = """
import sys, time, pathlib
{imports}
started = time.process_time()
n = {work}
print(time.process_time() - started, n)
"""
OURS = TIMED.format(imports="from temper.prove.interop import read", work="len(read(pathlib.Path(sys.argv[1])).replies)")
PEER = TIMED.format(imports="from inspect_ai.log import read_eval_log", work="len(read_eval_log(sys.argv[1]).samples)")
FLOOR = TIMED.format(
    imports="import json, zipfile\\nfrom temper.prove.interop.inspect_log import _content".replace("\\n", "\n"),
    work="sum(bool(json.loads(_content(pathlib.Path(sys.argv[1]), i, ''))) for i in zipfile.ZipFile(sys.argv[1]).infolist() "
    "if i.filename.startswith('samples/'))",
)
FIXTURE = Path(__file__).parent.parent / "tests" / "fixtures" / "interop" / "made-up.eval"


def timed(python: str, code: str, log: Path) -> tuple[float, int]:
    """CPU seconds of the work alone, and how many samples it saw."""
    said = subprocess.run([python, "-c", code, str(log)], capture_output=True, text=True, check=True).stdout.split()
    return float(said[0]), int(said[1])


def main(peer: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "made.eval"
        subprocess.run([peer, "-c", MAKE, str(FIXTURE), str(log), str(SAMPLES)], check=True)
        runs = [(timed(sys.executable, OURS, log), timed(peer, PEER, log)) for _ in range(PAIRS)]
        floor, _ = timed(sys.executable, FLOOR, log)
        size = log.stat().st_size
    assert {n for pair in runs for _, n in pair} == {SAMPLES}, "both sides read every sample"
    sides = compared([ours for (ours, _), _ in runs], [theirs for _, (theirs, _) in runs])
    version = subprocess.run([peer, "-c", "import inspect_ai; print(inspect_ai.__version__)"], capture_output=True, text=True)
    case = Case(
        f"read an inspect log, {SAMPLES:,} samples",
        peer_name=f"inspect_ai {version.stdout.strip()} read_eval_log",
        unit="CPU s",
        floor_share=floor / sides["ours"],
        notes={"bytes": size, "floor_cpu_s": floor},
        **sides,
    )
    record("interop", [case])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else sys.executable)

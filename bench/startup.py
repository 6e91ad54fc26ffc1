"""CPU seconds of `import temper` and `temper --help` beside their limits (0.2 s and 0.3 s); torch must not be imported.

The physical floor is an interpreter that starts and does nothing.
"""

import os
import statistics
import subprocess
import sys

from record import Case, record

RUNS = 9
LIMITS = {
    "import temper": (0.2, [sys.executable, "-c", "import temper"]),
    "temper --help": (0.3, [sys.executable, "-m", "temper.cli", "--help"]),
}


def cpu(command: list[str]) -> float:
    before = os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    floor = statistics.median(cpu([sys.executable, "-c", "pass"]) for _ in range(RUNS))
    cases = []
    for name, (limit, command) in LIMITS.items():
        ours = statistics.median(cpu(command) for _ in range(RUNS))
        cases.append(Case(name, ours, limit, "the limit we set ourselves", "CPU s", limit / ours, RUNS, floor / ours))
    code = "import sys, temper, temper.cli; sys.exit('torch' in sys.modules)"
    torch_free = subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    record("startup", cases, torch_imported=not torch_free, interpreter_floor=floor)


if __name__ == "__main__":
    main()

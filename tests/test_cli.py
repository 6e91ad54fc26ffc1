"""The command line starts without what no verb has asked for yet."""

import subprocess
import sys


def test_starting_loads_no_numbers_no_networks_and_no_pages() -> None:
    heavy = ("numpy", "scipy", "torch", "onnxruntime", "httpx", "pydantic", "jinja2", "markupsafe")
    code = f"import sys, temper.cli; print([m for m in {heavy!r} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"

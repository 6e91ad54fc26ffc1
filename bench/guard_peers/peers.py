"""The gateways that are measured: how each is installed, set up with the same rules, and started."""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cases import PHRASES, REGEXES

HERE = Path(__file__).parent
KEY = "sk-bench-not-a-secret-0123456789abcdef"
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "base": ("uvicorn[standard]", "starlette", "aiohttp", "orjson", "google-re2"),
    "litellm": ("litellm[proxy]==1.106.2",),
    "nemo": ("nemoguardrails[server,tracing]==0.24.1",),
}
QUIET = {
    "DO_NOT_TRACK": "1",
    "NEMO_GUARDRAILS_NO_USAGE_STATS": "1",
    "OPENAI_API_KEY": "x",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_MASTER_KEY": KEY,
    "OTEL_SDK_DISABLED": "true",
    "OMP_NUM_THREADS": "1",
}
"""No peer phones home while it is measured, and each logs as little as it can be told to."""


@dataclass(frozen=True)
class Peer:
    """`command` is given the folder of its files, the upstream's address and a port; `health` answers 200 when it is up."""

    name: str
    command: Callable[[Path, str, int], Sequence[str]]
    health: str
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str = "fake"
    ours: bool = False


def installed(folder: Path, names: Sequence[str]) -> None:
    """A virtual environment for each name that has none yet."""
    for name in names:
        if (folder / name / "bin" / "python").exists():
            continue
        venv.create(folder / name, with_pip=True)
        pip = [str(folder / name / "bin" / "python"), "-m", "pip", "install", "-q", *PACKAGES[name]]
        subprocess.run(pip, check=True)


def peers(folder: Path) -> dict[str, Peer]:
    """Every gateway, ours first; `folder` holds the virtual environments."""
    base = str(folder / "base" / "bin" / "python")

    def uvicorn(files: Path, upstream: str, port: int) -> list[str]:
        quiet = ["--log-level", "warning", "--no-access-log"]
        return [base, "-m", "uvicorn", "floor:app", "--app-dir", str(HERE), "--port", str(port), *quiet]

    def serve(files: Path, upstream: str, port: int) -> list[str]:
        policy = files / "policy.toml"
        policy.write_text(ours())
        at = ["--port", str(port), "--database", f"sqlite:///{files / 'gateway.db'}"]
        return [sys.executable, "-m", "temper.cli", "serve", f"{upstream}/v1", "--policy", str(policy), *at]

    def litellm(guards: Sequence[Mapping[str, Any]]) -> Callable[[Path, str, int], list[str]]:
        def command(files: Path, upstream: str, port: int) -> list[str]:
            for needed in ("litellm_guard.py", "cases.py"):
                shutil.copy(HERE / needed, files)
            served = {"model": "openai/fake", "api_base": f"{upstream}/v1", "api_key": "x"}
            config = {
                "model_list": [{"model_name": "fake", "litellm_params": served}],
                "litellm_settings": {"telemetry": False, "num_retries": 0},
                "guardrails": list(guards),
            }
            (files / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
            at = ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
            return [str(folder / "litellm" / "bin" / "litellm"), "--config", "config.yaml", *at]

        return command

    def nemo(files: Path, upstream: str, port: int) -> list[str]:
        (files / "rails" / "temper").mkdir(parents=True, exist_ok=True)
        (files / "rails" / "temper" / "config.yml").write_text(json.dumps(rails(upstream)))
        server = [str(folder / "nemo" / "bin" / "nemoguardrails"), "server", "--config", "rails", "--disable-chat-ui"]
        return [*server, "--default-config-id", "temper", "--port", str(port)]

    key = {"Authorization": f"Bearer {KEY}"}
    lite = "/health/liveliness"
    made = (
        Peer("temper", serve, "/readyz", ours=True),
        Peer("floor", uvicorn, "/health", {"RULES": "0"}),
        Peer("floor-re2", uvicorn, "/health", {"RULES": "1"}),
        Peer("nemo-iorails", nemo, "/", {"NEMO_GUARDRAILS_IORAILS_ENGINE": "1"}),
        Peer("nemo-llmrails", nemo, "/"),
        Peer("litellm-custom", litellm(custom("Rules")), lite, headers=key),
        Peer("litellm-buffered", litellm(custom("Buffered")), lite, headers=key),
        Peer("litellm-content-filter", litellm(content_filter()), lite, headers=key),
    )
    return {peer.name: peer for peer in made}


def environment(peer: Peer, upstream: str, files: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(HERE.parent.parent), str(files)])
    return {**os.environ, **QUIET, **peer.env, "UPSTREAM": upstream, "PYTHONPATH": paths if peer.ours else str(HERE)}


def ours() -> str:
    """The rules as a policy: every channel behind the hold-back window. Tools may be called, no limit ends the load."""
    rows = [f"[[rules]]\nid = \"regex-{i}\"\npattern = '{pattern}'\nreach = 64\n" for i, pattern in enumerate(REGEXES)]
    phrases = json.dumps(PHRASES)
    off = '[agentic]\naction = "allow"\n[lint]\nmode = "off"\n[limits]\nrequests_per_minute = 0\n'
    return "\n".join(['name = "bench"', off, *rows, f'[[rules]]\nid = "phrases"\nphrases = {phrases}\n'])


def custom(name: str) -> list[dict[str, Any]]:
    modes = {"in": "pre_call", "out": "post_call"}
    params = {"guardrail": f"litellm_guard.{name}", "default_on": True}
    return [{"guardrail_name": f"rules-{at}", "litellm_params": {**params, "mode": mode}} for at, mode in modes.items()]


def content_filter() -> list[dict[str, Any]]:
    """LiteLLM's own filter; it adds the flag for case itself."""
    patterns = [
        {"pattern_type": "regex", "name": f"rule{i}", "pattern": p.removeprefix("(?i)"), "action": "BLOCK"}
        for i, p in enumerate(REGEXES)
    ]
    words = [{"keyword": phrase, "action": "BLOCK"} for phrase in PHRASES]
    params = {"guardrail": "litellm_content_filter", "default_on": True, "patterns": patterns, "blocked_words": words}
    modes = {"in": "pre_call", "out": "post_call"}
    return [{"guardrail_name": f"filter-{at}", "litellm_params": {**params, "mode": mode}} for at, mode in modes.items()]


def rails(upstream: str) -> dict[str, Any]:
    """NeMo's regex rail on input and output; its stream waits for a window, which is the setting that leaks least."""
    patterns = {"patterns": [*REGEXES, *PHRASES]}
    main = {"type": "main", "engine": "openai", "model": "fake", "parameters": {"base_url": f"{upstream}/v1", "api_key": "x"}}
    streaming = {"enabled": True, "chunk_size": 200, "context_size": 50, "stream_first": False}
    return {
        "models": [main],
        "passthrough": True,
        "rails": {
            "config": {"regex_detection": {"input": patterns, "output": patterns}},
            "input": {"flows": ["regex check input"]},
            "output": {"flows": ["regex check output"], "streaming": streaming},
        },
    }

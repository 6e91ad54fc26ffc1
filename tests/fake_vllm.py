"""A stand-in for `vllm serve` on a CPU: the routes that TRL 1.16's client calls, answered by a small transformers model.

Real are HTTP, JSON, sampling, log-probabilities, and the protocol of weight updates (announced, awaited, loaded by name). Not
real are vLLM's engine and NCCL: tensors come through a queue in this process (`Wire`), in the places where TRL calls vLLM's NCCL.
"""

import json
import threading
import traceback
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM


class Wire:
    """What takes the place of NCCL: one group at a time on a port, and tensors in the order they were announced."""

    def __init__(self) -> None:
        self.tensors: Queue[tuple[str, torch.Tensor]] = Queue()
        self.joined = threading.Event()
        self.group: SimpleNamespace | None = None

    def open(self, init_info: dict[str, Any]) -> SimpleNamespace:
        if self.group is not None and self.group.group.socket is not None:
            raise OSError(f"port {init_info['master_port']} is in use by an earlier group of this process")
        self.group = SimpleNamespace(group=SimpleNamespace(store="store", socket="socket"))
        self.joined.set()
        return self.group

    def send(self, iterator: Any, group: Any) -> None:
        assert group is self.group
        for name, tensor in iterator:
            self.tensors.put((name, tensor.detach().clone()))


def install(monkeypatch: Any, wire: Wire, *, stateful: bool) -> None:
    """Put a `Wire` where TRL calls the vllm package; `stateful` chooses the road for vLLM 0.28 and newer over the older one.

    TRL reads at import whether vllm is there, so its names of vllm's functions are absent and are put in here. Everything else
    of TRL's client and trainer is its own, with one more exception: it sends weights from CUDA devices only, so it is told that
    the trainer's device is one.
    """
    from trl.generation import vllm_client, vllm_generation

    def send_weights(*, iterator: Any, trainer_args: Any) -> None:
        assert trainer_args.packed
        wire.send(iterator, trainer_args.group)

    def broadcast(*, iterator: Any, group: Any, src: int, post_iter_func: Any) -> None:
        assert src == 0
        wire.send(((item[0], post_iter_func(item)) for item in iterator), group)

    for module in (vllm_client, vllm_generation):
        monkeypatch.setattr(module, "is_vllm_available", lambda min_version=None: True)
    names = {
        "get_ip": lambda: "127.0.0.1",
        "_HAS_STATEFUL_TRAINER_ENGINE": stateful,
        "_HAS_RESET_PREFIX_CACHE_SUCCESS": stateful,
        "open_trainer_endpoint": wire.open,
        "packed_nccl_broadcast_producer": broadcast,
        "NCCLWeightTransferEngine": SimpleNamespace(trainer_init=wire.open, trainer_send_weights=send_weights),
        "NCCLTrainerSendWeightsArgs": SimpleNamespace,
    }
    for name, value in names.items():
        monkeypatch.setattr(vllm_client, name, value, raising=False)
    join = vllm_client.VLLMClient.init_communicator
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", lambda client, device: join(client, torch.device("cuda")))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class FakeVllm:
    """A server on a free port with its own copy of the model in `folder`; use it as a context manager.

    `shift` is added to every log-probability it reports, as another kernel would err; `deaf` receives weights and drops them.
    """

    def __init__(self, folder: Path, wire: Wire, *, shift: float = 0.0, deaf: bool = False, seed: int = 0) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.wire, self.shift, self.deaf = wire, shift, deaf
        self.draw = torch.Generator().manual_seed(seed)
        self.calls: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.lengths: list[list[int]] = []
        self.updates: list[dict[str, Any]] = []
        self.updating = False
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "FakeVllm":
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def counts(self) -> Counter[str]:
        return Counter(self.calls)

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON of one request; an unknown path is a `KeyError`."""
        self.calls.append(path)
        config = {"weight_transfer_config": {"backend": "nccl"}, "model_config": {"logprobs_mode": "processed_logprobs"}}
        fixed = {
            "/health": {},
            "/v1/models": {"data": [{"id": "tiny"}]},
            "/server_info": {"vllm_config": config},
            "/get_world_size": {"world_size": 1},
            "/reset_prefix_cache": {"success": True},
        }
        routes = {
            "/init_weight_transfer_engine": self.join,
            "/start_weight_update": self.start,
            "/update_weights": self.update,
            "/finish_weight_update": self.finish,
            "/v1/completions": self.complete,
        }
        return fixed[path] if path in fixed else routes[path](body)

    def join(self, body: dict[str, Any]) -> dict[str, str]:
        assert body["init_info"]["world_size"] == 2
        assert self.wire.joined.wait(30)
        self.wire.joined.clear()
        return {"message": "joined"}

    def start(self, body: dict[str, Any]) -> dict[str, str]:
        self.updating = True
        return {"message": "started"}

    def finish(self, body: dict[str, Any]) -> dict[str, str]:
        self.updating = False
        return {"message": "finished"}

    @torch.no_grad()
    def update(self, body: dict[str, Any]) -> dict[str, str]:
        assert self.updating, "weights outside start_weight_update"
        info = body["update_info"]
        own = dict(self.model.named_parameters())
        assert sorted(info["names"]) == sorted(own), "the names are not those of the model"
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
            sent, tensor = self.wire.tensors.get(timeout=30)
            assert (sent, str(tensor.dtype), list(tensor.shape)) == (name, f"torch.{dtype}", shape)
            if not self.deaf:
                own[name].copy_(tensor)
        self.updates.append(info)
        return {"message": "updated"}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        assert not self.updating, "asked for answers in the middle of a weight update"
        assert (body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)
        self.asked.append(body)
        return {"choices": [choice for prompt in body["prompt"] for choice in self.choices(prompt, body)]}

    def choices(self, prompt: list[int], body: dict[str, Any]) -> list[dict[str, Any]]:
        ids, logprobs = sample(self.model, prompt, body["n"], body["max_tokens"], body["temperature"], self.draw)
        self.lengths.append([len(i) for i in ids])
        return [
            {
                "prompt_token_ids": prompt,
                "token_ids": row,
                "logprobs": {
                    "tokens": [f"token_id:{i}" for i in row],
                    "token_logprobs": [p + self.shift for p in scores],
                    "top_logprobs": [{f"token_id:{i}": p + self.shift} for i, p in zip(row, scores, strict=True)],
                },
            }
            for row, scores in zip(ids, logprobs, strict=True)
        ]


@torch.no_grad()
def sample(
    model: Any, prompt: list[int], n: int, longest: int, temperature: float, draw: torch.Generator
) -> tuple[list[list[int]], list[list[float]]]:
    """`n` answers with the end token, if it came, and their log-probabilities; plainly, without a cache or temper's code."""
    rows, scores = torch.tensor([prompt] * n), []
    for _ in range(longest):
        logprobs = torch.log_softmax(model(rows).logits[:, -1].float() / temperature, -1)
        token = torch.multinomial(logprobs.exp(), 1, generator=draw)
        rows, scores = torch.cat([rows, token], 1), [*scores, logprobs.gather(1, token)]
    answers, table = rows[:, len(prompt) :].tolist(), torch.cat(scores, 1).tolist()
    end = model.config.eos_token_id
    sizes = [a.index(end) + 1 if end in a else longest for a in answers]
    return [a[:s] for a, s in zip(answers, sizes, strict=True)], [t[:s] for t, s in zip(table, sizes, strict=True)]


def _handler(server: FakeVllm) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply()

        def do_POST(self) -> None:
            self.reply()

        def reply(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            try:
                status, answer = 200, server.answer(self.path.partition("?")[0], body)
            except Exception:  # noqa: BLE001
                # 400: TRL's client tries again after a 500, for a long time
                status, answer = 400, {"error": traceback.format_exc()}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler

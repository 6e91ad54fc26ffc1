"""An OpenAI-compatible server that answers at once, in a process of its own: what harnesses are measured against.

`python bench/stub.py` prints its URL and serves until it is killed. Every reply is the same thought and answer; `--delay` waits
that many seconds first, as a model would.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

THOUGHT = "The user asks about a harmless thing; I can simply answer it in two sentences. " * 3
ANSWER = "Here is a plain answer of some forty words that a small model might give to such a question. " * 3


def reply() -> bytes:
    """One HTTP response with a chat completion."""
    message = {"role": "assistant", "content": f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"}
    usage = {"prompt_tokens": 20, "completion_tokens": 120, "total_tokens": 140}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "stub", "usage": usage}
    body |= {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def serve(delay: float) -> None:
    answer = reply()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(length)
                await asyncio.sleep(delay)
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


@contextmanager
def running(delay: float = 0.0) -> Iterator[str]:
    """The URL of a stub in another process."""
    command = [sys.executable, str(Path(__file__).resolve()), str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0))

"""A server with the completions and chats of OpenAI's API, which fails in every way that a test asks for."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from transformers import PreTrainedTokenizerBase


@dataclass
class OpenAIServer:
    """Answers every prompt with `answer`, piece by piece. Use as a context manager.

    faults: what goes wrong with the next requests, one each; "" is nothing. together: requests that must be there
    before any is answered. reply: to a conversation, from its messages. asked: bodies of the requests; keys: their
    Authorization headers.

    What servers differ in: any_name: a model that is not listed is answered for (llama.cpp's), or refused (vLLM).
    window: tokens of prompt and answer, at which an answer ends (llama.cpp's, vLLM). counts_in_streams: whether a
    stream has usage (llama-cpp-python's has none). refused: fields that no request may have (transformers serve).
    loading: requests of any kind that are told to wait (llama.cpp's, while it loads). events: sent for an answer.
    """

    tokenizer: PreTrainedTokenizerBase
    answer: list[str] = field(default_factory=lambda: ["4", "2", "."])
    takes_ids: bool = True
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "tiny", "owned_by": "test"}])
    faults: list[str] = field(default_factory=list)
    together: int = 1
    reply: Callable[[list[dict[str, str]]], str] = lambda messages: "CORRECT"
    any_name: bool = False
    window: int = 1 << 20
    counts_in_streams: bool = True
    refused: frozenset[str] = frozenset()
    loading: int = 0
    events: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def __enter__(self) -> Self:
        owner = self
        self.gate = threading.Barrier(self.together)
        self.over = threading.Event()

        class Handler(_Handler):
            server_of_test = owner

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.over.set()
        self.die()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def die(self) -> None:
        """Nobody listens any more."""
        self.http.shutdown()
        self.http.server_close()

    def tokens(self, prompt: str | list[int]) -> int:
        return len(prompt) if isinstance(prompt, list) else len(self.tokenizer(prompt)["input_ids"])


class _Handler(BaseHTTPRequestHandler):
    server_of_test: OpenAIServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _is_loading(self) -> bool:
        owner = self.server_of_test
        owner.loading -= 1
        if owner.loading >= 0:
            error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
            self._json(503, {"error": error})
        return owner.loading >= 0

    def do_GET(self) -> None:
        if self._is_loading():
            return
        self._json(200, {"object": "list", "data": self.server_of_test.models})

    def do_POST(self) -> None:
        owner = self.server_of_test
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_loading():
            return
        owner.asked.append(body)
        owner.keys.append(self.headers["Authorization"])
        fault = owner.faults.pop(0) if owner.faults else ""
        if fault.isdigit():
            self._json(int(fault), {"error": {"message": f"bad key or worse: {self.headers['Authorization']}"}})
        elif fault == "list":
            self._json(200, [])
        elif not owner.any_name and body["model"] not in [model["id"] for model in owner.models]:
            self._json(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        elif unknown := sorted(owner.refused & body.keys()):
            self._json(422, {"detail": f"Unexpected fields in the request: {unknown}"})
        elif self.path.endswith("/chat/completions"):
            message = {"role": "assistant", "content": owner.reply(body["messages"])}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._json(200, {"id": "1", "object": "chat.completion", "created": 1, "model": "j", "choices": [choice]})
        elif isinstance(body["prompt"], list) and not owner.takes_ids:
            self._json(400, {"detail": "prompt must be a string."})
        elif body.get("stream"):
            self._stream(body, fault)
        else:
            self._whole(body, fault)

    def _pieces(self, body: dict[str, Any], fault: str) -> tuple[list[str], str, dict[str, int] | None]:
        """What an answer consists of, why it ends, and the usage."""
        owner = self.server_of_test
        read = owner.tokens(body["prompt"]) - 2 * (fault == "short")
        pieces = owner.answer[: min(body["max_tokens"], max(owner.window - read, 0))]
        ended = len(pieces) == len(owner.answer) < body["max_tokens"]
        usage = {"prompt_tokens": read, "completion_tokens": len(pieces), "total_tokens": read + len(pieces)}
        return pieces, "stop" if ended else "length", None if fault == "no usage" else usage

    def _whole(self, body: dict[str, Any], fault: str) -> None:
        pieces, reason, usage = self._pieces(body, fault)
        choice = {"index": 0, "text": "".join(pieces), "finish_reason": reason, "logprobs": None}
        reply = {"id": "1", "object": "text_completion", "created": 1, "model": "tiny", "choices": [choice]}
        self._json(200, {**reply, "usage": usage})

    def _stream(self, body: dict[str, Any], fault: str) -> None:
        owner = self.server_of_test
        owner.gate.wait(5)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        if fault == "torn":  # a process that is killed leaves a body of chunks without its end
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\ndata:\r\n")
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.end_headers()
        if fault == "mute":
            owner.over.wait(20)
            return
        if owner.events:
            self.wfile.write("".join(f"data: {event}\n\n" for event in owner.events).encode())
            return
        pieces, reason, usage = self._pieces(body, fault)
        for piece in pieces[:1] if fault in ("cut", "die") else pieces:
            self._event(text=piece)
        if fault in ("cut", "die"):
            self.connection.shutdown(socket.SHUT_RDWR)
            if fault == "die":
                threading.Thread(target=owner.die).start()
            return
        self._event(finish_reason=reason, usage=usage if owner.counts_in_streams else None)
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, text: str = "", finish_reason: str | None = None, usage: dict[str, int] | None = None) -> None:
        choice = {"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": None}
        chunk = {"id": "1", "object": "text_completion", "created": 1, "model": "tiny", "choices": [choice]}
        self.wfile.write(f"data: {json.dumps({**chunk, 'usage': usage})}\n\n".encode())
        self.wfile.flush()

    def _json(self, status: int, content: object) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(raw)

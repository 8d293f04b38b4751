"""A proxy in front of Ray's dashboard that can hold submissions back, as a slow network does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

HOLD_S = 120.0


@dataclass
class HeldRequests:
    """What the proxy does, and what it saw.

    Attributes:
        url: Where it listens.
        holding: The next submission is held back, until `let_go`.
        held: One is.
        let_go: It goes on its way.
        arrived: Ray has answered it.
        answers: Ray's status for each submission, in the order of the answers.
    """

    url: str
    holding: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)
    answers: list[int] = field(default_factory=list)


@contextmanager
def held_requests(target: str) -> Iterator[HeldRequests]:
    """Forward everything to `target`."""
    calls = httpx.Client(base_url=target, timeout=60, trust_env=False)

    class Forward(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            submits = self.command == "POST" and self.path == "/api/jobs/"
            holds = submits and seen.holding.is_set()
            if holds:
                seen.holding.clear()
                seen.held.set()
                assert seen.let_go.wait(HOLD_S)
            kept = {name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers}
            answer = calls.request(self.command, self.path, content=content, headers=kept)
            if submits:
                seen.answers.append(answer.status_code)
            if holds:
                seen.arrived.set()
            with suppress(ConnectionError):  # whoever asked may have died meanwhile
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_DELETE = forward

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
    seen = HeldRequests(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        seen.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()
        calls.close()

"""Webhooks as a provider sends them: signed for real, over kept connections.

Guarantees: every answer is awaited and must be 2xx. Requests are signed before the clock starts, so that the
sender takes little of the machine that it shares with what it measures.
"""

import hashlib
import hmac
import json
import select
import socket
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from .processes import Failed

SECRET = "whsec_of_the_bench"
PATH = "/webhooks/workos"


def organizations(run: str) -> str:
    """What the ids of a run's organizations begin with."""
    return f"org_{run}_"


def created(run: str, number: int) -> bytes:
    """The whole request that says that an organization was created."""
    now = time.time()
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    domain = {
        "object": "organization_domain",
        "id": f"org_domain_{run}_{number}",
        "domain": f"{number}.{run}.example.com",
        "state": "verified",
    }
    data = {
        "object": "organization",
        "id": f"{organizations(run)}{number}",
        "name": f"Bench {run} {number}",
        "domains": [domain],
        "metadata": {"plan": "enterprise", "region": "eu-central"},
        "external_id": None,
        "created_at": at,
        "updated_at": at,
    }
    event = {
        "object": "event",
        "id": f"event_{run}_{number}",
        "event": "organization.created",
        "data": data,
        "created_at": at,
        "context": {},
    }
    return signed(json.dumps(event).encode(), int(now * 1000))


def signed(body: bytes, milliseconds: int) -> bytes:
    """A request with WorkOS's signature over its body."""
    signature = hmac.new(SECRET.encode(), f"{milliseconds}.".encode() + body, hashlib.sha256).hexdigest()
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"workos-signature: t={milliseconds}, v1={signature}\r\n\r\n"
    )
    return head.encode() + body


class Connection:
    """A kept connection with at most one request under way."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = b""

    def ask(self, request: bytes) -> None:
        self.answer = b""
        self.socket.sendall(request)

    def read(self) -> bool:
        """Reads what is there; whether the answer is whole. An error when it is not 2xx."""
        part = self.socket.recv(65536)
        if not part:
            raise Failed("the connection was closed before the answer")
        self.answer += part
        head, found, body = self.answer.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 2"):
            raise Failed(f"an event was answered {head.splitlines()[0].decode()}")
        return len(body) >= content_length(head)


def content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    if not found:
        raise Failed(f"an answer without a length: {head!r}")
    return int(rest.partition(b"\r\n")[0])


class Sender:
    """Some connections to one service."""

    def __init__(self, port: int, connections: int):
        self.connections = [Connection(port) for _ in range(connections)]

    def deliver(self, requests: Iterable[bytes], limit_s: float = 600.0) -> tuple[int, float]:
        """Sends them, each connection one after the other, until all are answered or the time is over.

        Returns how many were answered, and in how many seconds.
        """
        remaining = iter(requests)
        answered, waiting = 0, {}
        # the system's own call: what stands around it would be a tenth of what a quick service takes
        with select.epoll() as poll:
            started = time.perf_counter()
            for connection, request in zip(self.connections, remaining):
                waiting[connection.socket.fileno()] = connection
                poll.register(connection.socket, select.EPOLLIN)
                connection.ask(request)
            while waiting:
                for number, _ in poll.poll():
                    connection = waiting[number]
                    if not connection.read():
                        continue
                    answered += 1
                    is_over = time.perf_counter() - started >= limit_s
                    request = None if is_over else next(remaining, None)
                    if request is None:
                        poll.unregister(number)
                        del waiting[number]
                    else:
                        connection.ask(request)
            return answered, time.perf_counter() - started

    def close(self) -> None:
        for connection in self.connections:
            connection.socket.close()

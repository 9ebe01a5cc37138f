"""``/healthz``, ``/readyz`` and ``/metrics`` of a process, on the standard library's threaded HTTP server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from playbill.errors import ConfigurationError
from playbill.observe import events, metrics
from playbill.observe.log import get_logger

#: A check: None while all is well, else the reason in words. Must answer at once: no I/O.
Check = Callable[[], str | None]

#: A client that sends nothing may hold its thread no longer, s.
REQUEST_TIMEOUT_S: Final = 10.0

_log = get_logger(__name__)


class HealthServer:
    """Serves health and metrics from threads of its own.

    ``/healthz`` answers 200 while every check is well, else 503: restart me. ``/readyz`` does the same with
    ``readiness``: send me work. Both answer JSON ``{"status": "ok" | "failing", "checks": {name: "ok" | reason}}``.

    Args:
        host: Address to bind.
        port: Port to bind; 0 is any free one.
        checks: Checks of ``/healthz`` by name.
        readiness: Checks of ``/readyz``; the same as ``checks`` by default.
        exposition: Makes the body of ``/metrics``.

    Raises:
        ConfigurationError: The address cannot be bound.
    """

    def __init__(
        self,
        host: str,
        port: int,
        checks: Mapping[str, Check],
        *,
        readiness: Mapping[str, Check] | None = None,
        exposition: Callable[[], bytes] = metrics.exposition,
    ) -> None:
        routes = {"/healthz": checks, "/readyz": checks if readiness is None else readiness}
        handler = _handler(routes, exposition)
        try:
            self._server = _Server((host, port), handler)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"cannot serve health on {host}:{port} ({error}); set PLAYBILL_HTTP_HOST and PLAYBILL_HTTP_PORT"
            ) from error
        self._host = host
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port bound."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Serve until ``stop``."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="playbill-health", daemon=True
        )
        self._thread.start()
        _log.info(events.HEALTH_SERVING, host=self._host, port=self.port)

    def stop(self) -> None:
        """Stop serving and free the port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a scraper that hangs must not hold up the process's end

    def server_bind(self) -> None:
        # The base looks up the host's name in DNS, which may take seconds in a pod.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - signature of the base
        _log.debug(events.HEALTH_CHECK_FAILED, client=str(client_address), exc_info=True)


def _handler(
    routes: Mapping[str, Mapping[str, Check]], exposition: Callable[[], bytes]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S
        server_version = "playbill"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(HTTPStatus.OK, metrics.CONTENT_TYPE, exposition())
            elif path in routes:
                status, body = _report(routes[path])
                self._answer(status, "application/json", body)
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"/healthz /readyz /metrics\n")

        do_HEAD = do_GET  # noqa: N815 - named by the base class

        def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named by the base class
            """Say nothing: probes come every few seconds."""

    return Handler


def _report(checks: Mapping[str, Check]) -> tuple[HTTPStatus, bytes]:
    failing = {name: reason for name, check in checks.items() if (reason := _ask(name, check)) is not None}
    body = {
        "status": "failing" if failing else "ok",
        "checks": {name: failing.get(name, "ok") for name in checks},
    }
    status = HTTPStatus.SERVICE_UNAVAILABLE if failing else HTTPStatus.OK
    return status, json.dumps(body).encode() + b"\n"


def _ask(name: str, check: Check) -> str | None:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - a broken check is an answer: not healthy
        _log.warning(events.HEALTH_CHECK_FAILED, check=name, exc_info=True)
        return f"the check failed: {type(error).__name__}: {error}"

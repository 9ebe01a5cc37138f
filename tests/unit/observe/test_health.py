from __future__ import annotations

import http.client
import json

import pytest

from playbill.errors import ConfigurationError
from playbill.observe.health import HealthServer


@pytest.fixture
def serve():
    """Starts servers on any free port, and stops them."""
    started = []

    def start(checks, **options):
        server = HealthServer("127.0.0.1", 0, checks, **options)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


def ask(server, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def test_all_checks_well_is_200(serve):
    status, content_type, body = ask(serve({"loop": lambda: None}), "/healthz")

    assert (status, content_type) == (200, "application/json")
    assert json.loads(body) == {"status": "ok", "checks": {"loop": "ok"}}


def test_a_reason_is_503_and_is_named(serve):
    status, _, body = ask(serve({"loop": lambda: "no tick for 40 s", "threads": lambda: None}), "/healthz?verbose=1")

    assert status == 503
    assert json.loads(body) == {"status": "failing", "checks": {"loop": "no tick for 40 s", "threads": "ok"}}


def test_a_check_that_raises_is_503(serve):
    status, _, body = ask(serve({"loop": lambda: 1 / 0}), "/healthz")

    assert status == 503
    assert "ZeroDivisionError" in json.loads(body)["checks"]["loop"]


def test_readiness_is_health_unless_it_has_checks_of_its_own(serve):
    assert ask(serve({"a": lambda: "bad"}), "/readyz")[0] == 503
    own = serve({"a": lambda: None}, readiness={"retired": lambda: "retired"})
    assert ask(own, "/healthz")[0] == 200
    assert ask(own, "/readyz")[0] == 503


def test_metrics_are_served(serve):
    status, content_type, body = ask(serve({}), "/metrics")

    assert status == 200
    assert content_type.startswith("text/plain")
    assert b"playbill_jobs_finished_total" in body


def test_an_unknown_path_is_404_and_head_has_no_body(serve):
    server = serve({})
    assert ask(server, "/")[0] == 404
    assert ask(server, "/healthz", "HEAD") == (200, "application/json", b"")


def test_a_taken_port_is_a_configuration_error(serve):
    server = serve({})
    with pytest.raises(ConfigurationError, match=f"{server.port}.*PLAYBILL_HTTP_PORT"):
        HealthServer("127.0.0.1", server.port, {})


def test_the_port_is_free_again_after_stop():
    server = HealthServer("127.0.0.1", 0, {})
    server.start()
    port = server.port
    server.stop()
    again = HealthServer("127.0.0.1", port, {})
    assert again.port == port
    again.stop()

from __future__ import annotations

import re
import subprocess
import sys
import threading

import pytest
from opentelemetry import trace as api
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from playbill.observe import trace
from tests.support.waiting import eventually

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setattr(trace, "_api", lambda: None)


def _forget_provider(monkeypatch):
    monkeypatch.setattr(trace, "_provided", False)
    monkeypatch.setattr(trace, "_asked_at", float("-inf"))


@pytest.fixture
def spans(monkeypatch):
    """Finished spans of a provider that only this test sees."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(api, "_TRACER_PROVIDER", provider)
    _forget_provider(monkeypatch)
    yield exporter.get_finished_spans
    provider.shutdown()


def test_a_new_traceparent_is_valid_and_unlike_the_one_before():
    first, second = trace.new_traceparent(), trace.new_traceparent()
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", first)
    assert first != second
    assert trace.trace_id_of(first) == first.split("-")[1]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "",
        "nonsense",
        PARENT.upper(),
        PARENT[:-1],
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "ff" + PARENT[2:],
    ],
)
def test_a_malformed_traceparent_has_no_trace_id(wrong):
    assert trace.trace_id_of(wrong) is None


@pytest.mark.usefixtures("without")
class TestWithoutOpenTelemetry:
    def test_an_attempt_carries_its_trace_on_to_what_it_enqueues(self):
        with trace.attempt_span("run", PARENT) as inside:
            assert inside == trace.current_traceparent() == PARENT
            with trace.enqueue_span("enqueue") as sent:
                assert sent == PARENT
        assert trace.current_traceparent() is None

    def test_an_enqueue_outside_starts_a_trace(self):
        with trace.enqueue_span("enqueue") as sent:
            assert trace.trace_id_of(sent)

    def test_an_attempt_without_a_trace_hides_the_one_around_it(self):
        with trace.attempt_span("run", PARENT), trace.attempt_span("run", None) as inner:
            assert inner is None
            assert trace.current_traceparent() is None

    def test_threads_do_not_share_it(self):
        seen = []
        with trace.attempt_span("run", PARENT):
            thread = threading.Thread(target=lambda: seen.append(trace.current_traceparent()))
            thread.start()
            thread.join()
        assert seen == [None]

    def test_an_exception_leaves_nothing_behind(self):
        with pytest.raises(ValueError), trace.attempt_span("run", PARENT):
            raise ValueError
        assert trace.current_traceparent() is None


class TestWithAProvider:
    def test_an_attempt_is_a_consumer_span_below_the_enqueue(self, spans):
        with trace.attempt_span("run send", PARENT, {"messaging.system": "playbill"}) as inside:
            assert trace.trace_id_of(inside) == trace.trace_id_of(PARENT)
            assert inside != PARENT

        (span,) = spans()
        assert span.kind is api.SpanKind.CONSUMER
        assert span.name == "run send"
        assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
        assert span.attributes["messaging.system"] == "playbill"

    def test_an_enqueue_inside_an_attempt_is_a_producer_span_below_it(self, spans):
        with trace.attempt_span("run", PARENT) as inside, trace.enqueue_span("enqueue") as sent:
            assert trace.trace_id_of(sent) == trace.trace_id_of(PARENT)

        enqueue, _ = spans()
        assert enqueue.kind is api.SpanKind.PRODUCER
        assert f"{enqueue.parent.span_id:016x}" == inside.split("-")[2]

    def test_an_exception_is_recorded(self, spans):
        with pytest.raises(ValueError), trace.attempt_span("run", PARENT):
            raise ValueError("why")

        (span,) = spans()
        assert span.status.status_code is api.StatusCode.ERROR
        assert span.events[0].attributes["exception.message"] == "why"

    def test_the_trace_of_user_code_is_the_one_that_is_sent(self, spans):
        with api.get_tracer("user").start_as_current_span("request") as span:
            expected = f"{span.get_span_context().trace_id:032x}"
            assert trace.trace_id_of(trace.current_traceparent()) == expected

    def test_a_malformed_parent_starts_a_new_trace(self, spans):
        with trace.attempt_span("run", "nonsense") as inside:
            assert trace.trace_id_of(inside)
        assert spans()[0].parent is None


def test_the_api_alone_counts_as_without(monkeypatch):
    _forget_provider(monkeypatch)
    with trace.attempt_span("run", PARENT) as inside:
        assert inside == PARENT
        assert not api.get_current_span().get_span_context().is_valid


def test_a_provider_that_is_set_later_is_noticed(monkeypatch):
    _forget_provider(monkeypatch)
    with trace.attempt_span("run", PARENT) as inside:
        assert inside == PARENT
    monkeypatch.setattr(api, "_TRACER_PROVIDER", TracerProvider())

    def traced():
        with trace.attempt_span("run", PARENT) as inside:
            return inside != PARENT

    eventually(traced)


def test_it_works_where_opentelemetry_cannot_be_imported():
    code = f"""
import sys
sys.modules["opentelemetry"] = None
from playbill.observe import trace
from tests.support.waiting import eventually
with trace.attempt_span("run", "{PARENT}"), trace.enqueue_span("enqueue") as sent:
    assert sent == trace.current_traceparent() == "{PARENT}"
assert trace.current_traceparent() is None
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "actors"}, timeout=60)

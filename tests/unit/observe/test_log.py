from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import structlog

from playbill.observe import log
from playbill.settings import Settings


@pytest.fixture
def lines():
    """Logs as JSON lines, and the logging set-up of before afterwards."""
    root = logging.getLogger()
    level, handlers, defaults = root.level, list(root.handlers), structlog.get_config()
    out = io.StringIO()
    log.configure_logging(Settings(log_format="json"), stream=out)
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    log.unbind_job()
    root.setLevel(level)
    root.handlers[:] = handlers
    structlog.configure(**defaults)
    for name in log.QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_an_event_is_one_json_line_with_level_logger_and_utc_time(lines):
    log.get_logger("playbill.test").warning("job.failed", reason="because")

    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "job.failed", "reason": "because", "level": "warning", "logger": "playbill.test"}


def test_the_time_is_iso_8601_in_utc(lines):
    log.get_logger("playbill.test").info("job.started")

    time = datetime.fromisoformat(lines()[0]["timestamp"])
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60


def test_standard_logging_takes_the_same_way(lines):
    logging.getLogger("dramatiq.worker").info("started %d threads", 8, extra={"extra_key": 1})

    (line,) = lines()
    assert line["event"] == "started 8 threads"
    assert line["extra_key"] == 1
    assert line["logger"] == "dramatiq.worker"


def test_structlog_of_user_code_takes_the_same_way(lines):
    structlog.get_logger("shop").info("sold", items=2)

    assert lines()[0]["items"] == 2


def test_the_bound_job_is_in_every_event_until_it_is_unbound(lines):
    log.bind_job("j1", 2, "send", "email", "f" * 32)
    log.get_logger("playbill.test").info("job.started")
    logging.getLogger("user").info("hello")
    log.unbind_job()
    logging.getLogger("user").info("bye")

    job = {"job_id": "j1", "attempt": 2, "actor": "send", "queue": "email", "trace_id": "f" * 32}
    first, second, third = lines()
    assert job.items() <= first.items()
    assert job.items() <= second.items()
    assert not job.keys() & third.keys()


def test_an_events_own_key_wins_over_the_bound_job(lines):
    log.bind_job("j1", 1, "send", "email", None)
    log.get_logger("playbill.test").info("job.started", queue="other")

    assert lines()[0]["queue"] == "other"
    assert "trace_id" not in lines()[0]


def test_sensitive_values_of_the_bound_job_are_masked_everywhere(lines):
    log.bind_job("j1", 1, "send", "email", None, secrets=("s3cret", "424242"))
    try:
        raise ValueError("code s3cret refused")
    except ValueError:
        log.get_logger("playbill.test").exception("job.failed", body={"code": ["s3cret", 424242]})
    log.unbind_job()
    log.get_logger("playbill.test").info("s3cret")

    failed, later = lines()
    assert "s3cret" not in json.dumps(failed)
    assert failed["body"] == {"code": ["***", "***"]}
    assert "ValueError: code *** refused" in failed["exception"]
    assert later["event"] == "s3cret"


def test_passwords_never_reach_a_line(lines):
    log.get_logger("playbill.test").info(
        "broker.connected", url="amqp://u:hush@h/", password="hush", error=OSError("amqp://u:hush@h/")
    )
    logging.getLogger("pika").warning("cannot reach amqp://u:hush@h/")

    assert "hush" not in json.dumps(lines())


def test_the_level_holds_for_all_and_quiet_libraries_speak_from_warning_on(lines):
    logging.getLogger("user").debug("no")
    logging.getLogger("pika.connection").info("no")
    logging.getLogger("pika.connection").warning("yes")

    assert [line["event"] for line in lines()] == ["yes"]


def test_configuring_again_replaces_our_handler_and_no_other(lines):
    foreign = logging.NullHandler()
    logging.getLogger().addHandler(foreign)
    out = io.StringIO()
    log.configure_logging(Settings(log_format="console", log_level="debug"), stream=out)
    log.get_logger("playbill.test").debug("job.started", n=1)

    assert lines() == []
    assert "job.started" in out.getvalue()
    assert foreign in logging.getLogger().handlers


def test_the_console_form_shows_an_exception(lines):
    out = io.StringIO()
    log.configure_logging(Settings(log_format="console"), stream=out)
    try:
        raise ValueError("why")
    except ValueError:
        log.get_logger("playbill.test").exception("job.failed")

    assert "ValueError: why" in out.getvalue()
    assert "job.failed" in out.getvalue()


def test_auto_means_json_unless_it_is_a_terminal(lines):
    out = io.StringIO()
    log.configure_logging(Settings(log_format="auto"), stream=out)
    log.get_logger("playbill.test").info("job.started")

    assert json.loads(out.getvalue())["event"] == "job.started"


def test_unconfigured_events_go_to_the_hosts_logging_as_plain_text(caplog):
    log.bind_job("j1", 1, "send", "email", None)
    log.get_logger("playbill.test").warning("job.failed", url="amqp://u:hush@h/", percent="100 %s")
    log.unbind_job()

    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("job.failed ")
    assert "job_id='j1'" in text
    assert "hush" not in text


def test_importing_configures_nothing():
    code = (
        "import logging, structlog; import playbill.observe.log, playbill.observe.health, playbill.observe.trace, sys;"
        "assert not logging.getLogger().handlers; assert not structlog.is_configured();"
        "assert 'prometheus_client' not in sys.modules; assert 'opentelemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "actors"}, timeout=60)

"""Modules that call `playbill.configure(...)` themselves: the command's settings hold, their middleware comes along."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import dramatiq
import pytest

import playbill
from playbill.cli.path import working_directory_on_path
from playbill.cli.trial import require_actors
from playbill.runtime import configure_command
from playbill.settings import load

from .conftest import Kit, Run, assert_error

MODULE = """
import dramatiq, playbill

class Stamp(dramatiq.Middleware):
    actor_options = {"stamp"}

    def before_enqueue(self, broker, message, delay):
        message.options["stamps"] = message.options.get("stamps", 0) + 1

playbill.configure(CALL)

@dramatiq.actor(queue_name="mail", OPTIONS)
def send(number: int) -> None: ...
"""
MIDDLEWARE = MODULE.replace("CALL", "middleware=[Stamp()]").replace("OPTIONS", 'stamp="red"')
SETTINGS = MODULE.replace("CALL", "payload_limit_bytes=1000").replace("OPTIONS", "")


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "stamped_jobs.py").write_text(MIDDLEWARE)
    (tmp_path / "limited_jobs.py").write_text(SETTINGS)
    (tmp_path / "foreign_jobs.py").write_text(
        "import dramatiq\nfrom dramatiq.brokers.stub import StubBroker\ndramatiq.set_broker(StubBroker())\n"
        "@dramatiq.actor\ndef send() -> None: ...\n"
    )
    yield
    for name in ("stamped_jobs", "limited_jobs", "foreign_jobs"):
        sys.modules.pop(name, None)


def stamps(kit: Kit, job_id: str) -> object:
    row = kit.store.get(job_id)
    assert row is not None
    return dramatiq.Message.decode(row.message).options.get("stamps")


def test_enqueue_runs_the_middleware_of_the_module_once(run: Run, kit: Kit) -> None:
    result = run("enqueue", "stamped_jobs:send", "[1]")
    assert result.exit_code == 0, result.output
    assert stamps(kit, result.stdout.strip()) == 1


def test_enqueue_keeps_its_own_settings_and_says_which_of_the_module_do_not_hold(
    run: Run, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="playbill"):
        result = run("enqueue", "limited_jobs:send", "[1]")
    assert result.exit_code == 0, result.output
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "configure.settings_ignored" in warning
    assert "payload_limit_bytes" in warning


def test_a_module_with_a_broker_of_its_own_is_told_what_to_do(run: Run) -> None:
    assert_error(run("enqueue", "foreign_jobs:send", "[]"), 2, "another broker", "remove set_broker()")


@pytest.mark.parametrize("name", ["stamped_jobs", "limited_jobs"])
def test_up_accepts_such_a_module(name: str) -> None:
    working_directory_on_path()
    require_actors([name])


def test_middleware_that_many_modules_ask_for_is_there_once(environment: None) -> None:
    # Given
    class Traced(dramatiq.Middleware): ...

    class Counted(dramatiq.Middleware): ...

    runtime = configure_command(load())
    # When
    playbill.configure(middleware=[Traced()])
    again = playbill.configure(middleware=[Traced(), Counted()])
    # Then
    assert again.broker is runtime.broker
    own = [type(item) for item in runtime.broker.middleware if isinstance(item, (Traced, Counted))]
    assert own == [Traced, Counted]


def test_a_wrong_setting_of_a_module_is_refused(environment: None) -> None:
    configure_command(load())
    with pytest.raises(playbill.ConfigurationError, match="did you mean lease_s"):
        playbill.configure(leases=1)

"""Modules that define actors, and modules that do not."""

from __future__ import annotations

import sys

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from playbill.errors import ConfigurationError
from playbill.worker.modules import load_actors

ACTOR = "import dramatiq\n@dramatiq.actor(queue_name='q')\ndef act(): ...\n"
STRANGER = (
    "import dramatiq\nfrom dramatiq.brokers.stub import StubBroker\n"
    "@dramatiq.actor(broker=StubBroker(middleware=[]))\ndef stray(): ...\n"
)
GENERIC = "import dramatiq\nclass Act(dramatiq.GenericActor):\n    def perform(self): ...\n"


@pytest.fixture
def broker(monkeypatch):
    made = StubBroker(middleware=[])
    monkeypatch.setattr(dramatiq.broker, "global_broker", made)
    return made


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes modules that are gone after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = set(sys.modules)

    def make(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
        return list(texts)

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("text", [ACTOR, GENERIC])
def test_modules_of_the_working_directory_are_found(broker, write, text):
    load_actors(write(jobs_here=text), broker)
    assert len(broker.actors) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("import no_such_thing_at_all", "ModuleNotFoundError: No module named 'no_such_thing_at_all'"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit('usage: run me')", "SystemExit: usage: run me"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_reason(broker, write, text, reason):
    with pytest.raises(ConfigurationError, match=r"module bad_one: cannot be imported: ") as caught:
        load_actors(write(good_one=ACTOR, bad_one=text), broker)
    assert reason in str(caught.value)


def test_a_module_that_does_not_exist_is_named(broker, write):
    write()
    with pytest.raises(ConfigurationError, match="module nowhere_at_all: cannot be imported: ModuleNotFoundError"):
        load_actors(["nowhere_at_all"], broker)


def test_actors_of_another_broker_would_run_untracked_and_are_refused(broker, write):
    with pytest.raises(ConfigurationError, match=r"bound to another broker.*: stray; remove set_broker"):
        load_actors(write(ours=ACTOR, theirs=STRANGER), broker)


def test_modules_without_any_actor_are_refused(broker, write):
    with pytest.raises(ConfigurationError, match="no actor is defined in empty_one, empty_two"):
        load_actors(write(empty_one="", empty_two="x = 1"), broker)

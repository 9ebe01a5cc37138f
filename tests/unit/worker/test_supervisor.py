"""What the parent of worker processes makes of what they say, and of how they end."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from playbill.settings import Settings
from playbill.worker import supervisor as module
from playbill.worker.process import EXIT_DRAINED, EXIT_REFUSED
from playbill.worker.supervisor import Supervisor, _environment, _plain
from tests.unit.worker.supervised import Clock, Process, Store


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


@pytest.fixture
def made(monkeypatch):
    """The processes started, in order."""
    Process.made = []
    monkeypatch.setattr(module.subprocess, "Popen", Process)
    monkeypatch.setattr(module, "_TICK_S", 0.0)
    yield Process.made
    for process in Process.made:
        process.close()


@pytest.fixture
def store(monkeypatch):
    found = Store()
    monkeypatch.setattr(module, "open_store", lambda _: found)
    return found


@pytest.fixture
def settings(tmp_path):
    return Settings(store_url=f"sqlite:///{tmp_path}/store.db", drain_grace_s=10)


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def supervisor(clock, made, store, settings):
    found = Supervisor(settings, queues={"q": 2}, modules=["m"], processes=2, threads=3)
    yield found
    for child in found._children:
        child.close()


@pytest.fixture
def tick(supervisor, stop):
    """One round of the supervisor, with everything that was said heard."""
    return lambda: supervisor._tick(stop)


def test_each_process_gets_its_orders_and_secrets_come_with_them(supervisor, made, tick):
    tick()
    assert len(made) == 2
    orders = made[0].orders
    assert (orders["queues"], orders["modules"], orders["threads"]) == ({"q": 2}, ["m"], 3)
    assert Settings(**orders["settings"]) == supervisor._settings


def test_settings_survive_the_way_to_a_child():
    settings = Settings(store_url="postgresql://u:p%40ss@h/d", broker_url="amqp://u:p@h/", max_memory_mb=7)
    assert Settings(**json.loads(json.dumps(_plain(settings)))) == settings


def test_a_child_finds_modules_where_its_parent_does(monkeypatch):
    monkeypatch.setattr(module.sys, "path", ["", "/a", "/b"])
    assert _environment()["PYTHONPATH"] == os.pathsep.join(["/a", "/b"])


def test_readiness_waits_for_all_and_health_for_none(supervisor, made, tick):
    tick()
    assert supervisor._unready() == "0 of 2 processes are ready"
    assert supervisor._unhealthy() is None
    made[0].say_hello()
    tick()
    assert supervisor._unready() == "1 of 2 processes are ready"
    made[1].say_hello()
    tick()
    assert supervisor._unready() is None


def test_what_a_child_says_is_understood_in_pieces(supervisor, made, tick):
    tick()
    os.write(made[0].pipe, b'{"worker": "w1"}\n{"ready": tr')
    tick()
    assert supervisor._children[0].worker_id == "w1"
    assert not supervisor._children[0].ready
    os.write(made[0].pipe, b"ue}\n")
    tick()
    assert supervisor._children[0].ready


def test_a_sick_process_is_unhealthy_until_it_says_otherwise(supervisor, made, tick):
    tick()
    made[1].say_hello()
    made[1].say(beat=True, sick="the heartbeat thread has died")
    tick()
    assert supervisor._unhealthy() == "process 101: the heartbeat thread has died"
    made[1].say(beat=True, sick=None)
    tick()
    assert supervisor._unhealthy() is None


@pytest.mark.parametrize(("ready", "silence_s"), [(True, 30.0), (False, 120.0)])
def test_a_silent_process_is_unhealthy_and_killed(supervisor, made, clock, tick, ready, silence_s):
    # Given: one that works, and one that still imports its modules
    tick()
    for process in made:
        if ready:
            process.say_hello()
    tick()
    # When: it is silent for as long as it may be
    clock.now += silence_s
    made[1].say(beat=True)
    tick()
    assert supervisor._unhealthy() is None
    # And longer
    clock.now += 0.1
    assert supervisor._unhealthy() == "process 100 is silent"
    tick()
    assert [process.signals for process in made] == [[signal.SIGKILL], []]


def test_a_process_that_leaves_is_replaced_at_once_and_drains_beside_its_successor(supervisor, made, clock, tick):
    # Given
    tick()
    for process in made:
        process.say_hello()
    tick()
    # When
    made[0].say(leaving="100 jobs done")
    tick()
    tick()
    # Then
    assert len(made) == 3
    assert made[0].signals == []
    assert supervisor._unready() == "1 of 2 processes are ready"
    # And: one that does not end after its drain is killed
    clock.now += 10 + 15
    for process in made:
        process.say(beat=True)
    tick()
    assert made[0].signals == []
    clock.now += 0.1
    tick()
    assert made[0].signals == [signal.SIGKILL]
    assert made[1].signals == made[2].signals == []


def test_a_process_that_has_drained_was_no_accident(supervisor, made, store, tick):
    tick()
    made[0].say_hello()
    made[0].end(EXIT_DRAINED)
    tick()
    tick()
    assert store.ended == {}
    assert len(made) == 3


@pytest.mark.parametrize(
    ("code", "kills", "reason"),
    [
        (-signal.SIGKILL, 0, "killed by SIGKILL"),
        (-signal.SIGKILL, 1, "killed by SIGKILL, out of memory"),
        (-signal.SIGSEGV, 0, "killed by SIGSEGV"),
        (1, 0, "exited with code 1"),
    ],
)
def test_the_store_is_told_at_once_how_a_process_died(supervisor, made, store, tick, monkeypatch, code, kills, reason):
    # Given: a machine on which others were killed for want of memory before
    supervisor._oom_kills = 5
    monkeypatch.setattr(module, "oom_kills", lambda: 5 + kills)
    tick()
    made[0].say_hello()
    # When
    made[0].end(code)
    tick()
    # Then
    assert store.ended == {"w100": reason}


def test_a_process_that_died_before_it_was_a_worker_leaves_nothing_to_tell(supervisor, made, store, tick):
    tick()
    made[0].end(1)
    tick()
    assert store.ended == {}


def test_processes_that_die_again_and_again_are_started_ever_later(supervisor, made, clock, tick):
    # Given
    tick()
    pauses = []
    for _ in range(10):
        # When: one dies soon
        made[-1].end(1)
        tick()
        # Then: its successor waits
        before, began = len(made), clock.now
        tick()
        while len(made) == before:
            clock.now += 0.5
            made[0].say(beat=True)
            tick()
        pauses.append(clock.now - began)
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    # And: a long life makes up for it
    clock.now += 61
    for process in (made[0], made[-1]):
        process.say(beat=True)
    tick()
    before = len(made)
    made[-1].end(1)
    tick()
    tick()
    assert len(made) == before + 1


def test_a_refusal_ends_them_all_with_its_reason(supervisor, made, stop, tick, capsys):
    # Given
    tick()
    # When
    made[0].say(refused="module m: cannot be imported")
    made[0].end(EXIT_REFUSED)
    tick()
    # Then
    assert stop.is_set()
    assert capsys.readouterr().err == "error: module m: cannot be imported\n"
    tick()
    assert made[1].signals == [signal.SIGTERM]
    made[1].end(EXIT_DRAINED)
    assert supervisor.run(stop) == EXIT_REFUSED
    assert len(made) == 2


def test_a_refusal_is_the_verdict_whatever_becomes_of_the_others(supervisor, made, stop, tick):
    # Given: a process that has refused, and another that still starts
    tick()
    made[0].end(EXIT_REFUSED)
    tick()
    # When: our own signal ends that one before it can drain
    tick()
    assert made[1].signals == [signal.SIGTERM]
    made[1].end(-signal.SIGTERM)
    # Then
    assert supervisor.run(stop) == EXIT_REFUSED


def test_a_process_that_is_stopped_while_it_starts_has_lost_nothing(supervisor, made, stop, tick):
    # Given: none of them knows any signals yet
    tick()
    # When
    stop.set()
    tick()
    for process in made:
        process.end(-signal.SIGTERM)
    # Then
    assert supervisor.run(stop) == 0


def test_a_stop_drains_all_and_kills_what_does_not_end(supervisor, made, clock, stop, tick):
    # Given
    tick()
    for process in made:
        process.say_hello()
    tick()
    # When
    stop.set()
    tick()
    tick()
    assert [process.signals for process in made] == [[signal.SIGTERM]] * 2  # once
    made[0].end(EXIT_DRAINED)
    clock.now += 10 + 15
    tick()
    assert made[1].signals == [signal.SIGTERM]
    clock.now += 0.1
    tick()
    # Then: nobody takes their place, and it was no clean stop
    assert made[1].signals == [signal.SIGTERM, signal.SIGKILL]
    made[1].end(-signal.SIGKILL)
    assert supervisor.run(stop) == 1
    assert len(made) == 2

"""Dropped messages are said at once, then counted."""

from __future__ import annotations

import logging

import pytest

from playbill.broker.rabbitmq.losses import INTERVAL_S, LossLog
from playbill.broker.rabbitmq.quiet import THREAD_PREFIX, quieten_pika


def test_the_first_loss_is_said_at_once_and_the_next_ones_together(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    losses = LossLog(lambda: now)
    losses.note(0, "nothing")
    losses.note(3, "full")
    losses.note(4, "full")
    losses.note(1, "refused")
    now = INTERVAL_S
    losses.note(5, "full")
    losses.note(2, "full")
    losses.say_rest()
    losses.say_rest()
    said = [(line.split("messages=")[1].split()[0], "full" in line) for line in caplog.messages]
    assert said == [("3", True), ("1", False), ("9", True), ("2", True)]


def test_pika_is_silenced_on_our_threads_only(caplog: pytest.LogCaptureFixture) -> None:
    quieten_pika()
    logger = logging.getLogger("pika.connection")

    def record(thread: str) -> logging.LogRecord:
        found = logger.makeRecord(logger.name, logging.ERROR, "file", 1, "lost", (), None)
        found.threadName = thread
        return found

    logger.handle(record(f"{THREAD_PREFIX}intake"))
    assert not caplog.records
    logger.handle(record("somebody else's"))
    assert len(caplog.records) == 1
    with caplog.at_level(logging.DEBUG, "pika"):
        logger.handle(record(f"{THREAD_PREFIX}intake"))
    assert len(caplog.records) == 2

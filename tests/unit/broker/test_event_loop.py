"""The loop of async actors ends with its worker, whatever runs on it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from dramatiq.asyncio import EventLoopThread, get_event_loop_thread

from playbill.broker.middleware import EventLoopMiddleware

NOBODY: Any = None


@pytest.fixture
def middleware() -> Iterator[EventLoopMiddleware]:
    made = EventLoopMiddleware()
    made.before_worker_boot(NOBODY, NOBODY)
    yield made
    made.after_worker_shutdown(NOBODY, NOBODY)


@pytest.fixture
def loop(middleware: EventLoopMiddleware) -> EventLoopThread:
    found = get_event_loop_thread()
    assert found is not None
    return found


def test_what_still_runs_is_cancelled(middleware: EventLoopMiddleware, loop: EventLoopThread) -> None:
    # Given
    ended = threading.Event()

    async def for_ever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    asyncio.run_coroutine_threadsafe(for_ever(), loop.loop)
    # When
    middleware.after_worker_shutdown(NOBODY, NOBODY)
    # Then
    assert ended.is_set()
    assert not loop.is_alive()
    assert get_event_loop_thread() is None


def test_a_coroutine_that_blocks_is_left_behind(middleware: EventLoopMiddleware, loop: EventLoopThread) -> None:
    # Given
    running, go_on = threading.Event(), threading.Event()

    async def block() -> None:
        running.set()
        go_on.wait(60)

    asyncio.run_coroutine_threadsafe(block(), loop.loop)
    assert running.wait(10)
    # When
    middleware.after_worker_shutdown(NOBODY, NOBODY)
    # Then: it keeps no process from ending, and the loop ends once it goes on
    assert loop.is_alive()
    assert loop.daemon
    go_on.set()
    loop.join(10)
    assert not loop.is_alive()


def test_without_a_loop_there_is_nothing_to_end(middleware: EventLoopMiddleware) -> None:
    middleware.after_worker_shutdown(NOBODY, NOBODY)
    middleware.after_worker_shutdown(NOBODY, NOBODY)

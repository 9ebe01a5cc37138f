"""What services call, where they call it in a wrong way."""

from __future__ import annotations

import asyncio
import math
import uuid
import warnings
from datetime import timedelta
from typing import Any

import dramatiq
import pytest

import playbill
from playbill.broker.loop import BlockingEnqueueWarning
from playbill.testing import Harness


@pytest.fixture
def actor(playbill_manual: Harness) -> Any:
    return dramatiq.actor(lambda number: number, actor_name=f"noop-{uuid.uuid4().hex}")


@pytest.mark.parametrize("option", ["tenant", "tags"])
def test_zero_is_not_taken_for_an_option_that_was_left_out(playbill_manual: Harness, actor: Any, option: str) -> None:
    with pytest.raises(playbill.InvalidInputError, match=f"{option}: 0 is not"):
        playbill.enqueue(actor, 1, **{option: 0})
    assert playbill_manual.jobs() == []


def test_none_is(playbill_manual: Harness, actor: Any) -> None:
    row = playbill.enqueue(actor, 1, tenant=None, tags=None, priority=None).row
    assert (row.tenant, row.tags, row.priority) == ("", (), 5)


def test_one_job_is_no_list_of_jobs(playbill_manual: Harness, actor: Any) -> None:
    for single in (actor.message(1), playbill.job(actor, 1), None):
        with pytest.raises(playbill.InvalidInputError, match=r"jobs: .* is no list of jobs"):
            playbill.enqueue_many(single)
        with pytest.raises(playbill.InvalidInputError, match=r"jobs: .* is no list of jobs"):
            asyncio.run(playbill.aenqueue_many(single))


@pytest.mark.parametrize("timeout", ["30", math.nan, True, [1]])
def test_a_timeout_that_is_no_time_is_refused(playbill_manual: Harness, actor: Any, timeout: Any) -> None:
    with pytest.raises(playbill.InvalidInputError, match="timeout"):
        playbill.enqueue(actor, 1).wait(timeout)


@pytest.mark.parametrize("timeout", [0, 0.001, timedelta(milliseconds=1)])
def test_a_timeout_is_seconds_or_a_timedelta(playbill_manual: Harness, actor: Any, timeout: Any) -> None:
    with pytest.raises(playbill.WaitTimeout):
        playbill.enqueue(actor, 1).wait(timeout)


def blocked(enqueue: Any) -> warnings.WarningMessage:
    async def service() -> None:
        enqueue()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(service())
    (warning,) = [one for one in caught if one.category is BlockingEnqueueWarning]
    return warning


def test_the_warning_of_a_blocked_loop_points_at_the_line_that_enqueues(playbill_manual: Harness, actor: Any) -> None:
    ways = [
        lambda: actor.send(1),
        lambda: actor.send_with_options(args=(1,), delay=5),
        lambda: playbill.enqueue(actor, 1),
        lambda: playbill.enqueue_many([actor.message(1)]),
        lambda: dramatiq.group([actor.message(1)]).run(),
    ]
    for number, way in enumerate(ways):
        warning = blocked(way)
        assert (warning.filename, warning.lineno) == (__file__, ways[0].__code__.co_firstlineno + number)

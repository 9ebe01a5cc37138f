"""From a message to a row: what is refused, and what is noted about secrets."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import dramatiq
import pytest

import playbill
from playbill.testing import Harness


def declared(**options: Any) -> str:
    """Name of a new actor; those of other tests may still be around."""
    actor = dramatiq.actor(lambda number: number, actor_name=f"sent-{uuid.uuid4().hex}", **options)
    return str(actor.actor_name)


def message(actor: str, **fields: Any) -> dramatiq.Message[Any]:
    return dramatiq.Message(
        **{"queue_name": "default", "actor_name": actor, "args": (1,), "kwargs": {}, "options": {}} | fields
    )


@pytest.mark.parametrize("job_id", ["x" * 256, "ü" * 128, "", 7])
def test_an_id_that_rabbitmq_cannot_carry_is_refused(playbill_manual: Harness, job_id: Any) -> None:
    actor = declared()
    with pytest.raises(playbill.InvalidInputError, match="255 bytes"):
        playbill.enqueue(message(actor, message_id=job_id))
    assert playbill.enqueue(message(actor, message_id="x" * 255)).id == "x" * 255


def test_a_queue_name_that_rabbitmq_cannot_carry_is_refused_at_the_declaration(playbill_manual: Harness) -> None:
    with pytest.raises(playbill.InvalidInputError, match="limit of 200"):
        declared(queue_name="q" * 201)
    declared(queue_name="q" * 200)


def test_a_follow_up_for_such_a_queue_is_refused_too(playbill_inline: Harness) -> None:
    # Given a pipeline into a queue that nobody could declare
    actor = declared()
    target = message(actor, queue_name="q" * 201).asdict()
    # When it gets there
    job = playbill.enqueue(message(actor, options={"pipe_target": target}))
    # Then the first job says so
    with pytest.raises(playbill.JobFailed, match="limit of 200"):
        job.wait(0)


def test_the_secrets_of_what_follows_a_job_are_noted_in_it(playbill_manual: Harness) -> None:
    # Given an actor with a secret argument, at the end of a pipeline and of a group
    @dramatiq.actor(sensitive=["code"])
    def login(user: str, code: str) -> None: ...

    @dramatiq.actor
    def plain() -> None: ...

    pipeline = plain.message() | plain.message() | login.message("ann", "s3cret")
    # When they are enqueued
    playbill.enqueue(pipeline.messages[0])
    group = dramatiq.group([plain.message()])
    group.add_completion_callback(login.message("bob", code="s3cret"))
    group.run()
    # Then their messages say where in them the secrets are
    first, member = (dramatiq.Message.decode(row.message) for row in playbill_manual.jobs())
    assert first.options["pipe_target"]["options"]["pipe_target"]["options"]["sensitive"] == [1, "code"]
    assert member.options["group_completion_callbacks"][0]["options"]["sensitive"] == ["code"]


@pytest.mark.parametrize(("level", "lines"), [(logging.DEBUG, 2), (logging.INFO, 0)])
def test_an_enqueue_is_logged_where_debug_is_wanted(
    playbill_manual: Harness, caplog: pytest.LogCaptureFixture, level: int, lines: int
) -> None:
    actor = declared()
    with caplog.at_level(level, logger="playbill"):
        playbill.enqueue(message(actor), key="k")
        playbill.enqueue(message(actor), key="k")  # answers the first, so nothing is enqueued
        playbill.enqueue(message(actor))
    assert sum("job.enqueued" in record.getMessage() for record in caplog.records) == lines

"""From a message to a row: what is refused, and what is noted about secrets."""

from __future__ import annotations

import logging
import math
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


@pytest.mark.parametrize("options", [{"max_retries": -1}, {"max_retries": "many"}, {"time_limit": "abc"}])
def test_an_actor_with_an_option_that_means_nothing_is_refused_by_name(
    playbill_manual: Harness, options: dict[str, Any]
) -> None:
    (option,) = options
    with pytest.raises(playbill.InvalidInputError, match=f"actor sent-.*: {option}: "):
        declared(**options)


@pytest.mark.parametrize("options", [{"max_retries": 2.5}, {"max_retries": math.nan}, {"max_age": math.nan}])
def test_a_message_with_an_option_that_means_nothing_is_refused(
    playbill_manual: Harness, options: dict[str, Any]
) -> None:
    actor = declared()
    with pytest.raises(playbill.InvalidInputError, match=next(iter(options))):
        playbill.enqueue(message(actor, options=options))
    assert playbill_manual.jobs() == []


@pytest.mark.parametrize("delay", [10**15, 10**18, "10m", math.nan, True, -1])
def test_a_delay_that_enqueue_refuses_is_refused_by_send_too(playbill_manual: Harness, delay: Any) -> None:
    actor = playbill_manual.broker.actors[declared()]
    with pytest.raises(playbill.InvalidInputError, match="delay"):
        actor.send_with_options(args=(1,), delay=delay)
    assert playbill_manual.jobs() == []


def test_a_follow_up_with_such_a_delay_fails_its_job(playbill_inline: Harness) -> None:
    # Given a middleware that enqueues, after the actor has run, with a delay of a million years
    actor = declared()

    class Following(dramatiq.Middleware):
        def after_process_message(
            self, broker: Any, message: Any, *, result: Any = None, exception: Any = None
        ) -> None:
            broker.enqueue(dramatiq.Message("default", actor, (1,), {}, {}), delay=10**17)

    playbill_inline.broker.add_middleware(Following())
    # When, Then
    with pytest.raises(playbill.JobFailed, match="3650d"):
        playbill.enqueue(message(actor)).wait(0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_arguments_that_json_cannot_write_are_refused(playbill_manual: Harness, number: float) -> None:
    actor = declared()
    with pytest.raises(playbill.InvalidInputError, match=r"args\[1\]: NaN and infinities are no JSON"):
        playbill.enqueue(message(actor, args=("NaN", {"price": [number]})))
    with pytest.raises(playbill.InvalidInputError, match=r"kwargs\.price"):
        playbill.enqueue(message(actor, kwargs={"price": number}))
    follower = message(actor, args=(number,)).asdict()
    with pytest.raises(playbill.InvalidInputError, match=r"args\[0\]"):
        playbill.enqueue(message(actor, options={"pipe_target": follower}))
    assert playbill_manual.jobs() == []


def test_words_and_options_are_no_such_arguments(playbill_manual: Harness) -> None:
    actor = declared()
    playbill.enqueue(message(actor, args=("NaN", "Infinity"), options={"time_limit": math.inf}))
    assert len(playbill_manual.jobs()) == 1


def test_an_encoder_of_the_users_own_may_carry_them(playbill_manual: Harness) -> None:
    actor, before = declared(), dramatiq.get_encoder()
    dramatiq.set_encoder(dramatiq.PickleEncoder())
    try:
        playbill.enqueue(message(actor, args=(math.nan, "NaN")))
    finally:
        dramatiq.set_encoder(before)


@pytest.mark.parametrize("option", ["on_success", "on_failure", "on_retry_exhausted"])
def test_a_callback_that_no_actor_answers_to_is_refused(playbill_manual: Harness, option: str) -> None:
    actor, other = declared(), declared(**{option: "nope"})
    with pytest.raises(playbill.InvalidInputError, match=f"{option}: no actor 'nope'"):
        playbill.enqueue(message(actor, options={option: "nope"}))
    with pytest.raises(playbill.InvalidInputError, match=f"{option}: no actor 'nope'"):
        playbill.enqueue(message(other))
    assert playbill_manual.jobs() == []
    playbill.enqueue(message(actor, options={option: actor}))


def test_an_actor_may_name_a_callback_that_is_declared_after_it(playbill_manual: Harness) -> None:
    name = f"later-{uuid.uuid4().hex}"
    actor = declared(on_success=name)
    dramatiq.actor(lambda message, result: None, actor_name=name)
    playbill.enqueue(message(actor))
    assert len(playbill_manual.jobs()) == 1

"""One attempt of a job: begun, run under its deadlines, judged, and turned into a finish."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.errors import Retry
from dramatiq.middleware import Interrupt, Shutdown, SkipMessage

from playbill import context as contexts
from playbill.broker.new_job import OPTION_GROUP, OPTION_GROUP_CALLBACKS, OPTION_SENSITIVE, OPTION_TRACE
from playbill.context import JobContext
from playbill.errors import FenceLostError, JobCancelled, PlaybillError
from playbill.observe import events
from playbill.observe.log import bind_job, get_logger, unbind_job
from playbill.observe.redact import mask_forms, message_secrets, text_forms
from playbill.observe.trace import attempt_span, trace_id_of
from playbill.policy.resolve import EffectivePolicy
from playbill.policy.retry import decide_retry, error_types
from playbill.store.values import Claimed, ErrorRecord, Finish, NewJob, Outcome
from playbill.worker.interrupts import CancelInterrupt, InterruptGuard, LeaseLostInterrupt

if TYPE_CHECKING:
    from playbill.worker.session import WorkerSession

log = get_logger(__name__)

_TRACEBACK_FRAMES = 30
_TRACEBACK_CHARS = 8_000
_MESSAGE_CHARS = 2_000


class JobProxy(dramatiq.MessageProxy):  # type: ignore[misc, unused-ignore]
    """A claimed message on its way through Dramatiq's worker."""

    def __init__(self, message: dramatiq.Message[Any], attempt: Attempt) -> None:
        # Dramatiq's worker would keep a message with an eta until then; a claimed job is due.
        message.options.pop("eta", None)
        super().__init__(message)
        self.attempt = attempt

    def __str__(self) -> str:
        # Dramatiq logs this; arguments may be secret.
        return f"{self.actor_name}[{self.message_id}]"


class Attempt:
    """An attempt, from claim to finish. Every method but the watchdog's runs in the thread of the actor.

    Args:
        claimed: The job, as the store gave it.
        message: Its message.
        session: The worker.
        worker: Id under whose lease the job was claimed.
    """

    def __init__(
        self, claimed: Claimed, message: dramatiq.Message[Any], session: WorkerSession, *, worker: str
    ) -> None:
        self.claimed = claimed
        self.worker = worker
        self.message = JobProxy(message, self)
        self.policy: EffectivePolicy = session.policies.of(message)
        self.finish: Finish | None = None
        self.concluded = False
        #: The process ends because of this attempt: its thread may go on, what it says is not heard.
        self.abandoned = False
        self.completed = False
        self.final_failure = False
        self.retries_exhausted = False
        self.started_at: float | None = None
        self.soft_at: float | None = None
        self.hard_at: float | None = None
        self.cancel_seen_at: float | None = None
        self.lost_seen_at: float | None = None
        self.interrupts = InterruptGuard()
        self._session = session
        self._end = threading.Lock()
        self._outcome: Outcome | None = None  #: None until there is a verdict
        self._wait_reason: str | None = None
        self._delay_s = 0.0
        self._error: ErrorRecord | None = None
        self._result: str | None = None
        self._exception: BaseException | None = None
        self._secrets = _secrets(message)
        self._span: attempt_span | None = None
        self.context = JobContext(
            claimed, store=session.store, progress=session.finisher.progress, guard=self._run_guarded
        )

    # -- called by the middleware --------------------------------------------------------------------------------
    def begin(self) -> None:
        """Make the job the thread's current one; refuse it if it waited too long, or if others may have it by now.

        Raises:
            SkipMessage: It does not run; nothing else, for Dramatiq would run it in spite of another error.
        """
        try:
            self._begin()
        except SkipMessage:
            raise
        except Exception as error:
            log.exception(events.JOB_FAILED, error="InvalidMessage")
            self._error = ErrorRecord("InvalidMessage", self._clean(f"cannot begin: {type(error).__name__}: {error}"))
            self.message.fail()
            raise SkipMessage("the attempt cannot begin") from error

    def _begin(self) -> None:
        self.started_at = time.monotonic()
        self._session.begun(self)
        options = self.message.options
        traceparent = options.get(OPTION_TRACE)
        claimed = self.claimed
        contexts.enter(self.context)
        bind_job(
            claimed.id, claimed.attempt, claimed.actor, claimed.queue, trace_id_of(traceparent), secrets=self._secrets
        )
        self._span = attempt_span(f"run {claimed.actor}", traceparent, {"messaging.message.id": claimed.id})
        self._span.__enter__()
        if _debugging():
            log.debug(events.JOB_STARTED)
        if not self._session.holds(self):
            self._outcome, self._wait_reason = Outcome.RELEASE, "given back: its worker had lost its lease"
            raise SkipMessage("the lease is lost")
        max_age_s = self.policy.max_age_s
        if max_age_s is not None and (claimed.started_at - claimed.run_at).total_seconds() > max_age_s:
            self._error = ErrorRecord("Expired", f"waited longer than its max age of {max_age_s:g} s")
            self.message.fail()
            raise SkipMessage("max age exceeded")

    @property
    def error(self) -> ErrorRecord | None:
        """Why the attempt failed, without secrets."""
        return self._error

    def judge(self, result: Any, exception: BaseException | None) -> None:
        """Decide what becomes of the job. Never raises: without a verdict, Dramatiq would go on as if all were well."""
        self._exception = exception
        try:
            self._judge(result, exception)
        except Exception as error:
            log.exception(events.JOB_FAILED, error="VerdictError")
            self._fail("VerdictError", f"{type(error).__name__} while its end was judged; see the worker's log")

    def _judge(self, result: Any, exception: BaseException | None) -> None:
        if exception is None:
            # Before the callbacks and pipelines are asked: a result that cannot be kept is a failure to them, too.
            self._result = self._encode(result)
            if self._outcome is None:
                self._outcome, self.completed = Outcome.COMPLETED, True
        elif self.context.lost or isinstance(exception, (FenceLostError, LeaseLostInterrupt)):
            # By its fence, so this does nothing where others have the job already.
            self.context.lost = True
            self._outcome, self._wait_reason = Outcome.RELEASE, "given back: its worker had lost it"
        elif self.context.cancelled and isinstance(exception, (JobCancelled, CancelInterrupt)):
            self._outcome = Outcome.CANCELLED
        elif isinstance(exception, Shutdown):
            self._outcome = Outcome.RELEASE
        else:
            self._judge_failure(exception)

    def conclude(self) -> None:
        """Turn all that into a finish; the consumer hands it on when Dramatiq acknowledges the message."""
        try:
            self.finish = self._make_finish()
            if self._outcome is Outcome.COMPLETED and _debugging():
                log.debug(events.JOB_COMPLETED, run_ms=round(self.finish.run_ms, 3))
            elif self._outcome is Outcome.CANCELLED:
                log.info(events.JOB_CANCELLED)
        finally:
            self._leave()

    def skipped(self) -> None:
        """A middleware skipped the message: failed if it said so, else done without a result."""
        try:
            if self.message.failed:
                self._outcome = Outcome.FAILED
                self._error = self._error or ErrorRecord("Skipped", "a middleware skipped and failed the message")
            elif self._outcome is None:
                self._outcome = Outcome.COMPLETED
            self.finish = self._make_finish()
        finally:
            self._leave()

    def may_end(self) -> bool:
        """True once: of all who would end this attempt (its thread, the watchdog, a drain) one hands in a finish."""
        return self._end.acquire(blocking=False)

    def let_go(self) -> None:
        """Break the circles between attempt, message and context: memory is then free without a garbage collection."""
        self.context.guard = None
        self._exception = None
        self.message.__dict__.pop("attempt", None)

    # -- called by the watchdog ----------------------------------------------------------------------------------
    def failure(self, kind: str, reason: str) -> Finish:
        """A finish for an attempt that does not stop by itself: failed, or to be retried, by policy."""
        decision = decide_retry(self.policy.retry, attempt=self.claimed.attempt, error_types=(kind,), u=random.random())
        return self._finish(
            Outcome.RETRY if decision.retry else Outcome.FAILED,
            delay_s=decision.delay_s,
            error=ErrorRecord(kind, reason),
        )

    def ended(self, outcome: Outcome, reason: str | None = None) -> Finish:
        """A finish without a verdict: cancelled by force, or released."""
        return self._finish(outcome, wait_reason=reason)

    # -- inside --------------------------------------------------------------------------------------------------
    def _run_guarded(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        limit_s = self.policy.time_limit_s
        if limit_s is not None:
            now = time.monotonic()
            self.soft_at, self.hard_at = now + limit_s, now + limit_s + self.policy.time_limit_grace_s
        try:
            return self.interrupts.run(fn, args, kwargs)
        finally:
            self.soft_at = self.hard_at = None
            # From here on, what is enqueued is a follow-up of this attempt.
            self.context.follow_ups = []

    def _judge_failure(self, exception: BaseException) -> None:
        self._error = self._record(exception)
        retry_when = self.policy.retry_when
        decision = decide_retry(
            self.policy.retry,
            attempt=self.claimed.attempt,
            error_types=error_types(exception),
            u=random.random(),
            wanted=bool(retry_when(self.claimed.attempt - 1, exception)) if retry_when is not None else None,
            requested_delay_s=_requested_delay_s(exception),
        )
        self.message.options["retries"] = self.claimed.attempt - 1
        if decision.retry:
            self._outcome, self._delay_s = Outcome.RETRY, decision.delay_s
            log.warning(
                events.JOB_RETRYING, error=self._error.type, delay_s=round(decision.delay_s, 3), reason=decision.reason
            )
        else:
            self._outcome = Outcome.FAILED
            self.final_failure = True
            self.retries_exhausted = decision.exhausted
            log.error(events.JOB_FAILED, error=self._error.type, reason=decision.reason)

    def _record(self, exception: BaseException) -> ErrorRecord:
        text = "".join(traceback.format_exception(exception, limit=-_TRACEBACK_FRAMES))[-_TRACEBACK_CHARS:]
        return ErrorRecord(type(exception).__name__, self._clean(_text(exception))[:_MESSAGE_CHARS], self._clean(text))

    def _clean(self, text: str) -> str:
        """Without secret arguments, and without NUL, which PostgreSQL refuses in text."""
        return mask_forms(text, self._secrets).replace("\x00", "\\x00")

    def _make_finish(self) -> Finish:
        if self._outcome is None:
            return self.failure("MiddlewareError", "a middleware failed; see the worker's log")
        follow_ups = self._follow_ups()
        group = self.message.options.get(OPTION_GROUP) if self._outcome is Outcome.COMPLETED else None
        return self._finish(
            self._outcome,
            delay_s=self._delay_s,
            result=self._result if self._outcome is Outcome.COMPLETED else None,
            error=self._error,
            wait_reason=self._wait_reason,
            follow_ups=follow_ups,
            group=group,
            group_callbacks=self._group_callbacks() if group else (),
        )

    def _finish(self, outcome: Outcome, **fields: Any) -> Finish:
        claimed = self.claimed
        begun = self.started_at
        return Finish(
            id=claimed.id,
            epoch=claimed.epoch,
            token=claimed.token,
            outcome=outcome,
            queue=claimed.queue,
            actor=claimed.actor,
            wait_ms=max(0.0, (claimed.started_at - claimed.run_at).total_seconds() * 1000),
            run_ms=(time.monotonic() - begun) * 1000 if begun is not None else 0.0,
            done=self.context.done or None,
            total=self.context.total,
            policy_version=self._session.policies.version,
            **fields,
        )

    def _encode(self, result: Any) -> str | None:
        if result is None or not self.policy.store_results:
            return None
        try:
            text = json.dumps(result, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            self._fail("ResultNotSerializable", f"the result of {self.claimed.actor} is no JSON: {error}")
            return None
        limit = self._session.settings.result_limit_bytes
        size = len(text.encode())
        if size > limit:
            self._fail(
                "ResultTooLarge",
                f"the result has {size} bytes, over the limit of {limit}; store it elsewhere and return a reference",
            )
            return None
        return text

    def _fail(self, kind: str, reason: str) -> None:
        """Fail for good although the actor returned."""
        self._outcome = Outcome.FAILED
        self.completed, self.final_failure = False, True
        self._error = ErrorRecord(kind, self._clean(reason))
        log.error(events.JOB_FAILED, error=kind, reason=reason)

    def _follow_ups(self) -> tuple[NewJob, ...]:
        gathered: list[Any] = self.context.follow_ups or []
        errors = [item for item in gathered if isinstance(item, PlaybillError)]
        if errors:
            self._fail("FollowUpRefused", f"the actor ran, but what follows it was refused: {errors[0]}")
            return ()
        return tuple(gathered)

    def _group_callbacks(self) -> tuple[NewJob, ...]:
        options = self.message.options
        gathered: list[Any] = []
        self.context.follow_ups = gathered
        for callback in options.get(OPTION_GROUP_CALLBACKS) or ():
            self._session.broker.enqueue(dramatiq.Message(**callback))
        return tuple(item for item in gathered if isinstance(item, NewJob))

    def _leave(self) -> None:
        self.concluded = True
        if self._span is not None:
            error = self._exception if not isinstance(self._exception, Interrupt) else None
            self._span.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        contexts.enter(None)
        unbind_job()


def _debugging() -> bool:
    """Asked before an event of every job is made, which costs ten times as much as the question."""
    return logging.getLogger(__name__).isEnabledFor(logging.DEBUG)


def _text(exception: BaseException) -> str:
    try:
        return str(exception)
    except Exception:  # noqa: BLE001 - an exception's own ``__str__`` may raise anything
        return "its text cannot be had: __str__ raised"


def _requested_delay_s(exception: BaseException) -> float | None:
    if isinstance(exception, Retry) and exception.delay is not None:
        return float(exception.delay) / 1000
    return None


def _secrets(message: dramatiq.Message[Any]) -> tuple[str, ...]:
    values = (*message.args, *message.kwargs.values(), *message.options.values())
    if OPTION_SENSITIVE not in message.options and not any(isinstance(value, dict | list) for value in values):
        return ()  # nearly all messages; the walk below costs as much as a short job
    return text_forms(message_secrets(message.asdict()))

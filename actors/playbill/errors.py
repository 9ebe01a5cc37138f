"""The error tree of the library: every error that Playbill raises on purpose is a :class:`PlaybillError`.

Foreign errors (database, broker, validation) are translated where they are met, so callers catch one family.
"""

from __future__ import annotations


class PlaybillError(Exception):
    """Base of all errors of the library.

    Attributes:
        retryable: Whether the same call may succeed later without a change by the caller.
    """

    retryable: bool = False


class ConfigurationError(PlaybillError):
    """A setting, URL or file is wrong; the message names it, its value and the remedy."""


class InvalidInputError(PlaybillError, ValueError):
    """An argument was refused before anything was written.

    Attributes:
        field: Path of the refused field, for example ``delay`` or ``spec.retry.maxAttempts``.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class PayloadTooLargeError(InvalidInputError):
    """The encoded message is over ``payload_limit_bytes``."""


class ForeignSessionError(PlaybillError):
    """The session given belongs to another database than Playbill's store, so nothing can be atomic with it."""


class JobNotFoundError(PlaybillError, LookupError):
    """No job has this id, neither live nor in the archive."""


class StoreError(PlaybillError):
    """The store refused or failed."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached now; nothing was accepted."""

    retryable = True


class StoreFullError(StoreError):
    """The store's disk is full: nothing was written, and the same call succeeds once there is room."""

    retryable = True


class StoreNotMigratedError(StoreError):
    """The store has no tables yet or an older schema; run ``playbill migrate``."""


class StoreTooNewError(StoreError):
    """The store needs newer code than this (``minCode``); upgrade Playbill in this process."""


class PolicyConflictError(StoreError):
    """A policy was changed by somebody else meanwhile, or belongs to another owner."""


class BrokerUnavailableError(PlaybillError):
    """RabbitMQ cannot be reached now."""

    retryable = True


class JobError(PlaybillError):
    """How a job ended, for those who wait for it.

    Attributes:
        job_id: The job.
    """

    def __init__(self, job_id: str, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobFailed(JobError):  # noqa: N818 - an outcome, named as users name it
    """The job failed for good.

    Attributes:
        error_type: Class name of the last exception, or a reason such as ``TimeLimitExceeded``.
    """

    def __init__(self, job_id: str, error_type: str, message: str) -> None:
        super().__init__(job_id, f"job {job_id} failed: {error_type}: {message}")
        self.error_type = error_type
        self.error_message = message


class JobCancelled(JobError):  # noqa: N818 - an outcome, named as users name it
    """The job was cancelled; raised to waiters, and inside the job at its next checkpoint."""


class WaitTimeout(JobError, TimeoutError):  # noqa: N818 - an outcome, named as users name it
    """The job did not end within the time given to ``wait``."""


class FenceLostError(PlaybillError):
    """This attempt no longer owns its job (rescued, cancelled or finished elsewhere): roll back and stop."""

"""The JobQueue resource, ``playbill.dev/v1alpha1``: policy of one queue, as its owner writes it.

Names are camelCase in YAML and snake_case in Python. Unknown fields are errors. Durations are seconds in Python.
A field that the author leaves out, or sets to null, is not set: then the actor's own option or the default holds.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from playbill.spec.duration import Duration, PositiveDuration, format_duration

API_VERSION = "playbill.dev/v1alpha1"
KIND = "JobQueue"
MAX_QUEUE_NAME = 200

#: Dramatiq's own rule for queue names.
_QUEUE_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9._-]*")
#: Suffixes that Dramatiq takes off a queue's name, so two names would be one queue.
_TAKEN_SUFFIXES = (".DQ", ".XQ")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def queue_name_problem(name: str) -> str | None:
    """What is wrong with a queue's name, with the remedy; None if nothing is."""
    if not _QUEUE_NAME.fullmatch(name):
        return f"{name!r} is not a queue name; begin with a letter or _, go on with letters, digits, . _ -"
    if len(name) > MAX_QUEUE_NAME:
        return f"the queue name has {len(name)} characters; use {MAX_QUEUE_NAME} or fewer"
    if name.endswith(_TAKEN_SUFFIXES):
        return f"{name!r} ends with .DQ or .XQ, which Dramatiq keeps for itself; choose another name"
    return None


def _problem(text: str) -> PydanticCustomError:
    return PydanticCustomError("jobqueue", "{problem}", {"problem": text})


def _queue_name(name: str) -> str:
    if (problem := queue_name_problem(name)) is not None:
        raise _problem(problem)
    return name


def _dns_label(name: str) -> str:
    if len(name) > 63 or not _LABEL.fullmatch(name):
        raise _problem(f"{name!r} is not an object name; use up to 63 of a-z, 0-9 and -, no - at the ends")
    return name


def _dotted(name: str) -> str:
    if not _DOTTED.fullmatch(name):
        raise _problem(f"{name!r} is not a dotted Python name such as ValueError or package.module")
    return name


DnsLabel = Annotated[str, AfterValidator(_dns_label)]
DottedName = Annotated[str, AfterValidator(_dotted)]
Count = Annotated[int, Field(strict=True, ge=1)]


class SpecModel(BaseModel):
    """Base of all parts: frozen, strict about names, camelCase outside."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


class Metadata(SpecModel):
    """Who the object is."""

    name: DnsLabel
    """Name of the object: a DNS-1123 label."""
    namespace: DnsLabel | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Queue(SpecModel):
    """Which queue the policy is about."""

    name: Annotated[str, AfterValidator(_queue_name)] | None = None
    """Name of the queue; none: the object's name."""


class Workers(SpecModel):
    """The processes that work on the queue. A worker's concurrency is processes x threads."""

    modules: tuple[DottedName, ...] = ()
    """Python modules with the actors."""
    processes: Count = 1
    threads: Count = 5
    drain_grace: Duration = 60.0
    """How long running jobs may go on after SIGTERM before they are released."""


class Scaling(SpecModel):
    """How many workers there are."""

    min_replicas: Annotated[int, Field(strict=True, ge=0)] = 0


class Backoff(SpecModel):
    """The delay before the next attempt."""

    strategy: Literal["exponential", "linear", "fixed"] = "exponential"
    """exponential: doubles each time; linear: grows by initial each time; fixed: always initial."""
    initial: Duration = 15.0
    max: Duration = 600.0
    """No delay is longer, jitter included."""
    jitter: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.2
    """Spreads a delay d evenly over d x (1 - jitter) to d x (1 + jitter)."""

    @model_validator(mode="after")
    def _initial_fits(self) -> Backoff:
        if self.initial > self.max:
            raise _problem(
                f"initial {format_duration(self.initial)} is longer than max {format_duration(self.max)}; "
                "lower initial or raise max"
            )
        return self


class Retry(SpecModel):
    """What happens after a failed attempt. Errors are class names, bare or dotted; subclasses are meant too."""

    max_attempts: Count = 3
    """Attempts in all; 1: no retry."""
    backoff: Backoff = Field(default_factory=Backoff)
    retry_on: tuple[DottedName, ...] = ()
    """Only these errors are retried; empty: all."""
    give_up_on: tuple[DottedName, ...] = ()
    """These errors fail the job at once."""

    @field_validator("give_up_on")
    @classmethod
    def _no_contradiction(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        both = sorted(set(value) & set(info.data.get("retry_on", ())))
        if both:
            raise _problem(f"{', '.join(both)} is in retryOn too; keep it in one of the two")
        return value


class Retention(SpecModel):
    """How long ended jobs are kept."""

    completed: Duration = 86_400.0
    failed: Duration = 604_800.0
    """Failed and cancelled jobs."""


class JobQueueSpec(SpecModel):
    """The policy."""

    queue: Queue = Field(default_factory=Queue)
    workers: Workers = Field(default_factory=Workers)
    scaling: Scaling = Field(default_factory=Scaling)
    retry: Retry = Field(default_factory=Retry)
    time_limit: PositiveDuration | None = None
    """Soft limit of an attempt; none: the actor's, then the setting time_limit_s."""
    time_limit_grace: Duration = 30.0
    """Time between the soft limit and the hard one."""
    max_age: PositiveDuration | None = None
    """A job that has waited longer fails as expired; none: the actor's, then no limit."""
    retention: Retention = Field(default_factory=Retention)


class JobQueue(SpecModel):
    """One JobQueue object."""

    api_version: Literal["playbill.dev/v1alpha1"]
    kind: Literal["JobQueue"]
    metadata: Metadata
    spec: JobQueueSpec = Field(default_factory=JobQueueSpec)

    @model_validator(mode="after")
    def _name_serves_as_queue(self) -> JobQueue:
        if self.spec.queue.name is None and (problem := queue_name_problem(self.metadata.name)) is not None:
            raise _problem(f"{problem}; or keep the object's name and set spec.queue.name")
        return self

    @property
    def queue_name(self) -> str:
        """Name of the queue that the policy is about."""
        return self.spec.queue.name if self.spec.queue.name is not None else self.metadata.name

    def policy(self) -> dict[str, Any]:
        """The spec as the store keeps it.

        Returns:
            Plain JSON values under camelCase names, only what the author set: no defaults, no nulls, no empty
            objects; durations in one spelling. Two specs that mean the same give the same value.
        """
        dumped = self.spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
        return _without_empty(dumped)


def _without_empty(value: dict[str, Any]) -> dict[str, Any]:
    pruned = {name: _without_empty(item) if isinstance(item, dict) else item for name, item in value.items()}
    return {name: item for name, item in pruned.items() if item != {}}

"""The JobQueue resource: the one source of policy for ``playbill up``, for workers and later for the operator."""

from playbill.spec.duration import Duration, format_duration, parse_duration
from playbill.spec.jobqueue import JobQueue, JobQueueSpec
from playbill.spec.load import load_job_queues, parse_job_queues

__all__ = [
    "Duration",
    "JobQueue",
    "JobQueueSpec",
    "format_duration",
    "load_job_queues",
    "parse_duration",
    "parse_job_queues",
]

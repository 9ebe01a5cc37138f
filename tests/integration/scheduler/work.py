"""Jobs and workers of these tests."""

from __future__ import annotations

from playbill.store.values import NewJob, WorkerInfo

#: Short leases, so that tests of their ends are short too.
QUICK = {"lease_s": 2.0, "heartbeat_s": 0.2, "leader_lease_s": 2.0, "relay_after_s": 0.5}


def new_job(queue, job_id, **values):
    """A job whose message is its id."""
    return NewJob(id=job_id, queue=queue, actor="work", message=job_id.encode(), **values)


def worker_info(worker, queue):
    """A worker with one slot."""
    return WorkerInfo(id=worker, hostname="h", pid=1, queues=(queue,), actors=("work",), slots=1, version="0")


def bodies(channel, queue):
    """Takes all messages of a queue; answers (body, epoch) of each, in order."""
    got = []
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return got
        got.append((body.decode(), properties.headers["playbill-epoch"]))

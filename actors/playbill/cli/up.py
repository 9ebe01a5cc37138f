"""``playbill up``: scheduler and workers of all queues of a file, as one group."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from playbill.cli.boundary import broken_pipe_is_fine
from playbill.cli.children import ChildGroup, ChildSpec
from playbill.cli.exits import ExitCode
from playbill.cli.opened import require_broker_url
from playbill.cli.output import note, write
from playbill.cli.path import require_modules
from playbill.cli.trial import require_actors
from playbill.errors import InvalidInputError, StoreUnavailableError
from playbill.settings import Settings
from playbill.spec import JobQueue, load_job_queues
from playbill.store import open_store
from playbill.store.port import Store
from playbill.store.values import WorkerRow

#: Who owns the policies that ``up`` puts into the store.
OWNER: Final = "up"

_TICK_S: Final = 0.2
_ANNOUNCE_AFTER_S: Final = 120.0  #: then what is up is named without the rest; workers have as long to import


def run_up(settings: Settings, file: Path, modules: Sequence[str]) -> int:
    """Run until SIGTERM, SIGINT or SIGHUP, then drain.

    Args:
        settings: The settings.
        file: YAML file with JobQueues.
        modules: Modules with actors, in addition to those that the queues name.

    Returns:
        The exit code: 0 after a clean stop, 1 where a child failed or had to be killed.

    Raises:
        ConfigurationError: The file or a setting is wrong, or a child cannot work.
        InvalidInputError: The file or a module is wrong.
        PolicyConflictError: A queue's policy belongs to the operator.
    """
    queues = load_job_queues(file)
    _require_modules(queues, modules)
    require_broker_url(settings)
    store = open_store(settings)
    try:
        store.check()
        # Only what will work is written: the policies come after all that could be wrong.
        for names in dict.fromkeys(modules_of(queue, modules) for queue in queues):
            require_actors(names)
        for queue in queues:
            store.put_policy(queue.queue_name, queue.policy(), owner=OWNER)
        stop = _stop_on_signals()
        group = ChildGroup(child_specs(settings, queues, modules), grace_s=_longest_grace_s(settings, queues))
        try:
            group.start()
            _supervise(group, store, queues, stop)
        finally:
            note("stopping: workers drain")
            clean = _stop(group)
    finally:
        store.close()
    return ExitCode.OK if clean else ExitCode.FAILED


def child_specs(settings: Settings, queues: Sequence[JobQueue], modules: Sequence[str]) -> list[ChildSpec]:
    """The scheduler, and the worker groups of each queue.

    With ``http_port`` set, the scheduler serves there and the worker groups on the ports after it, in order.
    """
    parent = ("--parent", str(os.getpid()))
    specs = [ChildSpec("scheduler", ("scheduler", *parent), _port(settings, 0), last=True)]
    for queue in queues:
        workers = queue.spec.workers
        count = replicas(queue)
        for number in range(count):
            arguments: tuple[str, ...] = (
                "worker",
                *parent,
                "--queue",
                queue.queue_name,
                "--processes",
                str(workers.processes),
            )
            arguments += ("--threads", str(workers.threads), "--", *modules_of(queue, modules))
            environment = _port(settings, len(specs))
            if "drain_grace" in workers.model_fields_set:
                environment["PLAYBILL_DRAIN_GRACE_S"] = str(workers.drain_grace)
            name = f"worker {queue.queue_name}" + (f" {number + 1}/{count}" if count > 1 else "")
            specs.append(ChildSpec(name, arguments, environment))
    return specs


def replicas(queue: JobQueue) -> int:
    """How many worker groups a queue gets: its minimum, but at least one."""
    return max(1, queue.spec.scaling.min_replicas)


def modules_of(queue: JobQueue, modules: Sequence[str]) -> tuple[str, ...]:
    """Modules of a queue's workers: the command line's and its own, each once."""
    return tuple(dict.fromkeys((*modules, *queue.spec.workers.modules)))


def _require_modules(queues: Sequence[JobQueue], modules: Sequence[str]) -> None:
    for queue in queues:
        if not modules_of(queue, modules):
            raise InvalidInputError(
                "MODULE", f"queue {queue.queue_name} has no modules: name some here or in its spec.workers.modules"
            )
        require_modules(modules_of(queue, modules))


def _port(settings: Settings, offset: int) -> dict[str, str]:
    if not settings.http_port:
        return {}
    return {"PLAYBILL_HTTP_PORT": str(settings.http_port + offset)}


def _longest_grace_s(settings: Settings, queues: Sequence[JobQueue]) -> float:
    stated = [queue.spec.workers for queue in queues]
    graces = [workers.drain_grace for workers in stated if "drain_grace" in workers.model_fields_set]
    return max([settings.drain_grace_s, *graces])


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _supervise(group: ChildGroup, store: Store, queues: Sequence[JobQueue], stop: threading.Event) -> None:
    before = {worker.id for worker in store.workers()}
    announce_by = time.monotonic() + _ANNOUNCE_AFTER_S
    announced = False
    while not stop.wait(_TICK_S):
        group.tend()
        if not announced:
            workers = [worker for worker in _workers(store) if worker.id not in before]
            announced = _all_there(workers, queues) or time.monotonic() >= announce_by
            if announced:
                _announce(workers, queues)


def _workers(store: Store) -> list[WorkerRow]:
    try:
        return store.workers()
    except StoreUnavailableError:
        return []  # the workers say so themselves; they are announced once it is back


def _all_there(workers: Sequence[WorkerRow], queues: Sequence[JobQueue]) -> bool:
    serving = Counter(name for worker in workers for name in worker.queues)
    return all(serving[queue.queue_name] >= replicas(queue) * queue.spec.workers.processes for queue in queues)


def _announce(workers: Sequence[WorkerRow], queues: Sequence[JobQueue]) -> None:
    with broken_pipe_is_fine():
        write("Background job workers active:")
        for queue in queues:
            mine = [worker for worker in workers if queue.queue_name in worker.queues]
            slots = sum(worker.slots for worker in mine)
            pids = ", ".join(str(worker.pid) for worker in mine) or "not up yet"
            write(f"  - {queue.queue_name}: {_plural(len(mine), 'worker')}, {slots} at once (pid {pids})")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _stop(group: ChildGroup) -> bool:
    """Drain; a second signal ends the wait at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return group.stop()
    except KeyboardInterrupt:
        note("stopped at once: what ran is rescued when its lease ends")
        group.kill()
        return False

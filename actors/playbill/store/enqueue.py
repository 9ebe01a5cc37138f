"""Jobs come in: one statement and one commit where nothing else is asked, COPY for bulk, keys first if there are any.

What is shared by both databases is here; ``enqueue_postgres`` and ``enqueue_sqlite`` hold the statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from playbill.errors import InvalidInputError, StoreError
from playbill.store import enqueue_postgres, enqueue_sqlite
from playbill.store.engine import Database
from playbill.store.failures import is_duplicate, translated
from playbill.store.sessions import CallerConnections, Executor, PsycopgExecutor, SqlAlchemyExecutor
from playbill.store.values import FIRST_EPOCH, ClaimRef, Handover, Inserted, NewJob

#: Above this many jobs COPY is cheaper than arrays.
COPY_FROM: Final = 500
#: A key's owner may end between our conflict and our look at it; then we try again.
_KEY_TRIES: Final = 5


class Enqueue:
    """Inserts, and the outbox's end."""

    def __init__(self, database: Database, callers: CallerConnections) -> None:
        self._db = database
        self._callers = callers
        self._writer = enqueue_postgres if database.on_postgres else enqueue_sqlite

    def insert(
        self, jobs: Sequence[NewJob], *, handover: Handover, relay_after_s: float, connection: object | None
    ) -> list[Inserted]:
        """See the port."""
        _refuse_repeated(jobs)
        if not jobs:
            return []
        if connection is not None:
            executor = self._callers.executor(connection)
            with translated(self._db.where):
                self._refuse_known(executor, jobs)
                return self.insert_on(executor, jobs, handover=handover, relay_after_s=relay_after_s)
        try:
            return self._insert_own(jobs, handover=handover, relay_after_s=relay_after_s)
        except StoreError as error:
            if is_duplicate(error):
                raise _duplicate(", ".join(job.id for job in jobs[:3])) from error
            raise

    def _insert_own(self, jobs: Sequence[NewJob], *, handover: Handover, relay_after_s: float) -> list[Inserted]:
        keyed = any(job.key is not None for job in jobs)
        bulk = self._db.on_postgres and len(jobs) > COPY_FROM
        if self._db.on_postgres and not keyed and not bulk:
            # An insert scans nothing, so its plan cannot grow old: prepared where no pooler stands between.
            with self._db.raw() as connection:
                if len(jobs) == 1 and handover is Handover.BROKER and jobs[0].delay_s <= 0 and jobs[0].run_at is None:
                    enqueue_postgres.insert_sent(connection, jobs[0], relay_after_s)
                    return [Inserted(jobs[0].id, FIRST_EPOCH, created=True, publish=True)]
                executor: Executor = PsycopgExecutor(connection, prepare=True)
                return self.insert_on(executor, jobs, handover=handover, relay_after_s=relay_after_s)
        with self._db.write() if keyed or bulk else self._db.single() as own:
            executor = SqlAlchemyExecutor(own)
            if bulk and not keyed:
                due = enqueue_postgres.copy_jobs(own, jobs, handover=handover, relay_after_s=relay_after_s)
                return _answers(jobs, due, {}, handover)
            return self.insert_on(executor, jobs, handover=handover, relay_after_s=relay_after_s)

    def insert_on(
        self, executor: Executor, jobs: Sequence[NewJob], *, handover: Handover, relay_after_s: float
    ) -> list[Inserted]:
        """Insert in the transaction of ``executor``; keys are taken first."""
        held = self._take_keys(executor, jobs)
        new = [job for job in jobs if job.id not in held] if held else jobs
        due = self._writer.insert_jobs(executor, new, handover=handover, relay_after_s=relay_after_s) if new else set()
        return _answers(jobs, due, held, handover)

    def insert_unless_known(
        self, executor: Executor, jobs: Sequence[NewJob], *, handover: Handover, relay_after_s: float
    ) -> list[Inserted]:
        """The same, but ids that exist already (live or archived) are left alone and missing in the answer."""
        unique = list({job.id: job for job in jobs}.values())
        known = self._writer.known_ids(executor, [job.id for job in unique])
        new = [job for job in unique if job.id not in known]
        return self.insert_on(executor, new, handover=handover, relay_after_s=relay_after_s) if new else []

    def adopt(self, jobs: Sequence[NewJob]) -> None:
        """See the port. A race with another worker's adoption of the same message ends in one row."""
        unique = {job.id: job for job in jobs}
        if not unique:
            return
        with self._db.write() as own:
            executor = SqlAlchemyExecutor(own)
            known = self._writer.known_ids(executor, list(unique))
            new = [unique[id_] for id_ in sorted(unique.keys() - known)]
            if new:
                self._writer.adopt_jobs(executor, new)

    def settle(self, refs: Sequence[ClaimRef]) -> None:
        """See the port."""
        if refs:
            with self._db.single() as own:
                self._writer.settle(SqlAlchemyExecutor(own), refs)

    def _refuse_known(self, executor: Executor, jobs: Sequence[NewJob]) -> None:
        """Before the insert, since a violated constraint would abort the caller's transaction."""
        known = self._writer.known_ids(executor, [job.id for job in jobs])
        if known:
            raise _duplicate(", ".join(sorted(known)[:3]))

    def _take_keys(self, executor: Executor, jobs: Sequence[NewJob]) -> dict[str, tuple[str, int]]:
        """Take the keys; returns for each job that did not get its key the id and epoch of the owner."""
        wanted = [job for job in jobs if job.key is not None]
        held: dict[str, tuple[str, int]] = {}
        for _ in range(_KEY_TRIES):
            if not wanted:
                return held
            wanted = self._writer.take_keys(executor, sorted(wanted, key=lambda job: (job.tenant, job.key or "")), held)
        raise StoreError(f"the keys of {len(wanted)} jobs changed hands {_KEY_TRIES} times; try again")


def _answers(
    jobs: Sequence[NewJob], due: set[str], held: dict[str, tuple[str, int]], handover: Handover
) -> list[Inserted]:
    publishes = handover is Handover.BROKER
    answers = []
    for job in jobs:
        if job.id in held:
            owner, epoch = held[job.id]
            answers.append(Inserted(owner, epoch, created=False, publish=False))
        else:
            answers.append(Inserted(job.id, FIRST_EPOCH, created=True, publish=publishes and job.id in due))
    return answers


def _refuse_repeated(jobs: Sequence[NewJob]) -> None:
    if len({job.id for job in jobs}) < len(jobs):
        seen: set[str] = set()
        for job in jobs:
            if job.id in seen:
                raise _duplicate(job.id)
            seen.add(job.id)


def _duplicate(ids: str) -> InvalidInputError:
    return InvalidInputError("id", f"a job with this id exists already ({ids}); a message is enqueued once")

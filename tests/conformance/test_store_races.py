"""Many at once: no deadlock, never two owners, no write after a terminal state."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from playbill.errors import FenceLostError, JobCancelled
from playbill.policy.states import JobStatus, can_move
from playbill.store.sql import SqlStore
from playbill.store.values import CancelAnswer, Claimed, ClaimRef, JobFilter, Outcome, ProgressUpdate, Verdict
from tests.conformance.store_kit import BROKER, ended, insert, lead, new, register, rewind, run

DEADLINE_S = 120.0


def together(*tasks: Callable[[], Any]) -> None:
    """Run tasks at once; the first error is raised here."""
    errors: list[BaseException] = []
    gate = threading.Barrier(len(tasks))

    def run_one(task: Callable[[], Any]) -> None:
        gate.wait(DEADLINE_S)
        try:
            task()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)

    threads = [threading.Thread(target=run_one, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "still running: a deadlock?"
    if errors:
        raise errors[0]


def test_a_job_has_one_owner_however_many_claim_it(store: SqlStore) -> None:
    ids = insert(store, *(f"j{number:03}" for number in range(120)))
    owners: dict[str, list[str]] = {id_: [] for id_ in ids}

    def claim_all(worker: str, seed: int) -> None:
        order = random.Random(seed).sample(ids, len(ids))
        while order:
            part, order = order[:10], order[10:]
            answer = store.claim([ClaimRef(id_, 1) for id_ in part], worker=worker)
            for job in answer.claimed:
                owners[job.id].append(worker)
            order += [id_ for id_, verdict in answer.refused.items() if verdict is Verdict.LOCKED]

    together(*(lambda number=number: claim_all(f"w{number}", number) for number in range(8)))
    assert {len(found) for found in owners.values()} == {1}


def test_claims_from_the_store_share_the_jobs_out(store: SqlStore) -> None:
    from tests.conformance.store_kit import IN_STORE

    ids = insert(store, *(f"j{number:03}" for number in range(200)), handover=IN_STORE)
    taken: list[str] = []

    def take(worker: str) -> None:
        while jobs := store.claim_next(["mail"], 7, worker=worker):
            taken.extend(job.id for job in jobs)

    together(*(lambda number=number: take(f"w{number}") for number in range(6)))
    assert sorted(taken) == ids


def test_bulk_writes_in_any_order_do_not_deadlock(store: SqlStore) -> None:
    """Claims, finishes, cancels, progress, settles and the scheduler's actions, on the same jobs, at random."""
    ids = insert(store, *(f"j{number:03}" for number in range(60)))
    leader = lead(store)
    epochs = dict.fromkeys(ids, 1)
    rounds = 25 if store.dialect == "postgresql" else 8

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(rounds):
            part = chance.sample(ids, 20)
            jobs = store.claim([ClaimRef(id_, epochs[id_]) for id_ in part], worker=f"w{seed}").claimed
            chosen = list(jobs)
            chance.shuffle(chosen)
            store.progress([ProgressUpdate(job.id, job.epoch, job.token, 1, 2) for job in chosen])
            outcomes = (Outcome.RETRY, Outcome.RELEASE, Outcome.RETRY, Outcome.FAILED)
            finishes = [ended(job, chance.choice(outcomes)) for job in chosen]
            for item in finishes:
                epochs[item.id] = item.epoch + 1
            store.finish(finishes, handover=BROKER)

    def cancel(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(rounds):
            store.cancel(chance.sample(ids, 3))
            for job in store.redrive(JobFilter(), limit=20, handover=BROKER).publish:
                epochs[job.id] = job.epoch

    def schedule(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(rounds):
            store.settle([ClaimRef(id_, chance.randint(1, epochs[id_])) for id_ in chance.sample(ids, 20)])
            store.take_outbox(limit=20, relay_after_s=0, leader=leader)
            store.missing("mail", excess=20, relay_after_s=0, leader=leader)
            store.release_due(limit=20, relay_after_s=0, leader=leader)

    together(
        *(lambda seed=seed: work(seed) for seed in range(4)),
        *(lambda seed=seed: cancel(seed) for seed in range(10, 12)),
        *(lambda seed=seed: schedule(seed) for seed in range(20, 22)),
    )
    assert store.count(JobFilter()) == len(ids)


def test_one_job_gets_a_key_however_many_ask(store: SqlStore) -> None:
    answers: list[Any] = []

    def ask(number: int) -> None:
        jobs = [new(f"j{number}-{each}", key=f"k{each}") for each in range(5)]
        random.Random(number).shuffle(jobs)
        answers.extend(store.insert(jobs, handover=BROKER))

    together(*(lambda number=number: ask(number) for number in range(6)))
    created = [answer.id for answer in answers if answer.created]
    assert len(created) == 5
    assert {answer.id for answer in answers} == set(created)


def test_two_schedulers_never_lead_at_once(store: SqlStore) -> None:
    won: list[str] = []
    together(
        *(
            lambda name=name: won.append(name) if store.lead("scheduler", name, lease_s=60) else None
            for name in ("a", "b", "c", "d")
        )
    )
    assert len(won) == 1


# -- random interleavings --------------------------------------------------------------------------------------------

IDS = ("a", "b", "c")
WORKERS = ("w1", "w2")


class Interleavings(RuleBasedStateMachine):
    """Two workers, a person and a scheduler in any order, against what the fence promises.

    ``held`` is what each worker believes to own. A belief may be stale (that is the point); ``owner`` is the truth.
    """

    store: SqlStore

    @initialize()
    def begin(self) -> None:
        for table in ("jobs", "jobs_archive", "outbox", "job_keys", "workers", "rollups"):
            run(self.store, f"DELETE FROM {{p}}{table}")
        insert(self.store, *IDS, key=None)
        self.held: list[tuple[str, Claimed]] = []
        self.owner: dict[str, Claimed | None] = dict.fromkeys(IDS)
        self.seen: dict[str, tuple[JobStatus, int]] = dict.fromkeys(IDS, (JobStatus.PENDING, 1))
        lead(self.store)

    @rule(id_=st.sampled_from(IDS), worker=st.sampled_from(WORKERS), back=st.integers(0, 2))
    def claim(self, id_: str, worker: str, back: int) -> None:
        """A message arrives, perhaps an old one."""
        state, epoch = self.seen[id_]
        answer = self.store.claim([ClaimRef(id_, epoch - back)], worker=worker)
        assert bool(answer.claimed) == (back == 0 and state is JobStatus.PENDING)
        for job in answer.claimed:
            assert self.owner[id_] is None, "two owners"
            self.owner[id_] = job
            self.held.append((worker, job))

    @rule(data=st.data(), outcome=st.sampled_from(list(Outcome)), delay_s=st.sampled_from([0.0, 60.0]))
    def finish(self, data: st.DataObject, outcome: Outcome, delay_s: float) -> None:
        if not self.held:
            return
        _, job = data.draw(st.sampled_from(self.held))
        truth = self.owner[job.id]
        before = self.store.get(job.id)
        applied = self.store.finish([ended(job, outcome, delay_s=delay_s)], handover=BROKER).applied
        if truth is not None and truth.token == job.token:
            assert applied == {job.id}
            self.owner[job.id] = None
        else:
            assert self.store.get(job.id) == before, "a write after the fence was lost"

    @rule(data=st.data())
    def checkpoint(self, data: st.DataObject) -> None:
        if not self.held:
            return
        _, job = data.draw(st.sampled_from(self.held))
        truth = self.owner[job.id]
        owns = truth is not None and truth.token == job.token
        row = self.store.get(job.id)
        assert row is not None
        expected = JobCancelled if owns and row.cancelling else FenceLostError
        engine = self.store.database.engine
        with suppress(JobCancelled, FenceLostError), engine.begin() as connection:
            self.store.checkpoint(
                connection, id=job.id, epoch=job.epoch, token=job.token, done=1, total=2, cursor=job.token
            )
            expected = type(None)
            assert owns
        after = self.store.get(job.id)
        assert after is not None
        assert (after.cursor == job.token) or expected is not type(None)

    @rule(id_=st.sampled_from(IDS))
    def cancel(self, id_: str) -> None:
        answer = self.store.cancel([id_])[id_]
        state, _ = self.seen[id_]
        if state is JobStatus.PROCESSING:
            assert answer is CancelAnswer.CANCELLING
        else:
            assert answer is (CancelAnswer.TERMINAL if state.is_terminal else CancelAnswer.CANCELLED)

    @rule(poison_limit=st.integers(1, 3))
    def rescue(self, poison_limit: int) -> None:
        """Both workers are dead, so all that runs is rescued."""
        register(self.store, *WORKERS)
        rewind(self.store, "workers", "lease_expires_at", 3600)
        rescued = self.store.rescue(
            poison_limit=poison_limit, limit=10, handover=BROKER, relay_after_s=5.0, leader="leader"
        )
        assert {each.id for each in rescued} == {id_ for id_, owner in self.owner.items() if owner is not None}
        self.owner = dict.fromkeys(IDS)

    @rule()
    def redrive(self) -> None:
        self.store.redrive(JobFilter(), limit=10, handover=BROKER)

    @rule()
    def come_due(self) -> None:
        run(self.store, "UPDATE {p}jobs SET due_at = created_at WHERE due_at IS NOT NULL")
        self.store.release_due(limit=10, relay_after_s=5.0, leader="leader")

    @invariant()
    def moves_are_legal_and_epochs_only_rise(self) -> None:
        if not hasattr(self, "seen"):
            return
        rows = self.store.find(JobFilter(), limit=10)
        assert sorted(row.id for row in rows) == sorted(IDS), "lost or doubled"
        for row in rows:
            state, epoch = self.seen[row.id]
            assert row.epoch >= epoch
            if row.status is not state:
                assert can_move(state, row.status) or row.epoch > epoch, (state, row.status)
                if state is JobStatus.COMPLETED:
                    raise AssertionError("a completed job changed")
            assert (row.status is JobStatus.PROCESSING) == (self.owner[row.id] is not None)
            self.seen[row.id] = (row.status, row.epoch)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_interleaving_breaks_the_fence(store: SqlStore, seed: int) -> None:
    machine = type("Machine", (Interleavings,), {"store": store})
    if store.dialect == "sqlite":
        with store.database.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.execute("PRAGMA synchronous = OFF")  # thousands of commits: the disk is not what is tested
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            derandomize=seed == 1,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )

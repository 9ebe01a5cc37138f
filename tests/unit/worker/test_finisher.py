"""Ends are committed in groups, kept while the store is away, and none holds up the others."""

from __future__ import annotations

import threading

import pytest

from playbill.errors import StoreError, StoreUnavailableError
from playbill.settings import Settings
from playbill.store.values import Finish, Finished, Handover, Outcome, ProgressUpdate
from playbill.worker.finisher import Finisher
from tests.support.waiting import eventually

#: Longer than any test: whoever waits for it waits for ever.
NEVER_MS = 1000


class Store:
    """Notes what is committed; fails as it is told."""

    def __init__(self):
        self.groups = []
        self.progress_of = []
        self.away = threading.Event()
        self.refused = {}
        self.busy = set()
        self.asked = self.asked_progress = 0

    def finish(self, finishes, *, handover, relay_after_s):
        assert handover is Handover.STORE
        self.asked += 1
        if self.away.is_set():
            raise StoreUnavailableError("away")
        for finish in finishes:
            if finish.id in self.refused and (finish.error is None or self.refused[finish.id][1]):
                raise self.refused[finish.id][0]
        busy = {finish.id for finish in finishes} & self.busy
        self.busy -= busy
        self.groups.append([finish for finish in finishes if finish.id not in busy])
        return Finished(frozenset(finish.id for finish in self.groups[-1]), busy=frozenset(busy))

    def progress(self, updates):
        self.asked_progress += 1
        if self.away.is_set():
            raise StoreUnavailableError("away")
        self.progress_of.append({update.id: update.done for update in updates})

    def committed(self):
        return [finish.id for group in self.groups for finish in group]


class Broker:
    handover = Handover.STORE

    def __init__(self, store):
        self.store = store

    def publish(self, messages):
        assert not messages


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def make(store, tmp_path):
    """Starts finishers, and ends them."""
    made = []

    def start(*, flush_ms=1, idle=False):
        settings = Settings(
            store_url=f"sqlite:///{tmp_path}/store.db", flush_interval_ms=flush_ms, progress_interval_ms=10
        )
        refused = []
        finisher = Finisher(Broker(store), settings, idle=lambda: idle, refused=refused.append)
        finisher.given_up = refused
        finisher.start()
        made.append(finisher)
        return finisher

    yield start
    store.away.clear()
    for finisher in made:
        finisher.close(10)


def end(id_, outcome=Outcome.COMPLETED):
    return Finish(id_, 1, 1, outcome, "q", "act")


def test_ends_of_one_interval_are_one_commit(store, make):
    finisher = make(flush_ms=NEVER_MS)
    for number in range(5):
        finisher.add(end(f"j{number}"))
    finisher.close(10)
    assert [len(group) for group in store.groups] == [5]
    assert finisher.committed == 5


def test_an_idle_worker_does_not_wait_for_more(store, make):
    finisher = make(flush_ms=NEVER_MS, idle=True)
    finisher.add(end("j"))
    eventually(lambda: store.committed() == ["j"], deadline_s=NEVER_MS / 2000)


def test_a_full_group_does_not_wait_either(store, make):
    finisher = make(flush_ms=NEVER_MS)
    for number in range(1001):
        finisher.add(end(str(number)))
    eventually(lambda: len(store.committed()) >= 1000, deadline_s=NEVER_MS / 2000)
    finisher.close(10)
    assert store.committed() == [str(number) for number in range(1001)]
    assert max(len(group) for group in store.groups) == 500


def test_ends_are_kept_while_the_store_is_away(store, make):
    # Given
    store.away.set()
    finisher = make()
    finisher.add(end("first"))
    eventually(lambda: store.asked >= 2)
    finisher.add(end("second"))
    assert store.groups == []
    # When
    store.away.clear()
    # Then
    eventually(lambda: store.committed() == ["first", "second"], deadline_s=30)


def test_a_close_while_the_store_is_away_says_that_something_is_left(store, make):
    store.away.set()
    finisher = make()
    finisher.add(end("j"))
    assert finisher.close(0.3) is False
    assert not finisher.alive
    assert store.groups == []


@pytest.mark.parametrize("error", [StoreError("no"), TypeError("what is that?")])
def test_an_end_that_the_store_refuses_fails_that_job_and_no_other(store, make, error):
    # Given: one bad end in a group
    store.refused["bad"] = (error, False)
    finisher = make(flush_ms=NEVER_MS)
    for id_ in ("a", "bad", "b"):
        finisher.add(end(id_))
    # When
    assert finisher.close(10)
    # Then
    ends = {finish.id: finish for group in store.groups for finish in group}
    assert (ends["a"].outcome, ends["b"].outcome) == (Outcome.COMPLETED, Outcome.COMPLETED)
    assert ends["bad"].outcome is Outcome.FAILED
    assert ends["bad"].error.type == "FinishRefused"
    assert str(error) in ends["bad"].error.message
    assert finisher.given_up == []


def test_a_job_that_cannot_even_fail_is_told_and_holds_nobody_up(store, make):
    store.refused["bad"] = (StoreError("no"), True)
    finisher = make()
    finisher.add(end("bad"))
    eventually(lambda: finisher.given_up)
    finisher.add(end("good"))
    eventually(lambda: store.committed() == ["good"])
    assert [finish.id for finish in finisher.given_up] == ["bad"]
    assert finisher.alive


def test_an_end_whose_row_others_hold_is_tried_again_after_the_rest(store, make):
    store.busy.add("held")
    finisher = make()
    finisher.add(end("held"))
    finisher.add(end("free"))
    eventually(lambda: sorted(store.committed()) == ["free", "held"])
    assert finisher.committed == 2


# -- progress ----------------------------------------------------------------------------------------------------
def progress(done, id_="j"):
    return ProgressUpdate(id_, 1, 1, done, 100)


def test_of_progress_the_last_of_an_interval_is_written(store, make):
    finisher = make()
    for done in range(1, 1001):
        finisher.progress(progress(done))
    eventually(lambda: store.progress_of and store.progress_of[-1] == {"j": 1000})
    written = [update["j"] for update in store.progress_of]
    assert written == sorted(written)
    assert len(written) < 1000


def test_progress_of_a_job_that_ends_is_left_to_its_end(store, make):
    finisher = make(flush_ms=NEVER_MS)
    finisher.add(end("j"))
    finisher.progress(progress(7))
    finisher.progress(progress(3, "other"))
    finisher.close(10)
    assert store.committed() == ["j"]
    assert store.progress_of == [{"other": 3}]


def test_progress_that_could_not_be_written_is_not_lost_and_never_overtakes_newer(store, make):
    store.away.set()
    finisher = make()
    finisher.progress(progress(1))
    finisher.progress(progress(2, "other"))
    eventually(lambda: store.asked_progress)
    finisher.progress(progress(5))
    store.away.clear()
    eventually(
        lambda: {id_: done for group in store.progress_of for id_, done in group.items()} == {"j": 5, "other": 2}
    )

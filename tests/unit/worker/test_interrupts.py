"""Exceptions from outside stay inside the function that they are meant for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading

import pytest
from dramatiq.middleware import Interrupt, TimeLimitExceeded, raise_thread_exception

from playbill.worker.interrupts import CancelInterrupt, InterruptGuard, LeaseLostInterrupt
from tests.support.waiting import eventually
from tests.unit.worker import traced_after_an_interrupt
from tests.unit.worker.traced_after_an_interrupt import spin


class Guarded:
    """A guard that runs one function in a thread of its own, and what came of it."""

    def __init__(self, fn, *args, **kwargs):
        self.guard = InterruptGuard()
        self.result = self.error = None
        self._call = (fn, args, kwargs)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self.result = self.guard.run(*self._call)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def join(self):
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self


@pytest.fixture(autouse=True)
def _nothing_pending():
    """Python 3.11 hangs in the next tracer while it waits for an exception to be raised: a real one ends that."""
    yield
    started = threading.Event()

    def end():
        with contextlib.suppress(SystemExit):
            spin(started)

    thread = threading.Thread(target=end)
    thread.start()
    assert started.wait(10)
    raise_thread_exception(thread.ident, SystemExit)
    thread.join(10)


def test_the_function_runs_with_its_arguments_and_its_result_comes_back():
    assert InterruptGuard().run(lambda *args, **kwargs: (args, kwargs), (1, 2), {"c": 3}) == ((1, 2), {"c": 3})


def test_what_the_function_raises_comes_through():
    with pytest.raises(KeyError):
        InterruptGuard().run({}.__getitem__, ("missing",), {})


@pytest.mark.parametrize("kind", [TimeLimitExceeded, CancelInterrupt, LeaseLostInterrupt])
def test_an_interrupt_is_raised_in_the_function_once(kind):
    # Given
    started = threading.Event()
    guarded = Guarded(spin, started)
    assert started.wait(10)
    # When
    answers = [guarded.guard.interrupt(kind) for _ in range(3)]
    # Then
    assert isinstance(guarded.join().error, kind)
    assert answers == [True, False, False]


def test_before_the_function_and_after_it_nothing_is_raised():
    guard = InterruptGuard()
    assert not guard.interrupt(CancelInterrupt)
    assert guard.run(lambda: "done", (), {}) == "done"
    assert not guard.interrupt(CancelInterrupt)


def test_a_function_that_catches_the_interrupt_goes_on():
    # Given: a job that has work to save
    started = threading.Event()

    def save():
        try:
            spin(started)
        except CancelInterrupt:
            return "saved"

    guarded = Guarded(save)
    assert started.wait(10)
    # When
    assert guarded.guard.interrupt(CancelInterrupt)
    # Then
    assert guarded.join().result == "saved"


def count():
    """Takes some microseconds, with many places where an interrupt may appear."""
    total = 0
    for number in range(50):
        total += number
    return total


class Loop(threading.Thread):
    """Runs functions under guards, one after another, as a worker's thread does."""

    def __init__(self, rounds):
        super().__init__()
        self.guards = [InterruptGuard() for _ in range(rounds)]
        self.guard = self.guards[0]
        self.returned = self.interrupted = 0
        self.whole = False  #: its own code was never interrupted

    def run(self):
        for guard in self.guards:
            self.guard = guard
            try:
                guard.run(count, (), {})
                self.returned += 1
            except Interrupt:
                self.interrupted += 1
            for _ in range(10):
                pass
        self.whole = True


@pytest.fixture
def quick_switches():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switches")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # told below
def test_an_interrupt_never_escapes_whenever_it_comes():
    raised = late = 0
    while raised < 20 or late < 3:
        # Given
        loop = Loop(rounds=1000)
        loop.start()
        # When: each function may be interrupted at any time
        interrupts = 0
        while loop.is_alive():
            interrupts += loop.guard.interrupt(CancelInterrupt)
        # Then
        assert loop.whole
        assert loop.returned + loop.interrupted == len(loop.guards)
        # And: again, until some came when their function had just returned
        raised += loop.interrupted
        late += interrupts - loop.interrupted


def test_interrupts_leave_nothing_behind_in_the_interpreter():
    # Given: a process of its own, for it hangs if they do
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # When, Then: it ends
    subprocess.run([sys.executable, traced_after_an_interrupt.__file__], env=environment, timeout=10, check=True)


def test_guards_of_other_threads_are_not_concerned():
    # Given: two functions that run
    started, other_started, stop = threading.Event(), threading.Event(), threading.Event()

    def wait():
        other_started.set()
        while not stop.wait(0.001):
            pass
        return "undisturbed"

    first, other = Guarded(spin, started), Guarded(wait)
    assert started.wait(10)
    assert other_started.wait(10)
    # When
    assert first.guard.interrupt(CancelInterrupt)
    eventually(lambda: first.error)
    stop.set()
    # Then
    assert other.join().result == "undisturbed"

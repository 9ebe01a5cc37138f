"""Which policy a worker holds a message to."""

from __future__ import annotations

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from playbill.settings import Settings
from playbill.store.values import QueuePolicy
from playbill.worker.policies import Policies


class Store:
    def __init__(self):
        self.stored = {}

    def put(self, queue, version, **spec):
        self.stored[queue] = QueuePolicy(queue, spec, version, "test")

    def policies(self):
        return dict(self.stored)


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def policies(store, tmp_path):
    broker = StubBroker(middleware=[])
    broker.actor_options |= {"time_limit", "max_retries"}
    dramatiq.actor(lambda: None, actor_name="plain", broker=broker, queue_name="q")
    dramatiq.actor(lambda: None, actor_name="limited", broker=broker, queue_name="q", time_limit=2000)
    settings = Settings(store_url=f"sqlite:///{tmp_path}/store.db", time_limit_s=50, time_limit_grace_s=7)
    return Policies(store, broker, settings)


def message(actor="plain", queue="q", **options):
    return dramatiq.Message(queue, actor, (), {}, options)


def test_where_nobody_says_anything_the_settings_hold(policies):
    policy = policies.of(message())
    assert (policy.time_limit_s, policy.time_limit_grace_s, policy.max_age_s) == (50, 7, None)


def test_message_then_queue_then_actor_decide(policies, store):
    assert policies.of(message("limited")).time_limit_s == 2
    store.put("q", 1, timeLimit="3s")
    policies.load()
    assert policies.of(message("limited")).time_limit_s == 3
    assert policies.of(message("limited", time_limit=4000)).time_limit_s == 4


def test_the_queue_is_the_messages_not_the_actors(policies, store):
    store.put("other", 1, timeLimit="3s")
    policies.load()
    assert policies.of(message(queue="other")).time_limit_s == 3
    assert policies.of(message()).time_limit_s == 50


def test_messages_without_options_of_their_own_share_what_was_worked_out_once(policies):
    assert policies.of(message()) is policies.of(message(pipe_ignore=True))
    assert policies.of(message()) is not policies.of(message("limited"))


def test_what_one_message_says_holds_for_no_other(policies):
    assert policies.of(message(max_retries=0)).retry.max_attempts == 1
    assert policies.of(message()).retry.max_attempts == 3


def test_a_new_policy_holds_once_it_is_loaded(policies, store):
    # Given: a policy that is in use
    store.put("q", 1, retry={"maxAttempts": 5})
    policies.load()
    before = policies.of(message())
    # When
    store.put("q", 2, retry={"maxAttempts": 9})
    assert policies.of(message()).retry.max_attempts == 5
    policies.load()
    # Then: for what comes; what runs keeps its own
    assert policies.of(message()).retry.max_attempts == 9
    assert before.retry.max_attempts == 5


def test_the_version_is_the_highest_of_all_queues(policies, store):
    policies.load()
    assert policies.version == 0
    store.put("q", 3)
    store.put("other", 7)
    store.put("third", 5)
    policies.load()
    assert policies.version == 7

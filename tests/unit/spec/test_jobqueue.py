"""The JobQueue model: defaults, names, and the policy that goes into the store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from playbill.spec import JobQueue, format_duration
from playbill.spec.jobqueue import JobQueueSpec, queue_name_problem


def job_queue(spec=None, name="email", **metadata):
    body = {"apiVersion": "playbill.dev/v1alpha1", "kind": "JobQueue", "metadata": {"name": name, **metadata}}
    return JobQueue.model_validate(body if spec is None else {**body, "spec": spec})


def test_defaults_are_those_of_the_documentation():
    assert JobQueueSpec().model_dump(mode="json", by_alias=True) == {
        "queue": {"name": None},
        "workers": {"modules": [], "processes": 1, "threads": 5, "drainGrace": "1m"},
        "scaling": {"minReplicas": 0},
        "retry": {
            "maxAttempts": 3,
            "backoff": {"strategy": "exponential", "initial": "15s", "max": "10m", "jitter": 0.2},
            "retryOn": [],
            "giveUpOn": [],
        },
        "timeLimit": None,
        "timeLimitGrace": "30s",
        "maxAge": None,
        "retention": {"completed": "1d", "failed": "7d"},
    }


def test_the_queue_is_named_after_the_object_unless_it_has_a_name():
    assert job_queue().queue_name == "email"
    assert job_queue({"queue": {"name": "Email.Out"}}).queue_name == "Email.Out"


def test_an_object_whose_name_is_no_queue_name_needs_one():
    with pytest.raises(ValidationError, match=r"set spec\.queue\.name"):
        job_queue(name="2fast")
    assert job_queue({"queue": {"name": "fast"}}, name="2fast").queue_name == "fast"


@pytest.mark.parametrize("name", ["", "Email", "e_mail", "-a", "a-", "a.b", "a" * 64, "a\n"])
def test_object_names_are_dns_labels(name):
    with pytest.raises(ValidationError, match="is not an object name"):
        job_queue(name=name)


@pytest.mark.parametrize("name", ["", "1a", "a b", "ä", "a/b", "mail.DQ", "mail.XQ", "q" * 201, "a\n"])
def test_queue_names_follow_dramatiq(name):
    assert queue_name_problem(name) is not None


@given(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9._-]*", fullmatch=True).filter(lambda n: not n.endswith(("DQ", "XQ"))))
def test_what_dramatiq_accepts_is_accepted(name):
    assert queue_name_problem(name[:200]) is None


def test_models_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        job_queue().spec.time_limit = 3.0


def test_policy_holds_only_what_the_author_set():
    assert job_queue().policy() == {}
    assert job_queue({"retry": {"maxAttempts": 3}}).policy() == {"retry": {"maxAttempts": 3}}


def test_policy_is_normalised():
    spec = {"timeLimit": "120s", "maxAge": None, "retry": {"backoff": {}}, "queue": {"name": None}}
    assert job_queue(spec).policy() == {"timeLimit": "2m"}


def test_an_empty_list_is_a_value():
    assert job_queue({"retry": {"giveUpOn": []}}).policy() == {"retry": {"giveUpOn": []}}


def test_zero_is_a_value():
    spec = {"scaling": {"minReplicas": 0}, "retry": {"backoff": {"initial": "0s"}}}
    assert job_queue(spec).policy() == spec


def test_python_names_are_for_python():
    spec = JobQueueSpec(time_limit="2m", max_age="1h")
    assert (spec.time_limit, spec.max_age) == (120.0, 3600.0)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"retry": {"maxAttempts": 0}}, "greater than or equal to 1"),
        ({"retry": {"maxAttempts": True}}, "valid integer"),
        ({"retry": {"maxAttempts": "3"}}, "valid integer"),
        ({"retry": {"backoff": {"jitter": 1.5}}}, "less than or equal to 1"),
        ({"retry": {"backoff": {"initial": "1h"}}}, "initial 1h is longer than max 10m"),
        ({"retry": {"backoff": {"strategy": "random"}}}, "'exponential', 'linear' or 'fixed'"),
        ({"retry": {"retryOn": ["OSError"], "giveUpOn": ["OSError"]}}, "OSError is in retryOn too"),
        ({"retry": {"giveUpOn": ["Value Error"]}}, "not a dotted Python name"),
        ({"timeLimit": "0s"}, "must be more than 0s"),
        ({"timeLimit": 120}, "has no unit; write 120s"),
        ({"workers": {"threads": 0}}, "greater than or equal to 1"),
        ({"workers": {"modules": ["a-b"]}}, "not a dotted Python name"),
        ({"scaling": {"minReplicas": -1}}, "greater than or equal to 0"),
    ],
)
def test_wrong_values_are_refused(spec, words):
    with pytest.raises(ValidationError, match=words):
        job_queue(spec)


durations = st.integers(1, 10**9).map(lambda ms: format_duration(ms / 1000))
specs = st.fixed_dictionaries(
    {},
    optional={
        "timeLimit": durations,
        "maxAge": durations,
        "timeLimitGrace": durations,
        "retention": st.fixed_dictionaries({}, optional={"completed": durations, "failed": durations}),
        "scaling": st.fixed_dictionaries({"minReplicas": st.integers(0, 100)}),
        "retry": st.fixed_dictionaries(
            {}, optional={"maxAttempts": st.integers(1, 100), "giveUpOn": st.lists(st.just("ValueError"), max_size=2)}
        ),
    },
)


@given(specs)
def test_policy_is_a_fixed_point(spec):
    policy = job_queue(spec).policy()
    assert job_queue(policy).policy() == policy
    assert policy == {key: value for key, value in spec.items() if value != {}}

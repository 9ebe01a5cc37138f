"""Reading JobQueues from YAML: every problem is named with its path, line and remedy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playbill.errors import ConfigurationError, InvalidInputError
from playbill.spec import load_job_queues, parse_job_queues

GOOD = """\
apiVersion: playbill.dev/v1alpha1
kind: JobQueue
metadata: {name: transfers}
spec:
  workers: {modules: [stock.actors], threads: 2}
  retry:
    maxAttempts: 5
---
apiVersion: playbill.dev/v1alpha1
kind: JobQueue
metadata:
  name: mail
  labels: {team: shop}
"""


def head(name="transfers", rest=""):
    return f"apiVersion: playbill.dev/v1alpha1\nkind: JobQueue\nmetadata: {{name: {name}}}\n{rest}"


def refused(text):
    with pytest.raises(InvalidInputError) as caught:
        parse_job_queues(text, source="q.yaml")
    return caught.value


def test_all_documents_are_read_in_order(tmp_path):
    path = tmp_path / "queues.yaml"
    path.write_text(GOOD)
    transfers, mail = load_job_queues(path)
    assert (transfers.queue_name, transfers.spec.retry.max_attempts, transfers.spec.workers.threads) == (
        "transfers", 5, 2,
    )  # fmt: skip
    assert (mail.queue_name, mail.metadata.labels) == ("mail", {"team": "shop"})


def test_empty_documents_are_skipped():
    assert len(parse_job_queues("---\n---\n" + head() + "---\n")) == 1


def test_an_unknown_field_is_named_with_path_line_and_the_nearest_name():
    error = refused(head(rest="spec:\n  retry:\n    maxAttemps: 3\n"))
    assert str(error) == "spec.retry.maxAttemps: unknown field, did you mean maxAttempts? (q.yaml:6)"
    assert error.field == "spec.retry.maxAttemps"


def test_python_names_are_no_yaml_names():
    assert "spec.retry.max_attempts: unknown field, did you mean maxAttempts?" in str(
        refused(head(rest="spec: {retry: {max_attempts: 3}}\n"))
    )


def test_a_field_of_a_later_version_lists_what_is_known():
    assert "spec.tier: unknown field; known here: queue, workers, scaling" in str(
        refused(head(rest="spec: {tier: High}"))
    )


def test_all_problems_of_all_documents_come_at_once():
    error = str(
        refused(head("a", "spec:\n  timeLimit: soon\n  retry: {maxAttempts: 0}\n") + "---\n" + head("B") + "---\n{}\n")
    )
    assert "spec.timeLimit: 'soon' is not a duration; write" in error
    assert "(q.yaml:5)" in error
    assert "spec.retry.maxAttempts: 0 is refused: input should be greater than or equal to 1 (q.yaml:6)" in error
    assert "metadata.name: 'B' is not an object name" in error
    assert "apiVersion: missing; add it (q.yaml:12)" in error


def test_a_key_that_stands_twice_is_refused():
    error = refused(head(rest="spec:\n  timeLimit: 1m\n  timeLimit: 2m\n"))
    assert str(error) == "spec.timeLimit: stands twice, at lines 5 and 6; keep one (q.yaml:6)"


def test_a_queue_that_has_two_owners_is_refused():
    text = head("a", "spec: {queue: {name: mail}}\n") + "---\n" + head("mail")
    assert str(refused(text)).startswith("metadata.name: queue 'mail' has a JobQueue already, at line 4; keep one")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "is not valid YAML: .* q.yaml:2?|is not valid YAML: "),
        ("- just\n- a list\n", "is not a mapping of fields"),
        ("words", "is not a mapping of fields"),
        ("a: &a [*a]", "an anchor contains itself"),
        ("a: !!python/object/apply:os.system ['true']", "is not valid YAML: could not determine a constructor"),
        ("a: 2026-13-45", "is not YAML that can be read"),
        ("a: \x07", "is not valid YAML"),
        (head(rest="spec: [1]\n"), r"spec: \[1\] is not a mapping of fields"),
        ("? [a, b]\n: 1\n", "unknown field|is not valid YAML"),
        ("? {a: 1}\n: 1\n", "is not valid YAML: found unhashable key"),
        ("1: 2\n", "unknown field|is refused"),
        ("[" * 3000, "is not YAML that can be read|is not valid YAML"),
    ],
)
def test_what_is_no_jobqueue_is_refused(text, words):
    with pytest.raises(InvalidInputError, match=words):
        parse_job_queues(text, source="q.yaml")


def test_a_file_without_queues_is_refused(tmp_path):
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    with pytest.raises(ConfigurationError, match="holds no JobQueue"):
        load_job_queues(empty)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no such file"):
        load_job_queues(tmp_path / "none.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_job_queues(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_job_queues(latin)


def test_aliases_that_multiply_take_no_time():
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    refused("\n".join(lines))


def test_anchors_and_merges_work():
    text = head("a", "spec: &s {timeLimit: 1m}\n") + "---\n" + head("b", "spec: {<<: {timeLimit: 2m}, maxAge: 1h}\n")
    assert [q.spec.time_limit for q in parse_job_queues(text)] == [60.0, 120.0]


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    with pytest.raises((InvalidInputError, ConfigurationError)):
        parse_job_queues(text)

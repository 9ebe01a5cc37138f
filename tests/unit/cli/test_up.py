"""What `playbill up` makes of a file, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from playbill.cli.path import working_directory_on_path
from playbill.cli.processes import parse_queues
from playbill.cli.trial import require_actors
from playbill.cli.up import child_specs
from playbill.settings import load
from playbill.spec import parse_job_queues

from .conftest import Kit, Run, assert_error

FILE = """
apiVersion: playbill.dev/v1alpha1
kind: JobQueue
metadata: {name: mail}
spec:
  workers: {modules: [json], processes: 2, threads: 3, drainGrace: 5m}
  scaling: {minReplicas: 2}
---
apiVersion: playbill.dev/v1alpha1
kind: JobQueue
metadata: {name: pdf}
spec: {workers: {modules: [json]}}
"""


def test_each_queue_gets_its_minimum_and_at_least_one_worker_group() -> None:
    specs = child_specs(load(), parse_job_queues(FILE), ["csv"])
    assert [spec.name for spec in specs] == ["scheduler", "worker mail 1/2", "worker mail 2/2", "worker pdf"]
    assert specs[0].last
    assert specs[1].arguments[3:] == (
        "--queue", "mail", "--processes", "2", "--threads", "3", "--", "csv", "json",
    )  # fmt: skip
    assert specs[1].environment == {"PLAYBILL_DRAIN_GRACE_S": "300.0"}
    assert specs[3].environment == {}


def test_each_child_gets_a_port_of_its_own() -> None:
    specs = child_specs(load(http_port=9000), parse_job_queues(FILE), [])
    assert [spec.environment["PLAYBILL_HTTP_PORT"] for spec in specs] == ["9000", "9001", "9002", "9003"]
    assert "PLAYBILL_HTTP_PORT" not in child_specs(load(http_port=0), parse_job_queues(FILE), [])[0].environment


def test_queues_and_weights() -> None:
    assert parse_queues(["mail", "pdf=3"]) == {"mail": 1, "pdf": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FILE.replace("threads: 3", "threads: 0"), ["threads"]),
        (FILE.replace("threads", "thread"), ["thread"]),
        (FILE.replace("json", "no_such_module"), ["no_such_module"]),
        (FILE.replace("modules: [json]", ""), ["mail", "modules"]),
        ("kind: [", ["queues.yaml"]),
    ],
)
def test_a_wrong_file_is_refused_before_anything_starts(
    run: Run, kit: Kit, tmp_path: Path, text: str, words: list[str]
) -> None:
    (tmp_path / "queues.yaml").write_text(text.replace("{, ", "{"))
    assert_error(run("up", "-f", "queues.yaml"), 2, *words)
    assert kit.store.policies() == {}


JOBS = """
import threading
import dramatiq, playbill

print("a module may print what it likes")
playbill.configure()
threading.Thread(target=threading.Event().wait).start()

@dramatiq.actor(queue_name="mail")
def send() -> None: ...
"""


def test_modules_that_a_worker_can_use_pass_their_trial(tmp_path: Path) -> None:
    (tmp_path / "good_jobs.py").write_text(JOBS)
    working_directory_on_path()
    require_actors(["good_jobs"])  # though it leaves a thread behind


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("raise RuntimeError('no\\nluck')", ["module shop_jobs", "RuntimeError: no luck"]),
        ("raise SystemExit(7)", ["module shop_jobs", "SystemExit: 7"]),
        ("import os; os._exit(7)", ["shop_jobs", "code 7"]),
        ("", ["no actor", "shop_jobs"]),
    ],
)
def test_a_module_that_no_worker_can_use_is_refused_before_anything_is_written(
    run: Run, kit: Kit, tmp_path: Path, module: str, words: list[str]
) -> None:
    # Given
    (tmp_path / "shop_jobs.py").write_text(module)
    (tmp_path / "queues.yaml").write_text(FILE.replace("json", "shop_jobs"))
    # When, Then
    assert_error(run("up", "-f", "queues.yaml"), 2, *words)
    assert kit.store.policies() == {}


def test_a_package_that_does_not_import_is_told_from_one_that_is_missing(run: Run, kit: Kit, tmp_path: Path) -> None:
    # Given
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("import not_installed")
    # When, Then
    assert_error(run("worker", "--queue", "mail", "shop.jobs"), 2, "cannot import shop.jobs", "not_installed")
    assert_error(run("worker", "--queue", "mail", "shops.jobs"), 2, "no module named 'shops.jobs'")


def test_a_wrong_broker_url_is_refused_before_anything_is_written(
    run: Run, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    (tmp_path / "good_jobs.py").write_text(JOBS)
    (tmp_path / "queues.yaml").write_text(FILE.replace("json", "good_jobs"))
    monkeypatch.setenv("PLAYBILL_BROKER_URL", "http://x")
    # When, Then
    assert_error(run("up", "-f", "queues.yaml"), 2, "PLAYBILL_BROKER_URL")
    assert kit.store.policies() == {}


def test_a_policy_of_the_operator_is_not_taken_over(run: Run, kit: Kit, tmp_path: Path) -> None:
    kit.store.put_policy("mail", {}, owner="operator")
    (tmp_path / "good_jobs.py").write_text(JOBS)
    (tmp_path / "queues.yaml").write_text(FILE.replace("json", "good_jobs"))
    assert_error(run("up", "-f", "queues.yaml"), 1, "mail", "operator")

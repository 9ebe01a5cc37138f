"""The documents say what the code does, as far as that can be compared."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from pydantic import BaseModel

from playbill.broker.middleware import VerdictMiddleware
from playbill.cli.app import app
from playbill.cli.exits import ExitCode
from playbill.policy.states import TERMINAL, TRANSITIONS
from playbill.spec import parse_job_queues
from playbill.spec.jobqueue import JobQueue

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_drawing_of_the_states_is_the_state_machine():
    (drawing,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", text_of("ARCHITECTURE.md"), re.DOTALL)
    drawn = {tuple(pair) for pair in re.findall(r"^\s*(\S+) --> ([^\s:]+)", drawing, re.MULTILINE)}
    moves = {(source.value, target.value) for source, targets in TRANSITIONS.items() for target in targets}
    starts = {("[*]", "scheduled"), ("[*]", "pending")}
    assert drawn == moves | starts | {(status.value, "[*]") for status in TERMINAL}


def test_every_option_of_dramatiq_has_a_line():
    page = text_of("docs/reference/dramatiq-options.md")
    named = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (.*?) \|", page, re.MULTILINE))))
    stock = RabbitmqBroker(url="amqp://localhost").actor_options
    more = {"store_results", "result_ttl", "priority", "queue_name", "actor_name", "delay", "eta", "broker_priority"}
    assert (stock | more | VerdictMiddleware().actor_options) - named == set()


def paths(model, prefix=""):
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from paths(field.annotation, f"{path}.")
        else:
            yield path


def test_every_field_of_a_jobqueue_has_a_line():
    page = text_of("docs/reference/jobqueue.md")
    documented = set(re.findall(r"`(spec\.[\w.]+)`", page))
    assert documented == {path for path in paths(JobQueue) if path.startswith("spec.")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_jobqueues_in_the_documents_are_valid(page):
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        if "kind: JobQueue" in block:
            assert parse_job_queues(block, source=page.name)


def test_every_command_has_a_line():
    import typer

    page = text_of("docs/reference/cli.md")
    for name, command in typer.main.get_command(app).commands.items():
        assert f"playbill {name}" in page
        for child in getattr(command, "commands", {}):
            assert re.search(rf"playbill {name} .*\b{child}\b", page), f"{name} {child}"


def test_every_option_of_a_command_is_named():
    import typer

    def options(command):
        for child in getattr(command, "commands", {}).values():
            yield from options(child)
        yield from (name for each in command.params if not getattr(each, "hidden", False) for name in each.opts)

    page = text_of("docs/reference/cli.md")
    named = set(re.findall(r"--[a-z][a-z-]+", page))
    offered = {name for name in options(typer.main.get_command(app)) if name.startswith("--")}
    assert named == offered | {"--help"}


def test_every_exit_code_has_a_line():
    page = text_of("docs/reference/cli.md")
    for code in ExitCode:
        assert f"\n| {code.value} |" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_examples_in_python_are_python():
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            compile(block, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

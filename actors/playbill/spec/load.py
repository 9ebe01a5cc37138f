"""Read JobQueues from a YAML file: all problems at once, each with file, line, path and remedy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from playbill.errors import ConfigurationError, InvalidInputError
from playbill.spec.jobqueue import JobQueue
from playbill.spec.problems import Problem, dotted, problems_of

Loc = tuple[str | int, ...]


def load_job_queues(path: str | Path) -> tuple[JobQueue, ...]:
    """Read all JobQueues of a YAML file of one or several documents.

    Args:
        path: The file, UTF-8.

    Returns:
        The queues in the file's order; empty documents are skipped.

    Raises:
        ConfigurationError: The file cannot be read or holds no JobQueue.
        InvalidInputError: It is no YAML, or a document is wrong: the message names every problem of every document,
            ``field`` is the path of the first.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file; give the path of a YAML file with JobQueues") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    return parse_job_queues(text, source=str(path))


def parse_job_queues(text: str, *, source: str = "<text>") -> tuple[JobQueue, ...]:
    """As :func:`load_job_queues`, from text.

    Args:
        text: YAML.
        source: Name of the text in errors.
    """
    found: list[tuple[JobQueue, _Document]] = []
    wrong: list[tuple[str, Problem]] = []
    for document in _documents(text, source):
        problems = list(document.problems)
        try:
            queue = JobQueue.model_validate(document.value, by_alias=True, by_name=False)
        except ValidationError as error:
            problems += problems_of(error, JobQueue)
        else:
            found.append((queue, document))
        wrong += [(f"{source}:{document.line(problem.loc)}", problem) for problem in problems]
    wrong += _shared_queues(found, source)
    if wrong:
        (at, first), *others = wrong
        sentences = [f"{first.message} ({at})", *(f"{problem} ({at})" for at, problem in others)]
        raise InvalidInputError(first.path, "; ".join(sentences))
    if not found:
        raise ConfigurationError(f"{source}: holds no JobQueue; write at least one document with kind: JobQueue")
    return tuple(queue for queue, _ in found)


def _shared_queues(found: list[tuple[JobQueue, _Document]], source: str) -> list[tuple[str, Problem]]:
    first: dict[str, int] = {}
    wrong = []
    for queue, document in found:
        loc: Loc = ("spec", "queue", "name") if queue.spec.queue.name is not None else ("metadata", "name")
        line = document.line(loc)
        if queue.queue_name in first:
            message = (
                f"queue {queue.queue_name!r} has a JobQueue already, at line {first[queue.queue_name]}; "
                "keep one of them, or name another queue"
            )
            wrong.append((f"{source}:{line}", Problem(dotted(loc), message, loc)))
        first.setdefault(queue.queue_name, line)
    return wrong


@dataclass(slots=True)
class _Document:
    """A document as plain values, with the line of every path and the keys that stand twice."""

    value: Any = None
    lines: dict[Loc, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _open: set[int] = field(default_factory=set)
    _done: set[int] = field(default_factory=set)

    def line(self, loc: Loc) -> int:
        """The line of the path, or of the nearest part of it that exists."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 1)

    def index(self, node: yaml.Node, loc: Loc) -> None:
        """Note the lines of all paths from ``node`` down, each node once, and the keys that stand twice."""
        self.lines.setdefault(loc, node.start_mark.line + 1)
        if id(node) in self._open:
            raise yaml.MarkedYAMLError(problem="an anchor contains itself", problem_mark=node.start_mark)
        if id(node) in self._done:  # an alias: following each one takes exponential time in a hostile file
            return
        self._open.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.index(item, (*loc, index))
        elif isinstance(node, yaml.MappingNode):
            self._index_mapping(node, loc)
        self._open.discard(id(node))
        self._done.add(id(node))

    def _index_mapping(self, node: yaml.MappingNode, loc: Loc) -> None:
        seen: dict[str, int] = {}
        for key, item in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            below = (*loc, name)
            if name in seen:
                message = f"stands twice, at lines {seen[name]} and {line}; keep one"
                self.problems.append(Problem(dotted(below), message, below))
            seen.setdefault(name, line)
            self.lines[below] = line
            self.index(item, below)


def _documents(text: str, source: str) -> list[_Document]:
    documents = []
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            node = cast("yaml.Node", loader.get_node())  # check_node said that there is one
            document = _Document()
            document.index(node, ())
            document.value = loader.construct_document(node)
            if document.value is not None:
                documents.append(document)
    except yaml.YAMLError as error:
        raise InvalidInputError(*_syntax(error, source)) from None
    except (ValueError, RecursionError) as error:  # a date such as 2026-13-45, or a document nested without end
        raise InvalidInputError("document", f"is not YAML that can be read: {error} ({source})") from None
    return documents


def _syntax(error: yaml.YAMLError, source: str) -> tuple[str, str]:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    at = f"{source}:{mark.line + 1}" if mark is not None else source
    problem = getattr(error, "problem", None) or str(error)
    return "document", f"is not valid YAML: {problem}; correct it ({at})"

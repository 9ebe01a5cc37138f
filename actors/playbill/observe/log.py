"""Structured logs: one form for Playbill, for user code with structlog, and for libraries on standard logging.

Importing this configures nothing. Until ``configure_logging`` is called, by an entry point such as the command line,
events go to the standard loggers ``playbill.*`` as ``event key=value``, to be handled as the host program likes.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, Protocol, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from playbill.observe.redact import MASK, SECRET_KEYS, mask_forms, mask_urls

#: Libraries that are too talkative at "info"; they follow the level only from "warning" on.
QUIET_LIBRARIES: Final = ("pika", "alembic", "sqlalchemy")

_JOB_KEYS: Final = ("job_id", "attempt", "actor", "queue", "trace_id")
_PLAIN: Final = structlog.processors.KeyValueRenderer(sort_keys=True)

#: One tuple in one variable instead of structlog's variable per key: binding costs 0.2 us of every job.
_job: ContextVar[tuple[Any, ...] | None] = ContextVar("playbill_job", default=None)
_secrets: ContextVar[tuple[str, ...]] = ContextVar("playbill_secrets", default=())


class LogSettings(Protocol):
    """The settings that matter here; ``playbill.settings.Settings`` has them."""

    @property
    def log_format(self) -> str:
        """``auto``, ``console`` or ``json``."""

    @property
    def log_level(self) -> str:
        """Lowest level logged, in lower case."""


class _Handler(logging.StreamHandler[TextIO]):
    """Marks the handler that ``configure_logging`` made, so that a second call replaces it and no other."""


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A structured logger on top of the standard logger ``name``.

    Args:
        name: The module's ``__name__``.

    Returns:
        A logger whose events carry the bound job.
    """
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, *_context(), _hand_over],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return logger


def configure_logging(settings: LogSettings, *, stream: TextIO | None = None) -> None:
    """Send all logs of this process through one formatter. Call it again to change it.

    Args:
        settings: ``log_format`` and ``log_level`` are used.
        stream: Where lines go; standard error by default (standard output belongs to the command's answer).
    """
    out = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    handler = _Handler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_context(), _drop_formatted],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                *_renderers(_is_console(settings, out), out),
            ],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(level if level <= logging.DEBUG else max(level, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_context(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def bind_job(
    job_id: str, attempt: int, actor: str, queue: str, trace_id: str | None, *, secrets: tuple[str, ...] = ()
) -> None:
    """Put the job into every event of this thread or task until ``unbind_job``.

    Args:
        job_id: The job.
        attempt: Number of the attempt, from 1.
        actor: Name of the actor.
        queue: Name of the queue.
        trace_id: Trace id, 32 hex digits; None leaves it out.
        secrets: Texts to mask in every event meanwhile, as ``redact.text_forms`` gives them.
    """
    _job.set((job_id, attempt, actor, queue, trace_id))
    if secrets:
        _secrets.set(secrets)


def unbind_job() -> None:
    """End what ``bind_job`` began."""
    _job.set(None)
    if _secrets.get():
        _secrets.set(())


def bound_job() -> dict[str, Any]:
    """What is bound now, as it appears in events; empty outside a job."""
    job = _job.get()
    if job is None:
        return {}
    return {key: value for key, value in zip(_JOB_KEYS, job, strict=True) if value is not None}


def redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Processor: mask passwords of URLs, values of secret keys, and the sensitive arguments of the bound job."""
    forms = _secrets.get()
    for key, value in event_dict.items():
        event_dict[key] = _redacted(key, value, forms)
    return event_dict


def _add_job(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    for key, value in bound_job().items():
        event_dict.setdefault(key, value)
    return event_dict


def _drop_formatted(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    # Another handler's formatter leaves its text on the record, where it looks like an extra of the caller's.
    event_dict.pop("message", None)
    return event_dict


def _redacted(key: object, value: Any, forms: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {inner: _redacted(inner, item, forms) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(key, item, forms) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return MASK if forms and str(value) in forms else value
    if isinstance(value, str) and isinstance(key, str) and key.lower() in SECRET_KEYS:
        return MASK
    # Objects are rendered by their repr, which may hold a URL.
    return mask_urls(mask_forms(value if isinstance(value, str) else repr(value), forms))


def _context() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        _add_job,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _hand_over(logger: WrappedLogger, method: str, event_dict: EventDict) -> Any:
    """To our formatter where it is installed, as plain text where the host handles the standard loggers itself."""
    if any(isinstance(handler, _Handler) for handler in logging.getLogger().handlers):
        return structlog.stdlib.ProcessorFormatter.wrap_for_formatter(logger, method, event_dict)
    return _plain(event_dict)


def _plain(event_dict: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    # The host's own formatter adds time, level and logger name.
    for key in ("timestamp", "level", "logger"):
        event_dict.pop(key, None)
    exc_info = event_dict.pop("exc_info", None)
    redacted = redact(None, "", event_dict)
    event = str(redacted.pop("event", ""))
    text = f"{event} {_PLAIN(None, '', redacted)}".strip()
    return (text,), {"exc_info": exc_info} if exc_info else {}


def _is_console(settings: LogSettings, out: TextIO) -> bool:
    return settings.log_format == "console" or (settings.log_format == "auto" and out.isatty())


def _renderers(console: bool, out: TextIO) -> list[Processor]:
    if console:
        return [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.JSONRenderer()]

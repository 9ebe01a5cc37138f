"""Keeps pika's own log lines about our connections out of the logs.

Pika logs each lost connection a dozen times, as errors and with tracebacks; Playbill's events say it once. What pika
logs about other connections of the program stays, and so does all of it where its logger is set to debug.
"""

from __future__ import annotations

import logging
from typing import Final

THREAD_PREFIX: Final = "playbill-"

_PIKA: Final = "pika"


class _OwnThreads(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        ours = (record.threadName or "").startswith(THREAD_PREFIX)
        return not ours or logging.getLogger(_PIKA).isEnabledFor(logging.DEBUG)


_FILTER: Final = _OwnThreads()


def quieten_pika() -> None:
    """Install the filter; again does nothing. A filter holds for one logger only, hence for each that pika made."""
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and (name == _PIKA or name.startswith(f"{_PIKA}.")):
            logger.addFilter(_FILTER)

"""A psycopg connection that does not wait for ever: a hung server becomes an error of the connection."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.abc import RV, PQGen

from playbill.store.engine import ANSWER_TIMEOUT_S


class BoundedConnection(psycopg.Connection[Any]):
    """Gives up, and closes itself, when the server has not answered within ``ANSWER_TIMEOUT_S``."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for the server, with a limit where psycopg has none."""
        try:
            return super().wait(gen, interval=interval, timeout=ANSWER_TIMEOUT_S if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if timeout is None and self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.pgconn.finish()  # in mid-answer: nothing else can be asked on it
                raise psycopg.OperationalError(f"no answer within {ANSWER_TIMEOUT_S:g} s") from error
            raise

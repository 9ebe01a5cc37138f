"""Publishes what was enqueued in a caller's ORM session, once the transaction around it has really committed.

Whatever is not published here the scheduler's relay publishes, so nothing here may ever fail the caller's commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from playbill.broker.port import Outgoing
from playbill.observe import events
from playbill.observe.log import get_logger

log = get_logger(__name__)

Publish = Callable[[Sequence[Outgoing]], None]

_KEY: Final = "playbill_after_commit"


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one enqueue wants to publish; ``connection`` is what it was written on."""

    publish: Publish
    connection: Connection
    messages: Sequence[Outgoing]


#: By the transaction or savepoint that must still commit.
_Waiting = dict[SessionTransaction, list[_Batch]]


def session_that_tells(given: Any) -> Session | None:
    """The ORM session that ``given`` is, if it hears of everything that may undo what is written now; else None.

    A Connection or a psycopg connection tells nobody of its commit, nor does a session of savepoints that were made
    on its connection behind its back.
    """
    session = given() if isinstance(given, scoped_session) else given
    if not isinstance(session, Session):
        return None
    behind_its_back = session.connection().in_nested_transaction() and not session.in_nested_transaction()
    return None if behind_its_back else session


def publish_after_commit(session: Session, publish: Publish, messages: Sequence[Outgoing]) -> None:
    """Publish once the outermost transaction has committed; forget it where that, or a savepoint around, rolls back."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    if not messages or transaction is None:
        return
    _waiting(session).setdefault(transaction, []).append(_Batch(publish, session.connection(), messages))


def _waiting(session: Session) -> _Waiting:
    """What waits in this session. Its listeners stay: none may be removed while SQLAlchemy calls them."""
    waiting: _Waiting | None = session.info.get(_KEY)
    if waiting is None:
        waiting = session.info[_KEY] = {}
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_transaction_end", _ended)
    return waiting


def _committed(session: Session) -> None:
    """A transaction or savepoint has committed: what it held is its parent's, or published."""
    waiting: _Waiting = session.info[_KEY]
    savepoint = session.get_nested_transaction()
    ending = savepoint or session.get_transaction()
    batches = waiting.pop(ending, None) if ending is not None else None
    if not batches:
        return
    if savepoint is not None:
        waiting.setdefault(_around(savepoint), []).extend(batches)
        return
    for batch in batches:
        _publish(batch)


def _ended(session: Session, transaction: SessionTransaction) -> None:
    """Whatever a transaction still holds at its end was not committed."""
    session.info[_KEY].pop(transaction, None)


def _around(savepoint: SessionTransaction) -> SessionTransaction:
    """The transaction or savepoint around a savepoint; a flush has one of its own in between, which is neither."""
    around = savepoint.parent
    while around is not None and around.parent is not None and not around.nested:
        around = around.parent
    assert around is not None
    return around


def _publish(batch: _Batch) -> None:
    # A session that joined a transaction of its connection does not commit that one.
    if batch.connection.closed or not batch.connection.in_transaction():
        try:
            batch.publish(batch.messages)
        except Exception:
            log.exception(events.PUBLISH_DROPPED, messages=len(batch.messages), reason="publishing after a commit")

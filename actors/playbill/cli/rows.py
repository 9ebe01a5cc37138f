"""Jobs as the command line shows them: flat rows for lists, everything for one job; secrets masked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from playbill.observe.redact import MASK, mask_text
from playbill.store.port import JobRow

JOB_COLUMNS = ("id", "status", "queue", "actor", "attempt", "progress", "tenant", "created_at", "finished_at", "reason")


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of a job, masked, and the values that were masked."""

    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    secrets: tuple[Any, ...] = ()
    problem: str | None = None

    def masked(self, text: str | None) -> str | None:
        """A text in which secret arguments may have been quoted."""
        return mask_text(text, self.secrets) if text and self.secrets else text


def read_call(body: bytes) -> Call:
    """Decode a message; its option ``sensitive`` holds positions and names of the arguments to mask."""
    import dramatiq

    try:
        message = dramatiq.Message.decode(body)
    except Exception as error:  # noqa: BLE001 - the encoder is the user's choice: any class may come
        return Call(problem=f"the message cannot be decoded: {type(error).__name__}")
    places = frozenset(message.options.get("sensitive") or ())
    secrets = [value for index, value in enumerate(message.args) if index in places]
    secrets += [value for name, value in message.kwargs.items() if name in places]
    return Call(
        args=[MASK if index in places else value for index, value in enumerate(message.args)],
        kwargs={name: MASK if name in places else value for name, value in message.kwargs.items()},
        secrets=tuple(secrets),
    )


def percent(done: int, total: int | None) -> int | None:
    """Whole per cent, rounded down; None without a total."""
    return done * 100 // total if total else None


def progress_text(done: int, total: int | None) -> str:
    """Progress for people: ``15/22 items, 68 %``."""
    if total:
        return f"{done}/{total} items, {percent(done, total)} %"
    return f"{done} items" if done else ""


def list_row(row: JobRow) -> dict[str, Any]:
    """A job as a flat object of scalars."""
    error = row.error
    call = read_call(row.message) if error is not None else Call()
    return {
        "id": row.id,
        "status": row.status,
        "queue": row.queue,
        "actor": row.actor,
        "attempt": row.attempt,
        "priority": row.priority,
        "tenant": row.tenant,
        "key": row.key,
        "tags": ",".join(row.tags),
        "done": row.done,
        "total": row.total,
        "percent": percent(row.done, row.total),
        "created_at": row.created_at,
        "run_at": row.run_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "worker": row.worker,
        "error_type": error.type if error else None,
        "error_message": call.masked(error.message) if error else None,
        "wait_reason": row.wait_reason,
        "cancelling": row.cancelling,
        "crashes": row.crashes,
    }


def table_row(row: JobRow) -> dict[str, Any]:
    """A job as a line of the table."""
    flat = list_row(row)
    flat["progress"] = progress_text(row.done, row.total)
    flat["status"] = "cancelling" if row.cancelling and not row.status.is_terminal else str(row.status)
    flat["reason"] = flat["error_type"] or flat["wait_reason"]
    return flat


def full_row(row: JobRow) -> dict[str, Any]:
    """All that is known of a job."""
    call = read_call(row.message)
    shown: dict[str, Any] = {**list_row(row), "tags": list(row.tags)}
    shown["args"], shown["kwargs"] = call.args, call.kwargs
    if call.problem is not None:
        shown["message_problem"] = call.problem
    shown["cursor"] = _masked_json(call, json.dumps(row.cursor)) if row.cursor is not None else None
    shown["result"] = _masked_json(call, row.result)
    shown["traceback"] = call.masked(row.error.traceback) if row.error else None
    shown["history"] = [_masked_entry(call, entry) for entry in row.history]
    return shown


def _masked_json(call: Call, text: str | None) -> Any:
    masked = call.masked(text)
    if not masked:
        return None
    try:
        return json.loads(masked)
    except ValueError:
        return masked  # masking a number leaves no JSON


def _masked_entry(call: Call, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _masked_value(call, value) for key, value in entry.items()}


def _masked_value(call: Call, value: Any) -> Any:
    if isinstance(value, str):
        return call.masked(value)
    if isinstance(value, Mapping):  # the error of an attempt, which quotes arguments as freely as the last one
        return _masked_entry(call, value)
    if isinstance(value, (list, tuple)):
        return [_masked_value(call, item) for item in value]
    return value

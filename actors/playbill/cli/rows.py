"""Jobs as the command line shows them: flat rows for lists, everything for one job; secrets masked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from playbill.observe.redact import mask_forms, mask_value, masked_message, message_secrets, text_forms
from playbill.store.values import JobRow

JOB_COLUMNS = ("id", "status", "queue", "actor", "attempt", "progress", "tenant", "created_at", "finished_at", "reason")


@dataclass(frozen=True, slots=True)
class Call:
    """The message of a job, masked, and every text in which what was masked may show up."""

    message: dict[str, Any] | None = None
    forms: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def args(self) -> list[Any] | None:
        """Positional arguments."""
        return self.message["args"] if self.message is not None else None

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """Keyword arguments."""
        return self.message["kwargs"] if self.message is not None else None

    def masked(self, text: str | None) -> str | None:
        """A text in which secret arguments may have been quoted."""
        return mask_forms(text, self.forms) if text else text


def read_call(body: bytes) -> Call:
    """Decode a message; its option ``sensitive`` holds positions and names of the arguments to mask."""
    import dramatiq

    try:
        message = dramatiq.Message.decode(body).asdict()
        forms = text_forms(message_secrets(message))
        return Call(masked_message(message, forms), forms)
    except Exception as error:  # noqa: BLE001 - the encoder is the user's choice: any class may come
        return Call(problem=f"the message cannot be decoded: {type(error).__name__}")


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
    shown["history"] = mask_value(list(row.history), call.forms)
    return shown


def _masked_json(call: Call, text: str | None) -> Any:
    masked = call.masked(text)
    if not masked:
        return None
    try:
        return json.loads(masked)
    except ValueError:
        return masked  # masking a number leaves no JSON

"""The job of the stock service: move the items of a transfer, batch by batch."""

from __future__ import annotations

import os
import time
from typing import Any

import dramatiq
from examples.stock.models import Item, Movement, Transfer, engine
from sqlalchemy import func, select
from sqlalchemy.orm import Session

import playbill

BATCH = 10
#: The work of hands that a real warehouse does for each item, s.
HANDLING_S = float(os.environ.get("STOCK_HANDLING_S", "0.1"))

playbill.configure()


@dramatiq.actor(queue_name="transfers")
def send_transfer(transfer_id: str, notes: str = "") -> dict[str, Any]:
    """Move all items of a transfer to its target.

    Each batch is one transaction: the items, the ledger and the checkpoint commit together or not at all. After a
    crash the next attempt starts behind the last batch that did commit.

    Args:
        transfer_id: The transfer.
        notes: Written on the transfer.

    Returns:
        The transfer's number and how many items were processed.
    """
    job = playbill.current_job()
    with Session(engine()) as db, db.begin():
        transfer = db.get_one(Transfer, transfer_id)
        number, target = transfer.number, transfer.target
        transfer.notes = notes or transfer.notes
        total = db.scalar(select(func.count()).where(Item.transfer_id == transfer_id)) or 0
    done = job.cursor or 0
    while done < total:
        upto = min(done + BATCH, total)
        time.sleep(HANDLING_S * (upto - done))  # outside of the transaction: nobody waits for our hands
        with Session(engine()) as db, db.begin():
            _move(db, transfer_id, range(done + 1, upto + 1), target, job.attempt)
            job.checkpoint(db, upto, total=total, cursor=upto)
        done = upto
    return {"transferNumber": number, "itemsProcessed": total}


def _move(db: Session, transfer_id: str, positions: range, target: str, attempt: int) -> None:
    items = db.scalars(select(Item).where(Item.transfer_id == transfer_id, Item.position.in_(positions)))
    for item in items:
        item.warehouse = target
        db.add(
            Movement(
                transfer_id=transfer_id, position=item.position, warehouse=target, attempt=attempt, pid=os.getpid()
            )
        )

"""Defects for tests of the evidence. Python imports this module when a service starts.

``PLANTED=twice``: bitcoin treats every attempt as a separate payment, as if it stored no replies.
``PLANTED=lost``: web5 replies that it stored the record of a payment, and does not store it.
"""

from __future__ import annotations

import os
import sys
import uuid
from copy import copy
from dataclasses import replace
from typing import Any


def pay_for_every_attempt() -> None:
    from services.bitcoin.payments import PaymentSender

    send = PaymentSender.send

    async def send_under_new_id(
        self: PaymentSender, key: Any, request: Any, *rest: Any, **named: Any
    ) -> Any:
        id = str(uuid.uuid4())
        own = replace(key, request_id=id), replace(request, payment_id=id)
        return await send(self, *own, *rest, **named)

    PaymentSender.send = send_under_new_id  # type: ignore[method-assign]


def forget_records() -> None:
    from services.web5.store.dwn.node import Dwn

    store = Dwn.store_transaction_record

    async def store_nothing(self: Dwn, *given: Any, **named: Any) -> bytes:
        forgetful = copy(self)  # separate, because payments may be recorded concurrently
        forgetful._database = Forgetful(self._database)
        return await store(forgetful, *given, **named)

    Dwn.store_transaction_record = store_nothing  # type: ignore[method-assign]


class Forgetful:
    """A database that rolls back every write and reports success."""

    def __init__(self, database: Any) -> None:
        self.read = database.read
        self._database = database

    async def write(self, work: Any) -> Any:
        found = []

        async def doomed(tx: Any) -> None:
            found.append(await work(tx))
            raise KeyError

        try:
            await self._database.write(doomed)
        except KeyError:
            return found[0]


match os.environ.get("PLANTED"), sys.orig_argv[-1]:
    case "twice", "services.bitcoin":
        pay_for_every_attempt()
    case "lost", "services.web5":
        forget_records()
    case _:
        pass

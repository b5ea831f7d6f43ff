"""Inputs of runs: the command line refuses an invalid one before it calls a service."""

from __future__ import annotations

from typing import Any

import pytest

from cli import payment_client, runs
from cli.errors import USAGE, CommandError
from cli.identities import Identity
from cli.wallet_holder import Holder


@pytest.mark.parametrize(
    "text",
    ['{"a": "\\ud800"}', '{"a": 1' + "0" * 400 + "}", "[]", "{", '{"a": ' * 25 + "1" + "}" * 25],
    ids=["half a character", "a number beyond all", "no object", "no JSON", "deep"],
)
def test_input_that_cannot_be_sent_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="the input") as refusal:
        runs.read_input(text)

    assert refusal.value.exit_code == USAGE


@pytest.mark.parametrize(
    "payment",
    [{"amount": 0}, {"amount": 10**30}, {"amount": True}, {"amount": 5, "payment_id": 7}],
    ids=str,
)
async def test_invalid_payment_is_refused_before_it_is_signed(
    payment: dict[str, Any],
) -> None:
    payer = Identity("payer", Holder.generate(), addresses=("bcrt1q",))
    given = {"payments": [{"recipient_address": "bcrt1p", **payment}]}

    with pytest.raises(CommandError, match="payment") as refusal:
        await payment_client.prove_input({}, payer, given)

    assert refusal.value.exit_code == USAGE

"""Runs that make several payments: each is made once, and no step is compensated after one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anya.bitcoin.v1 import wallet_pb2
from anya.mesh.v1.attestation_pb2 import Attestation
from anya.ml.v1 import risk_pb2
from anya.web5.v1 import identity_pb2
from services.orchestrator.engine.activations import CallCommand, CancelRequested, WaitCommand
from services.orchestrator.engine.outcome import public_reason
from services.orchestrator.engine.retry_policy import SECOND_US
from tests.orchestrator.engine.definitions import STORE, UNDO, call, indent
from tests.orchestrator.engine.engine_run import paying_several
from tests.orchestrator.engine.finished_runs import redrive
from tests.orchestrator.engine.random_outcomes import HAPPENINGS, Services, live
from tests.orchestrator.multi_payment import (
    BATCH,
    EITHER,
    PAIR,
    as_input,
    batch_of,
    intent,
    pair_of,
)
from tests.profile import examples

if TYPE_CHECKING:
    from anya.mesh.v1.attestation_pb2 import PaymentIntent
    from tests.orchestrator.engine.engine_run import EngineRun

CANCEL = CancelRequested("enough", "spiffe://me", 1)
KEEP = indent("- id: " + call("keep", STORE, UNDO).replace("\n  ", "\n"), 2)
SAGA = PAIR.replace("steps:\n", f"steps:\n{KEEP}\n", 1).replace(
    "input.did", "input.first.sender_did"
)
RISKY = risk_pb2.AssessFraudRiskResponse(risk_score=0.9)


def pair(text: str = PAIR) -> tuple[EngineRun, PaymentIntent, PaymentIntent]:
    """A run of two payments, begun."""
    first, second = intent(1000), intent(2000)
    return paying_several(text, pair_of(first, second), first, second), first, second


def batch(count: int) -> tuple[EngineRun, list[PaymentIntent]]:
    intents = [intent(1000 + at) for at in range(count)]
    return paying_several(BATCH, batch_of(*intents), *intents), intents


def until(run: EngineRun, path: str) -> EngineRun:
    while run.calls != [path]:
        run.do(run.commands[0])
    return run


def sent(run: EngineRun, path: str) -> wallet_pb2.SendPaymentRequest:
    (request,) = run.sent[path]
    return wallet_pb2.SendPaymentRequest.FromString(request)


def test_each_payment_is_made_under_its_own_id() -> None:
    run, first, second = pair()

    run.finish()

    assert run.status == "SUCCEEDED"
    assert set(run.statuses().values()) == {"SUCCEEDED"}
    assert [sent(run, path).request_id for path in ("pay1", "pay2")] == [
        first.payment_id,
        second.payment_id,
    ]
    assert run.state.run_id not in (first.payment_id, second.payment_id)


def test_each_item_of_a_list_is_paid_under_its_own_id_and_one_after_the_other() -> None:
    run, intents = batch(3)
    while run.commands:
        assert len(run.calls) == 1
        run.do(run.commands[0])

    ids = [sent(run, f"each[{at}]/pay").request_id for at in range(3)]
    assert run.status == "SUCCEEDED"
    assert ids == [one.payment_id for one in intents]


def test_a_step_receives_the_proofs_of_its_own_payment_only() -> None:
    run, *intents = pair()
    for number, one in enumerate(intents, start=1):
        proofs = [Attestation(kind="identity", jws=f"identity of {one.payment_id}")]
        verified = identity_pb2.VerifyIdentityResponse(
            verified=True, confidence=0.9, attestations=proofs
        )
        run.do(run.at(f"verify{number}"), verified)
        until(run, f"record{number}")
        run.reply(f"record{number}")

    for number, one in enumerate(intents, start=1):
        context = sent(run, f"pay{number}").context
        assert context.intent == one
        assert context.presentation == f"vp of {one.payment_id}"
        assert [proof.jws for proof in context.attestations] == [
            f"identity of {one.payment_id}",
            "b",  # from ml, about the risk of this payment
        ]


def test_a_run_whose_second_payment_is_refused_names_both_payments() -> None:
    run, _, second = pair()
    until(run, "pay2")

    run.fail("pay2", "FAILED_PRECONDITION", "INSUFFICIENT_FUNDS")

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason == (
        "pay1 was done, but not what follows: pay2: INSUFFICIENT_FUNDS: said the service"
    )
    assert public_reason(run.state) == "pay2: INSUFFICIENT_FUNDS"
    redrive(run)
    run.finish()
    assert run.status == "SUCCEEDED"
    assert sent(run, "pay2").request_id == second.payment_id


def test_a_run_whose_second_payment_is_too_risky_names_both() -> None:
    run, *_ = pair()
    until(run, "assess2/score")

    run.do(run.at("assess2/score"), RISKY)

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason.startswith("pay1 was done, but not all: ")
    assert run.state.reason.endswith("condition of pay2 is false")
    assert public_reason(run.state) == run.state.reason
    assert "pay2" not in run.sent


def test_a_run_that_made_its_second_payment_only_is_not_called_refused() -> None:
    run, *_ = pair()
    until(run, "assess1/score")

    run.do(run.at("assess1/score"), RISKY)
    run.finish()

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason.startswith("pay2 was done, but not all: ")
    assert run.state.reason.endswith("condition of pay1 is false")


def test_a_run_that_made_none_of_its_payments_is_refused() -> None:
    run, *_ = pair()
    for number in (1, 2):
        until(run, f"assess{number}/score")
        run.do(run.at(f"assess{number}/score"), RISKY)

    assert run.status == "REFUSED"
    assert run.state.reason.count("is false") == 2


def test_a_second_payment_that_the_network_rejects_does_not_make_the_first_a_failure() -> None:
    rejected = wallet_pb2.SendPaymentResponse(status=wallet_pb2.SEND_OUTCOME_REJECTED)
    run, *_ = pair()
    until(run, "pay2")

    run.do(run.at("pay2"), rejected)

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason == "pay1 was done, but not all: pay2: status is rejected"


def test_no_step_is_compensated_once_the_first_payment_is_made() -> None:
    run, *_ = pair(SAGA)
    until(run, "pay2")

    run.fail("pay2", "FAILED_PRECONDITION", "PROOF_EXPIRED")

    assert run.status == "NEEDS_ATTENTION"
    assert "keep/compensate" not in run.statuses()


def test_completed_steps_are_compensated_if_no_payment_was_made() -> None:
    run, *_ = pair(SAGA)
    until(run, "pay1")

    run.fail("pay1", "FAILED_PRECONDITION", "PROOF_EXPIRED")
    run.reply("keep/compensate")

    assert run.status == "COMPENSATED"


def test_the_record_of_a_payment_is_owed_and_the_next_payment_is_not() -> None:
    run, *_ = pair()
    until(run, "record1")
    run.now_us = run.state.deadline_us + SECOND_US
    for _ in range(5):
        run.fail("record1", "UNAVAILABLE")
        run.do(run.commands[0])
    run.reply("record1")
    until(run, "assess2/identity")

    run.fail("assess2/identity", "UNAVAILABLE")

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason.startswith("pay1 was done, but not what follows: assess2/identity: ")


def test_a_second_payment_that_is_uncertain_past_the_deadline_is_cancelled_at_its_service() -> None:
    run, _, second = pair()
    until(run, "pay2")
    run.now_us = run.state.deadline_us
    run.fail("pay2", "DEADLINE_EXCEEDED")

    (cancel,) = run.commands
    run.do(cancel)
    run.fail("pay2", "FAILED_PRECONDITION", "PAYMENT_CANCELLED")

    assert run.status == "NEEDS_ATTENTION"
    assert "pay2: PAYMENT_CANCELLED" in run.state.reason
    assert run.state.steps["pay2"].key == second.payment_id


def test_a_cancel_between_two_payments_keeps_the_first_and_refuses_the_second() -> None:
    run, _, second = pair()
    until(run, "record1")
    run.apply(CANCEL)
    run.reply("record1")

    (asked,) = run.commands
    assert isinstance(asked, CallCommand)
    assert asked.path == "pay2/cancel"
    assert wallet_pb2.CancelPaymentRequest.FromString(asked.request).payment_id == second.payment_id
    run.do(asked)

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason == (
        "pay1 was done, but not what follows: verify2: the run was cancelled before it was sent"
    )
    assert run.statuses()["record1"] == "SUCCEEDED"
    assert not {"verify2", "pay2"} & run.sent.keys()


def test_a_cancel_skips_steps_that_only_prepare_the_next_payment() -> None:
    run, *_ = pair()
    until(run, "assess2/identity")
    run.fail("assess2/identity", "UNAVAILABLE", "BREAKER_OPEN")
    assert run.status == "CIRCUIT_OPEN"

    run.apply(CANCEL)
    run.reply("pay2/cancel")

    assert run.status == "NEEDS_ATTENTION"
    assert "assess2/identity: CANCELLED" in run.state.reason


def test_a_cancel_before_the_first_payment_refuses_all_of_them() -> None:
    run, intents = batch(3)
    run.apply(CANCEL)
    run.reply("each[0]/verify")

    refused = {
        wallet_pb2.CancelPaymentRequest.FromString(command.request).payment_id
        for command in run.commands
        if isinstance(command, CallCommand)
    }
    run.finish()

    assert refused == {one.payment_id for one in intents}
    assert run.status == "CANCELLED"


def test_a_payment_that_was_cancelled_alone_ends_the_run_when_it_is_due() -> None:
    run, _ = batch(3)
    until(run, "each[1]/pay")

    run.fail("each[1]/pay", "FAILED_PRECONDITION", "PAYMENT_CANCELLED")

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason.startswith("each[0]/pay was done, but not what follows: each[1]/pay: ")


def test_a_run_whose_first_payment_was_cancelled_cancels_the_others_before_it_ends() -> None:
    run, *_ = pair()
    until(run, "pay1")

    run.fail("pay1", "FAILED_PRECONDITION", "PAYMENT_CANCELLED")
    run.reply("pay2/cancel")

    assert run.status == "CANCELLED"
    assert "pay1/cancel" not in run.statuses()


def test_a_run_of_which_the_network_rejects_all_payments_has_failed() -> None:
    rejected = wallet_pb2.SendPaymentResponse(status=wallet_pb2.SEND_OUTCOME_REJECTED)
    run, *_ = pair(SAGA)

    for path in ("pay1", "pay2"):
        until(run, path)
        run.do(run.at(path), rejected)
    run.reply("keep/compensate")

    assert run.status == "COMPENSATED"
    assert run.state.reason == "pay1: status is rejected; pay2: status is rejected"


@pytest.mark.parametrize("fast", [True, False])
def test_only_one_of_two_steps_for_one_payment_pays(fast: bool) -> None:
    one = intent()
    run = paying_several(EITHER, {"fast": fast, "first": as_input(one)}, one)

    run.finish()

    taken, left = ("one", "other") if fast else ("other", "one")
    assert run.status == "SUCCEEDED"
    assert sent(run, f"which/{taken}").request_id == one.payment_id
    assert run.statuses()[f"which/{left}"] == "SKIPPED"


def test_a_payment_that_two_steps_could_make_is_cancelled_once() -> None:
    one = intent()
    run = paying_several(EITHER, {"fast": True, "first": as_input(one)}, one)
    run.fail("which/one", "UNAVAILABLE", "BREAKER_OPEN")

    run.apply(CANCEL)
    (asked,) = run.commands
    run.do(asked)

    assert asked.path == "which/one/cancel"
    assert run.status == "CANCELLED"


def test_the_made_payments_of_a_long_list_are_counted() -> None:
    run, _ = batch(6)
    until(run, "each[5]/pay")

    run.fail("each[5]/pay", "FAILED_PRECONDITION", "PROOF_EXPIRED")

    assert run.state.reason.startswith(
        "each[0]/pay, each[1]/pay, each[2]/pay and 2 more was done, but not what follows: "
    )


def test_a_second_payment_with_an_unknown_outcome_is_reported_with_the_first() -> None:
    run, *_ = pair()
    until(run, "pay2")
    while not run.state.finished:
        run.now_us += SECOND_US
        command = run.commands[0]
        if isinstance(command, WaitCommand):
            run.do(command)
        else:
            run.fail("pay2", "DEADLINE_EXCEEDED")

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason.startswith("pay1 was done; pay2: its outcome is unknown, last ")


MADE = ("pay1", "pay2", "each[0]/pay", "each[1]/pay")
NOTHING_PAID = ("REFUSED", "FAILED", "CANCELLED", "COMPENSATED", "COMPENSATION_FAILED")


@pytest.mark.parametrize("text", ["pair", "saga", "batch"])
@settings(deadline=None, max_examples=examples(150))
@given(happenings=HAPPENINGS, more=HAPPENINGS, when=st.integers(0, 150))
def test_each_payment_is_made_once_and_the_end_reports_it(
    text: str, happenings: list[tuple[int, str]], more: list[tuple[int, str]], when: int
) -> None:
    run, intents = batch(2) if text == "batch" else _pair(text)
    services, happenings = Services(), happenings + more

    live(run, services, happenings[:when])
    if not run.state.finished:
        run.apply(CANCEL)
    live(run, services, happenings[when:])
    services.arrive()

    ids = [one.payment_id for one in intents]
    paid = {path: keys for path, keys in services.done.items() if path in MADE}
    for path, keys in paid.items():
        assert keys == {ids[MADE.index(path) % 2]}
    assert all(len(run.sent.get(path, set())) <= 1 for path in MADE)
    if run.status == "SUCCEEDED":
        assert len(paid) == len(ids)
    if run.status in NOTHING_PAID:
        assert not paid
    if run.status == "CANCELLED":
        assert set(ids) <= services.cancelled
    for path, keys in paid.items():
        assert not keys & services.cancelled, path


def _pair(text: str) -> tuple[EngineRun, list[PaymentIntent]]:
    run, *intents = pair(SAGA if text == "saga" else PAIR)
    return run, list(intents)

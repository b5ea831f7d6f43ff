"""A run uses only the privileges that its caller had when it started."""

from __future__ import annotations

from services.orchestrator import definition
from services.orchestrator.definition.workflow import privileges
from services.orchestrator.engine.fold import fold
from tests.orchestrator.engine.definitions import READ, STORE, UNDO, call, steps
from tests.orchestrator.engine.engine_run import bounded, paying

LOOK = call("look", READ)
KEEP = call("keep", STORE)


def test_a_call_without_its_privilege_is_not_made() -> None:
    run = bounded(steps(LOOK, KEEP), frozenset({"read_identity"}), did="d")
    run.reply("look")

    assert run.status == "FAILED"
    assert run.commands == []
    assert "keep" not in run.sent
    assert run.state.reason == (
        "keep: store_transaction_record needs 'store_record', and runs that spiffe://me starts"
        " may not use it; nothing was sent"
    )


def test_a_call_without_the_privilege_of_its_compensation_is_not_made() -> None:
    undo = UNDO.replace("store_transaction_record", "complete_address_link").replace(
        "{did: d, transaction_data: {undone: true}}",
        "{challenge_id: c, did_proof: p}",
    )
    text = steps(call("keep", STORE, undo))

    allowed = bounded(text, frozenset({"store_record", "link_address"}), did="d")
    small = bounded(text, frozenset({"store_record"}), did="d")

    assert allowed.calls == ["keep"]
    assert small.status == "FAILED"
    assert small.calls == []


def test_a_missing_privilege_can_be_caught_like_any_error() -> None:
    text = steps(
        call("keep", STORE, "    on_error: {errors: [PERMISSION_NOT_GRANTED]}"),
        'note\n    set: {why: "{{steps.keep._error}}"}',
    )

    run = bounded(text, frozenset(), did="d")

    assert run.status == "SUCCEEDED"
    assert run.state.steps["note"].output == {"why": "PERMISSION_NOT_GRANTED"}


def test_a_payment_without_its_privilege_is_refused_and_not_sent() -> None:
    allowed = privileges(definition.load(definition.built_in_text("verified_payment"))) - {"spend"}
    run = paying(allowed=allowed)
    run.finish()

    assert run.status == "REFUSED"
    assert "execute_payment" not in run.sent


def test_the_allowed_privileges_are_those_of_the_start_record() -> None:
    run = bounded(steps(KEEP), frozenset({"store_record"}), did="d")

    run.crash()

    assert fold("run", run.journal).allowed_privileges == frozenset({"store_record"})
    assert run.calls == ["keep"]


def test_a_workflow_needs_the_privileges_of_every_call_in_it() -> None:
    paying = privileges(definition.load(definition.built_in_text("verified_payment")))
    undone = privileges(definition.load(steps(call("keep", STORE, UNDO), LOOK)))

    assert paying == {
        "assess_risk",
        "read_chain",
        "read_identity",
        "spend",
        "store_record",
        "verify_identity",
    }
    assert undone == {"store_record", "read_identity"}

"""The check knows which payment each step makes, and that no other step makes it."""

from __future__ import annotations

import pytest

from services.orchestrator import definition
from tests.orchestrator.multi_payment import BATCH, EITHER, PAIR

NAMED = 'payment: "{{input.second.payment_id}}"'


def problems(text: str) -> list[str]:
    return [str(problem) for problem in definition.check(text)]


@pytest.mark.parametrize("text", [PAIR, BATCH, EITHER], ids=["pair", "batch", "either"])
def test_workflow_may_make_several_named_payments(text: str) -> None:
    assert problems(text) == []
    assert definition.load(text).names_payments


@pytest.mark.parametrize(
    ("text", "was", "is_", "message"),
    [
        (PAIR, NAMED, "", "payment is missing: if one step names a payment, each one does"),
        (PAIR, NAMED, 'payment: "{{input.first.payment_id}}"', "is paid by pay1 already"),
        (PAIR, NAMED, 'payment: "{{steps.verify1.score}}"', "must be one path into the run's"),
        (PAIR, NAMED, 'payment: "x{{input.second.payment_id}}"', "must be one path into the run's"),
        (PAIR, NAMED, "payment: 0198c0de-0000-7000-8000-000000000000", "must be one path into"),
        (PAIR, NAMED, 'payment: "{{item.payment_id}}"', "item can be read inside for_each only"),
        (BATCH, "item.payment_id", "input.payment_id", "is the same for every item"),
        (BATCH, "max_concurrency: 1", "max_concurrency: 2", "cannot be taken back: not inside"),
        (BATCH, "max_concurrency: 1", "on_item_error: continue", "cannot be taken back: not"),
        (BATCH, 'items: "{{input.payments}}"', 'items: ["a"]', "must be one path into the run's"),
    ],
)
def test_ambiguous_payment_is_refused(text: str, was: str, is_: str, message: str) -> None:
    before, pays, after = text.rpartition("- id: pay")
    spoiled = before + pays + after.replace(was, is_, 1)  # in the last step that pays
    if was not in after:
        spoiled = text.replace(was, is_)

    assert any(message in problem for problem in problems(spoiled))


def test_for_each_that_pays_cannot_catch_errors() -> None:
    caught = BATCH.replace("    for_each:", "    on_error: {}\n    for_each:")

    assert any("cannot be taken back: not inside" in problem for problem in problems(caught))


def test_unnamed_payment_is_refused_inside_for_each() -> None:
    nameless = BATCH.replace('payment: "{{item.payment_id}}"', "")

    assert any("inside for_each must name its payment" in problem for problem in problems(nameless))


def test_workflow_that_names_payments_must_pay() -> None:
    judging = PAIR[: PAIR.index("- id: pay1")]

    assert any("no step of the workflow pays" in problem for problem in problems(judging))


def test_several_unnamed_payments_are_refused() -> None:
    nameless = "\n".join(line for line in PAIR.splitlines() if "payment:" not in line)

    assert any("each step names its payment" in problem for problem in problems(nameless))


def test_paying_same_list_twice_is_refused() -> None:
    each = BATCH[BATCH.index("  - id: each") :]
    again = each.replace("each", "again").replace("for_again", "for_each")
    for name in ("verify", "assess", "pay", "record"):
        again = again.replace(f"- id: {name}", f"- id: {name}_again")
        again = again.replace(f"steps.{name}.", f"steps.{name}_again.")

    assert any(
        "input.payments[].payment_id is paid by pay" in one for one in problems(BATCH + again)
    )

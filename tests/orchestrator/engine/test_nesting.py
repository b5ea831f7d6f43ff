"""Steps inside steps: items of items, branches of items, workflows in a run, and their failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.orchestrator.engine.fold import fold
from services.orchestrator.engine.model import StepError
from services.orchestrator.engine.outcome import public_reason
from tests.orchestrator.engine.definitions import HANDLERS, NESTED, READ, STORE, UNDO, indent, steps
from tests.orchestrator.engine.engine_run import paying, run_of

if TYPE_CHECKING:
    from services.orchestrator.engine.model import RunState


def test_a_run_without_failures_begins_every_nested_step() -> None:
    run = run_of(NESTED, did="d")

    run.finish()

    assert run.status == "SUCCEEDED"
    assert run.state.steps["matrix"].output == {
        "results": [{"cells": [{"text": "0 1"}, {"text": "0 2"}]}, {"cells": [{"text": "1 3"}]}],
        "failed": 0,
    }
    assert run.state.steps["sub"].output == {"found": "r"}


def test_the_key_of_an_item_of_an_item_names_both_indices() -> None:
    run = run_of(NESTED, did="d")

    run.finish()

    step = run.state.steps["matrix[0]/cells[1]/sides/write_two"]
    assert step.key == "run/matrix/cells/sides/write_two/0.1"


def test_a_failed_branch_fails_its_item_once_the_other_branches_have_ended() -> None:
    run = run_of(NESTED, did="d")
    run.fail("matrix[0]/cells[0]/sides/ask_one")

    assert "matrix[0]/cells[0]/sides/write_two" in run.calls
    assert run.statuses()["matrix[0]"[:6]] == "RUNNING"
    run.crash()
    run.reply("matrix[0]/cells[0]/sides/write_two")
    assert run.statuses()["matrix[0]/cells[0]/sides"] == "FAILED"
    assert "matrix[0]/cells[0]/cell" not in run.statuses()
    run.finish()
    assert run.state.steps["matrix"].output == {
        "results": [None, {"cells": [{"text": "1 3"}]}],
        "failed": 1,
    }


def test_a_failed_parallel_skips_its_reads_and_runs_its_on_error() -> None:
    run = run_of(NESTED, did="d")
    while "guarded/write_kept" not in run.calls:
        run.do(run.commands[0])
    run.fail("guarded/write_kept", "FAILED_PRECONDITION", "NO")

    found = run.statuses()
    assert found["guarded"] == "FAILED"
    assert found["guarded/ask_watched"] == "SKIPPED"
    assert "guarded/write_more" not in found
    assert run.state.steps["guarded/on_error/sorry"].output == {"why": "NO"}
    run.finish()
    assert run.status == "SUCCEEDED"


def test_an_error_that_the_step_around_does_not_name_ends_the_run() -> None:
    run = run_of(NESTED, did="d")
    while "guarded/write_kept" not in run.calls:
        run.do(run.commands[0])
    run.fail("guarded/write_kept", "NOT_FOUND")

    assert run.status == "FAILED"
    assert run.state.reason == "guarded/write_kept: NOT_FOUND: said the service"


def test_steps_of_an_inner_workflow_are_compensated_with_the_rest() -> None:
    text = steps(
        "sub\n    workflow: inner\n    input_mapping: {did: d, limit: 1}\n"
        '    output_mapping: {found: "{{output.found}}"}',
        f"look{READ}",
    )
    run = run_of(text, did="d")
    run.reply("sub/record_it")
    run.fail("look")

    assert run.calls == ["sub/record_it/compensate"]
    run.finish()
    assert run.status == "COMPENSATED"
    assert run.state.steps["sub/record_it/compensate"].key == "run/sub/record_it/compensate/0"


def test_an_end_in_an_inner_workflow_ends_only_that_workflow() -> None:
    text = steps(
        "sub\n    workflow: inner\n    input_mapping: {did: d, limit: 9}\n"
        '    output_mapping: {found: "{{output.found}}"}\n    on_error: {}',
        'tell\n    set: {why: "{{steps.sub._error}}", found: "{{steps.sub.found}}"}',
    )
    run = run_of(text)

    assert run.status == "SUCCEEDED"
    assert run.state.steps["sub"].error is not None
    assert run.state.steps["sub"].error.message == "inner ended as refused: too much"
    assert run.state.steps["tell"].output == {"why": "FAILED_PRECONDITION", "found": None}


def test_a_run_is_pinned_to_the_workflows_inside_it() -> None:
    run = run_of(NESTED, did="d")

    inner = run.workflow.step("sub").action
    assert run.state.sub_workflow_hashes == run.workflow.sub_workflow_hashes
    assert list(run.state.sub_workflow_hashes) == ["inner"]
    assert run.state.sub_workflow_hashes["inner"] == inner.operation.runs.hash  # type: ignore[union-attr]


def test_items_of_items_are_bounded_together() -> None:
    text = steps(
        'each\n    for_each:\n      items: "{{input.rows}}"\n      steps:\n'
        '        - id: inner_each\n          for_each:\n            items: "{{item}}"\n'
        "            steps:\n              - id: one\n                set: {a: 1}"
    )

    run = run_of(text, rows=[[0] * 1000] * 21)

    assert run.status == "FAILED"
    assert "at most 20000 steps" in run.state.reason


def test_a_failed_compensation_in_an_item_is_no_failed_item() -> None:
    saving = indent(STORE, 6).replace("{{input.did}}", "d") + "\n" + indent(UNDO, 6)
    text = steps(
        "each\n    for_each:\n      items: [1]\n      on_item_error: continue\n      steps:\n"
        f"        - id: save{saving}",
        f"look{READ}",
    )
    run = run_of(text, did="d")
    run.reply("each[0]/save")
    run.fail("look")
    run.fail("each[0]/save/compensate", "INVALID_ARGUMENT")

    assert run.status == "COMPENSATION_FAILED"


def test_a_fold_of_every_prefix_gives_the_state_at_that_record() -> None:
    run = run_of(NESTED, did="d")
    seen: dict[int, RunState] = {}
    while run.commands:
        run.do(run.commands[-1])
        seen[len(run.journal)] = fold("run", run.journal)

    assert all(fold("run", run.journal[:at]) == state for at, state in seen.items())
    assert fold("run", run.journal) == run.state


def test_a_run_without_a_payment_on_its_path_is_refused() -> None:
    text = """
id: later
name: pays only after a failure
steps:
  - id: look
    protocol: web5
    operation: extract_identity_features
    input_mapping: {did: "{{input.sender_did}}", recipient_address: r}
    output_mapping: {}
    on_error:
      steps:
        - id: pay
          protocol: bitcoin
          operation: send_transaction
          input_mapping:
            from_address: "{{input.sender_address}}"
            to_address: "{{input.recipient_address}}"
            amount: "{{input.amount}}"
          output_mapping: {}
"""
    run, failed = paying(text=text), paying(text=text)

    run.do(run.commands[0])
    failed.do(failed.commands[0], StepError("NOT_FOUND", "", "no such DID"))
    failed.do(failed.commands[0])

    assert (run.status, run.state.reason) == ("REFUSED", "no step requested the payment")
    assert public_reason(run.state) == run.state.reason
    assert failed.status == "SUCCEEDED"


def test_the_public_reason_names_the_step_that_ended_the_run_and_none_that_it_abandoned() -> None:
    run = run_of(HANDLERS, did="d")

    run.fail("both/look")  # its on_error handles the error until the run ends
    run.fail("both/keep")

    assert (run.status, run.statuses()["both/look"]) == ("FAILED", "SKIPPED")
    assert public_reason(run.state) == "both/keep: NOT_FOUND"

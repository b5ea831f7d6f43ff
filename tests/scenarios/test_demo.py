"""`anya demo` as a newcomer runs it: its scenes, its traces, and a payment by hand."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from cli.home import SERVICES, Home
from cli.identities import Identities
from cli.spans import store
from tests.scenarios.meshes import Result, anya, up

if TYPE_CHECKING:
    from pathlib import Path

    from cli.spans.span import Trace

SCENES = [
    "verified_payment",
    "risky_payment",
    "unproven_sender",
    "unguarded_workflow",
    "crash_recovery",
]


@pytest.fixture(scope="module")
def scenes(demo: Result) -> dict[str, dict[str, Any]]:
    return {scene["name"]: scene for scene in demo.document["scenes"]}


@pytest.fixture(scope="module")
def trace(scenes: dict[str, dict[str, Any]], home: Path) -> Trace:
    return store.load(Home(home).traces, scenes["verified_payment"]["trace_id"])


def test_every_scene_has_the_expected_status(demo: Result) -> None:
    assert demo.code == 0, demo.err
    assert demo.out.count("\n") == 1
    assert [scene["name"] for scene in demo.document["scenes"]] == SCENES
    assert [scene["status"] for scene in demo.document["scenes"]] == [
        *("SUCCEEDED", "REFUSED", "REFUSED", "REFUSED", "SUCCEEDED")
    ]


def test_verified_payment_is_on_the_chain_and_recorded(
    scenes: dict[str, dict[str, Any]],
) -> None:
    scene = scenes["verified_payment"]

    assert re.fullmatch("[0-9a-f]{64}", scene["txid"])
    assert scene["confirmations"] >= 1
    assert scene["record_id"].startswith("bafy")
    assert 0 <= scene["risk_score"] < 0.7
    assert re.fullmatch("[0-9a-f]{32}", scene["trace_id"])
    assert scene["services"] == sorted(SERVICES)
    assert scene["seconds"] > 0


def test_risk_score_is_explained(scenes: dict[str, dict[str, Any]]) -> None:
    factors = scenes["verified_payment"]["risk_factors"]

    assert {factor["kind"] for factor in factors} == {"MODEL", "RULE"}
    for factor in factors:
        assert factor.keys() == {"name", "kind", "value", "status", "contribution"}


@pytest.mark.parametrize("name", ["risky_payment", "unproven_sender", "unguarded_workflow"])
def test_refused_scene_has_a_reason_and_no_broadcast(
    scenes: dict[str, dict[str, Any]], name: str
) -> None:
    assert scenes[name]["reason"]
    assert scenes[name]["broadcast"] == 0


def test_payment_to_a_scam_is_refused_by_its_score(
    scenes: dict[str, dict[str, Any]],
) -> None:
    assert 0.7 <= scenes["risky_payment"]["risk_score"] <= 1


def test_each_missing_proof_is_refused_for_a_separate_reason(
    scenes: dict[str, dict[str, Any]],
) -> None:
    cases = {case["name"]: case["reason"] for case in scenes["unproven_sender"]["cases"]}

    assert len(cases) == 4
    assert len(set(cases.values())) == 4


def test_payment_is_made_once_if_a_service_crashes_after_the_broadcast(
    scenes: dict[str, dict[str, Any]],
) -> None:
    scene = scenes["crash_recovery"]

    assert (scene["broadcast"], scene["restarts"]) == (1, 1)
    assert re.fullmatch("[0-9a-f]{64}", scene["txid"])


def test_payment_is_one_trace_across_all_services(trace: Trace) -> None:
    assert trace.is_whole
    assert not trace.unanswered
    assert trace.services == sorted([*SERVICES, "client"])


def test_every_call_is_a_client_span_with_a_server_span(trace: Trace) -> None:
    spans = {span.span_id: span for span in trace.spans}

    for span in trace.spans:
        if span.kind == "SERVER" and span.parent_id:
            parent = spans[span.parent_id]
            assert (parent.kind, parent.name) == ("CLIENT", span.name)
            assert parent.service in ("client", "orchestrator")
            assert parent.start_ns <= span.start_ns


def test_home_of_the_demo_can_be_used_afterwards(demo: Result, home: Path) -> None:
    payer = Identities(Home(home)).load("payer")
    merchant = json.loads((home / "client" / "economy.json").read_text())["licit"]
    with up(home, "--mine", "auto") as mesh:
        paid = mesh.anya(
            *("pay", "--from", payer.did, "--to", merchant, "--amount-sat", "1000000", "--json")
        )
        shown = mesh.anya("run", "show", paid.document["run_id"], "--json")

    assert paid.code == 0, paid.err
    assert paid.document["status"] == "SUCCEEDED"
    assert paid.document["confirmations"] >= 1
    assert shown.document["status"] == "succeeded"


def test_second_demo_on_the_same_home_reuses_its_economy(demo: Result, home: Path) -> None:
    again = anya("demo", "--json", home=home)

    assert again.code == 0, again.err
    assert [scene["name"] for scene in again.document["scenes"]] == SCENES

"""The trust policy: calls without a grant are denied, and an invalid policy is not loaded."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from hypothesis import given
from hypothesis import strategies as st

from anya.mesh.v1 import options_pb2
from mesh.rpc import contracts
from mesh.security import attestation
from mesh.security.assurance import Assurance
from mesh.security.condition import Condition
from mesh.security.trust import (
    ATTESTATION_KINDS,
    SPENDING_METHODS,
    ActivePolicy,
    Bounds,
    DataClass,
    PolicyError,
    parse,
)

METHOD = "anya.bitcoin.v1.ChainService/AddWatch"
SEND = "anya.bitcoin.v1.WalletService/SendPayment"
BARE = "anya.bitcoin.v1.ChainService/Bare"  # its contract states no privilege
PRIVILEGES = {METHOD: "watch_chain", SEND: "spend", BARE: ""}
ALICE, BOB = "spiffe://anya.internal/alice", "spiffe://anya.internal/bob"
TEXT = f"""
version: 1
principals: {{a: ["{ALICE}"], b: ["{BOB}"]}}
boundaries:
  - from: a
    to: b
    max_class: internal
    methods:
      {METHOD}: {{}}
      {SEND}:
        max_amount_sat: 5_000
        daily_amount_sat: 20_000
        required_attestations: [identity, risk]
        minimum_assurance: substantial
        condition: "attestation.risk.decision == 'accept' && attestation.risk.score < 0.7"
        audit: always
"""
CONDITION = "attestation.risk.decision == 'accept' && attestation.risk.score < 0.7"
POLICY = parse(TEXT, PRIVILEGES)
REAL = (Path(__file__).parents[3] / "deploy/k8s/base/trust.yaml").read_text()


def test_grant_allows_one_method_of_one_target_to_one_principal() -> None:
    assert POLICY.decide(ALICE, "b", METHOD).allowed


@pytest.mark.parametrize(
    ("caller", "target", "method"),
    [
        pytest.param(BOB, "b", METHOD, id="another caller"),
        pytest.param("spiffe://elsewhere/alice", "b", METHOD, id="a stranger"),
        pytest.param(ALICE, "a", METHOD, id="another target"),
        pytest.param(ALICE, "b", "anya.bitcoin.v1.ChainService/X", id="another method"),
    ],
)
def test_everything_else_is_denied(caller: str, target: str, method: str) -> None:
    assert not POLICY.decide(caller, target, method).allowed


def test_explanation_names_what_is_missing() -> None:
    assert POLICY.explain(BOB, "b", METHOD) == f"deny: b -> b does not grant {METHOD}"


def test_grant_has_the_bounds_of_its_boundary() -> None:
    grant = POLICY.grants["a", "b", SEND]

    assert grant.privilege == "spend"
    assert grant.always_audited
    assert grant.max_class is DataClass.INTERNAL
    assert grant.bounds == Bounds(
        boundary="a -> b",
        max_amount_sat=5_000,
        daily_amount_sat=20_000,
        required_attestations=frozenset({"identity", "risk"}),
        condition=Condition(CONDITION),
        digest=POLICY.digest,
        minimum_assurance=Assurance.SUBSTANTIAL,
    )


def test_grant_limits_run_privileges_only_if_it_lists_them() -> None:
    text = TEXT.replace(f"{METHOD}: {{}}", f"{METHOD}: {{run_privileges: [spend]}}")
    bounded = parse(text, PRIVILEGES)

    assert bounded.grants["a", "b", METHOD].bounds.run_privileges == frozenset({"spend"})
    assert POLICY.grants["a", "b", METHOD].bounds.run_privileges is None


def test_run_privilege_of_no_method_is_refused() -> None:
    strange = REAL.replace("StartRun: {audit: always}", "StartRun: {run_privileges: [spent]}", 1)

    with pytest.raises(PolicyError, match="no method asks for 'spent'"):
        ActivePolicy(strange, contracts.all_privileges())


def test_spending_grant_requires_the_attestations_of_a_payment_unless_it_names_others() -> None:
    named = "        required_attestations: [identity, risk]\n"
    bounds = parse(TEXT.replace(named, ""), PRIVILEGES).grants["a", "b", SEND].bounds

    assert bounds.required_attestations == {"identity", "address_link", "risk"}


def test_grant_that_spends_nothing_requires_no_attestation() -> None:
    bounds = POLICY.grants["a", "b", METHOD].bounds

    assert bounds.required_attestations == frozenset()
    assert bounds.max_amount_sat is None


@pytest.mark.parametrize(
    "bound",
    [
        "max_amount_sat: 1",
        "daily_amount_sat: 1",
        "required_attestations: [risk]",
        "minimum_assurance: high",
        'condition: "true"',
    ],
)
def test_bound_of_payments_on_a_method_that_spends_nothing_is_refused(bound: str) -> None:
    with pytest.raises(PolicyError, match="spends nothing, and enforces no"):
        parse(TEXT.replace("AddWatch: {}", f"AddWatch: {{{bound}}}"), PRIVILEGES)


@pytest.mark.parametrize(
    ("values", "holds"),
    [
        pytest.param({"risk": {"score": 0.69}}, True, id="below"),
        pytest.param({"risk": {"score": 0.7}}, False, id="at the limit"),
        pytest.param({"risk": {"score": float("nan")}}, False, id="not a number"),
        pytest.param({"risk": {"score": "0.1"}}, False, id="a text"),
        pytest.param({"risk": {"score": None}}, False, id="null"),
        pytest.param({"risk": {}}, False, id="no score"),
        pytest.param({}, False, id="no attestation"),
        pytest.param({"identity": {"score": 0.1}}, False, id="another kind's score"),
    ],
)
def test_condition_that_cannot_be_evaluated_is_false(
    values: dict[str, dict[str, object]], holds: bool
) -> None:
    assert Condition("attestation.risk.score < 0.7").holds(values) is holds


@pytest.mark.parametrize(
    ("privileges", "complaint"),
    [
        pytest.param({}, "no contract has this method", id="unknown method"),
        pytest.param({METHOD: ""}, "its contract names no privilege", id="no privilege"),
    ],
)
def test_policy_that_contradicts_the_contracts_is_refused(
    privileges: dict[str, str], complaint: str
) -> None:
    with pytest.raises(PolicyError, match=f"{METHOD}: {complaint}"):
        parse(TEXT, privileges)


def test_grant_on_a_service_that_does_not_serve_the_method_is_refused() -> None:
    misplaced = REAL.replace(
        "anya.web5.v1.DidService/CreateDid", "anya.ml.v1.RiskService/AssessFraudRisk", 1
    )

    with pytest.raises(PolicyError, match="is served by ml, not by web5"):
        ActivePolicy(misplaced, contracts.all_privileges())


def test_invalid_replacement_leaves_the_last_valid_policy_in_force() -> None:
    active = ActivePolicy(REAL, contracts.all_privileges())
    good = active.current

    with pytest.raises(PolicyError):
        active.replace(TEXT)

    assert active.current is good


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("version: 1", "version: 2", "version: must be 1"),
        ("version: 1", "version: true", "version: must be 1"),
        ("version: 1\n", "", "lacks version"),
        ("version: 1", "version: 1\nextra: 1", "unknown keys: extra"),
        ("version: 1", "version: 1\nversion: 1", "duplicate key"),
        ("to: b", "to: c", "to: must be one of a, b, not 'c'"),
        ("to: b", "to: [b]", "to: must be a text"),
        ("to: b", "2: b", "key 2: must be a text"),
        ("max_class: internal", "max_class: secret", "max_class: must be one of"),
        ("    max_class: internal\n", "", "lacks max_class"),
        (f'"{BOB}"', f'"{ALICE}"', "listed once"),
        (f'"{BOB}"', '"https://bob"', "must be a SPIFFE ID"),
        (f'["{BOB}"]', f'"{BOB}"', "principals.b: must be a list"),
        (METHOD, "AddWatch", "its key must be a method"),
        (METHOD, BARE, "Bare: its contract names no privilege"),
        ("AddWatch: {}", "AddWatch: watch_chain", "AddWatch: must be a mapping"),
        ("AddWatch: {}", "AddWatch:", "AddWatch: must be a mapping"),
        ("AddWatch: {}", "AddWatch: {privilege: x}", "unknown keys: privilege"),
        ("AddWatch: {}", f"AddWatch: {{}}\n      {METHOD}: {{}}", "duplicate key"),
        ("max_amount_sat: 5_000", "max_amount_sat: -1", "max_amount_sat: must be satoshis"),
        ("max_amount_sat: 5_000", "max_amount_sat: 1.5", "max_amount_sat: must be satoshis"),
        ("max_amount_sat: 5_000", "max_amount_sat: yes", "max_amount_sat: must be satoshis"),
        ("daily_amount_sat: 20_000", "daily_amount_sat: .inf", "must be satoshis"),
        ("daily_amount_sat: 20_000", "daily_amount: 1", "unknown keys: daily_amount"),
        ("[identity, risk]", "[identity, riks]", r"required_attestations\[1\]: must be one of"),
        ("[identity, risk]", "identity", "required_attestations: must be a list"),
        (CONDITION, "attestation.risk.score", "its type is not bool"),
        ("risk.score < 0.7", "risk.score <", "Syntax error"),
        ("attestation.risk.score", "input.score", "undeclared reference"),
        ("attestation.risk.score", "attestation.ownership.score", "ownership is not in required_"),
        ("attestation.risk.score", "attestation['riks'].score", "riks is not in required_"),
        (
            f'        condition: "{CONDITION}"\n',
            "",
            "SendPayment: requires risk: it must have a cond",
        ),
        ("        minimum_assurance: substantial\n", "", "must have minimum_assurance"),
        ("minimum_assurance: substantial", "minimum_assurance: best", "must be one of high, low"),
        ("[identity, risk]", "[risk]", "must have minimum_assurance if it requires identity, and"),
        ("audit: always", "audit: sometimes", "audit: must be one of"),
        ("audit: always", "run_privileges: spend", "run_privileges: must be a list"),
        ("boundaries:", "boundaries: [", "not YAML"),
        (
            "boundaries:",
            "boundaries:\n  - {from: a, to: b, max_class: pii, methods: {}}",
            "already",
        ),
    ],
)
def test_invalid_policy_is_refused_with_its_place(old: str, new: str, complaint: str) -> None:
    assert old in TEXT

    with pytest.raises(PolicyError, match=complaint):
        parse(TEXT.replace(old, new, 1), PRIVILEGES)


@pytest.mark.parametrize(
    "condition",
    [
        "true",
        "attestation.risk.score < 0.7",  # true for a refusal at a low score
        "attestation.risk.decision == 'accept'",  # true for score 1.0
        f"({CONDITION}) || true",
        f"{CONDITION} || attestation.identity.did == 'did:key:z6Mk'",
        f"{CONDITION} || has(attestation.identity.did) && attestation.identity.did == 'a'",
        f"attestation.identity.did == 'did:key:z6Mk' ? true : {CONDITION}",
        "attestation.identity.confidence > 0.9",
        "attestation.risk.decision == 'accept' && attestation.risk.score < 2.0",
        "attestation.risk.decision != 'refuse' && !(attestation.risk.score >= 0.7) "
        "|| !has(attestation.risk.score)",
        "attestation.risk.score < 0.7 && (attestation.risk.decision != 'refuse'"
        " || attestation.risk.score > 0.2 && attestation.risk.score < 0.31)",
        # Texts that end an expression too early for a careless reader.
        "attestation.risk.decision == ' && ' || true",
        "(attestation.identity.did == ')' || true) && true",
    ],
)
def test_condition_that_may_be_true_for_a_refused_risk_is_not_loaded(condition: str) -> None:
    with pytest.raises(PolicyError, match="may be true for"):
        parse(TEXT.replace(CONDITION, condition), PRIVILEGES)


@pytest.mark.parametrize(
    "condition",
    [
        'attestation.risk["sc" + "ore"] < 0.7 && attestation.risk["decision"] == "accept"',
        f"{CONDITION} && attestation.identity.confidence >= 0.9",
        f"attestation.identity.confidence >= 0.9 && ({CONDITION})",
        f"(attestation.identity.did == 'a' || attestation.risk.score < 0.2) && {CONDITION}",
    ],
)
def test_condition_that_is_false_for_every_refused_risk_is_loaded(condition: str) -> None:
    policy = parse(
        TEXT.replace(f'"{CONDITION}"', f"'{condition.replace(chr(39), chr(39) * 2)}'"), PRIVILEGES
    )

    assert policy.grants["a", "b", SEND].bounds.condition == Condition(condition)


@pytest.mark.parametrize(
    ("condition", "complaint"),
    [
        ('attestation["ri" + "sk"].score < 0.7', "must name the kind"),
        ("size(attestation) > 0", "must name the kind"),
        ("'risk' in attestation", "must name the kind"),
        ("attestation.exists(kind, true)", "exists is not in required_"),
        ("r'a' == 'b' || attestation.risk.score < 0.7", "must have plain texts"),
        ('\'a\' == """b"""', "must have plain texts"),
        ("attestation.risk.score < 0.7 // low", "must have plain texts"),
    ],
)
def test_condition_whose_kinds_are_not_certain_is_not_loaded(
    condition: str, complaint: str
) -> None:
    text = TEXT.replace(f'"{CONDITION}"', f"'{condition.replace(chr(39), chr(39) * 2)}'")

    with pytest.raises(PolicyError, match=complaint):
        parse(text, PRIVILEGES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "[]",
        "version: 1",
        "[" * 5000,
        "a: 2024-99-99",
        "? {a: 1}\n: 1",
        "\x00",
        "a: &x [*x]",
    ],
)
def test_text_that_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        parse(text, PRIVILEGES)


@given(st.data())
def test_damaged_policy_is_read_or_refused_with_a_policy_error(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(TEXT)))
    end = data.draw(st.integers(start, min(len(TEXT), start + 20)))
    junk = data.draw(st.text(alphabet="{}[]:,-&*!|>'\"#%@ \n\t0a.~?", max_size=6))

    with suppress(PolicyError):
        parse(TEXT[:start] + junk + TEXT[end:], PRIVILEGES)


def test_names_of_classes_and_kinds_are_those_of_the_contracts() -> None:
    assert {f"DATA_CLASS_{known.name}": known.value for known in DataClass} == {
        name: number for name, number in options_pb2.DataClass.items() if number
    }
    assert attestation.ISSUERS.keys() == ATTESTATION_KINDS


def test_every_method_that_moves_money_enforces_the_bounds_of_its_grant() -> None:
    pool = descriptor_pool.Default()
    methods = {
        name: contracts.operation(pool.FindMethodByName(name.replace("/", ".")))
        for name, privilege in contracts.all_privileges().items()
        if privilege == "spend"
    }
    pivots = {name for name, method in methods.items() if method.effect == options_pb2.EFFECT_PIVOT}

    assert pivots == SPENDING_METHODS


def test_shipped_policy_fits_the_contracts() -> None:
    assert ActivePolicy(REAL, contracts.all_privileges()).current.grants


@pytest.mark.parametrize(
    "revoked",
    [
        "[]",
        "{serial: []}",
        "{serials: [17]}",
        '{serials: ["0x17"]}',
        '{fingerprints: ["ab"]}',
        '{spiffe_ids: ["operator"]}',
    ],
)
def test_malformed_revocation_makes_the_policy_invalid(revoked: str) -> None:
    with pytest.raises(PolicyError, match="revoked"):
        ActivePolicy(f"{REAL}\nrevoked: {revoked}\n", contracts.all_privileges())

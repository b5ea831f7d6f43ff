"""The trust policy: which principal may call which method, within which bounds. Default deny."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from formats.money import MAX_SAT
from mesh.security.assurance import Assurance
from mesh.security.condition import Condition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mesh.security.peer_certificate import PeerCertificate

ATTESTATION_KINDS = frozenset(
    {"identity", "address_link", "risk", "ownership", "identity_features", "payment_features"}
)
PAYMENT_ATTESTATIONS = ("identity", "address_link", "risk")  # required if a grant names none
# The methods that move money: they enforce amounts, attestations and condition of their grant.
SPENDING_METHODS = frozenset({"anya.bitcoin.v1.WalletService/SendPayment"})
MAX_POLICY_CHARS = 1 << 20

# Values of a risk attestation for which no condition may be true.
_SCORES = tuple(percent / 100 for percent in range(0, 101, 5))
_REFUSED_RISKS: tuple[tuple[str, Mapping[str, object]], ...] = (
    *(("score 1.0", {"score": 1.0, "decision": said}) for said in ("accept", "review", "refuse")),
    *(("decision refuse", {"score": score, "decision": "refuse"}) for score in _SCORES),
    ("a missing score", {"decision": "accept"}),
    ("a missing decision", {"score": 0.0}),
    ("a score that is null", {"score": None, "decision": "accept"}),
    ("missing values", {}),
)

_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+")
_SERIAL = re.compile(r"[0-9a-f]{1,42}")  # 20 octets, and the sign that DER adds
_SHA256 = re.compile(r"[0-9a-f]{64}")
_METHOD = re.compile(r"\w+(\.\w+)*/\w+", re.ASCII)
_GRANT_KEYS = frozenset(
    {
        "audit",
        "condition",
        "daily_amount_sat",
        "max_amount_sat",
        "minimum_assurance",
        "required_attestations",
        "run_privileges",
    }
)
_SPENDING_KEYS = frozenset(
    {
        "condition",
        "daily_amount_sat",
        "max_amount_sat",
        "minimum_assurance",
        "required_attestations",
    }
)


class PolicyError(ValueError):
    """The policy is malformed or contradicts the contracts; no process may start with it."""


class DataClass(IntEnum):
    """The sensitivity of a value, with the numbers of anya.mesh.v1.DataClass."""

    PUBLIC = 1
    INTERNAL = 2
    PII = 3
    SECRET = 4  # never crosses a boundary


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a granted call.

    The spender enforces amounts, attestations and condition in the payment's transaction; the
    engine enforces ``run_privileges`` on the run that the call starts.
    """

    boundary: str  # "orchestrator -> bitcoin"
    max_amount_sat: int | None  # satoshis in one payment
    daily_amount_sat: int | None  # satoshis in one UTC day
    required_attestations: frozenset[str]  # kinds
    condition: Condition | None  # over the values of the required attestations
    digest: str  # of the policy
    minimum_assurance: Assurance | None = None  # of the identity attestation, if it is required
    run_privileges: frozenset[str] | None = None  # the only ones a started run may use; None: all


@dataclass(frozen=True, slots=True)
class Grant:
    """One method that one principal may call on another."""

    title: str  # "orchestrator -> bitcoin grants 'spend'"
    privilege: str  # from the method's contract
    max_class: DataClass
    always_audited: bool
    bounds: Bounds
    spends: bool = False  # it enforces the bounds of a payment


@dataclass(frozen=True, slots=True)
class TrustDecision:
    allowed: bool
    explanation: str
    grant: Grant | None = None  # present when allowed


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    principals: Mapping[str, str]  # SPIFFE ID -> principal
    grants: Mapping[tuple[str, str, str], Grant]  # by source, target and method
    classes: Mapping[tuple[str, str], DataClass]  # source, target -> the highest that crosses
    digest: str  # SHA-256 of the text in hex, for spans and audit
    revoked: frozenset[str] = frozenset()  # SPIFFE IDs, serials and fingerprints

    def find_revoked(self, caller: str, certificate: PeerCertificate | None) -> str | None:
        """Returns by what name the caller or its certificate is revoked, or None."""
        names = [caller]
        if certificate is not None:
            names += [certificate.serial, certificate.fingerprint]
        return next((name for name in names if name in self.revoked), None)

    def find_grant(self, caller: str, target: str, method: str) -> Grant | None:
        """Returns the grant that lets ``caller`` call this method of ``target``, or None."""
        principal = self.principals.get(caller)
        return None if principal is None else self.grants.get((principal, target, method))

    def decide(self, caller: str, target: str, method: str) -> TrustDecision:
        """Returns if ``caller`` (a SPIFFE ID) may call this method of ``target``, and why."""
        principal = self.principals.get(caller)
        if principal is None:
            return TrustDecision(False, f"{caller} is no principal of trust.yaml")
        grant = self.find_grant(caller, target, method)
        if grant is None:
            return TrustDecision(False, f"{principal} -> {target} does not grant {method}")
        return TrustDecision(True, grant.title, grant)

    def explain(self, caller: str, target: str, method: str) -> str:
        """Returns the decision in one line, as `anya trust explain` prints it."""
        decision = self.decide(caller, target, method)
        return f"{'allow' if decision.allowed else 'deny'}: {decision.explanation}"


class ActivePolicy:
    """The policy in force. A reload replaces it as a whole; an invalid policy is never loaded."""

    def __init__(self, text: str, privileges: Mapping[str, str]) -> None:
        """Raises PolicyError if ``text`` is no policy for methods with these privileges."""
        self._privileges = privileges
        self.replace(text)

    def replace(self, text: str) -> None:
        """Puts ``text`` in force. A PolicyError leaves the last good policy in force."""
        self.current = parse(text, self._privileges)


def parse(text: str, privileges: Mapping[str, str]) -> TrustPolicy:
    """Returns the policy that ``text`` (trust.yaml) states.

    ``privileges``: what the contract of each method asks for, by full name. Raises PolicyError with
    the place in the text if it is malformed or contradicts the contracts.
    """
    document = _Node("trust.yaml", _load(text)).fields(
        {"version", "principals", "boundaries"}, optional=frozenset({"revoked"})
    )
    if document["version"].value != 1 or document["version"].value is True:
        raise document["version"].invalid("must be 1")
    principals = dict(_principals(document["principals"]))
    names = set(principals.values())
    grants: dict[tuple[str, str, str], Grant] = {}
    classes: dict[tuple[str, str], DataClass] = {}
    digest = hashlib.sha256(text.encode()).hexdigest()
    for node in document["boundaries"].items():
        boundary = node.fields({"from", "to", "max_class", "methods"})
        source, target = (boundary[end].one_of(names) for end in ("from", "to"))
        if (source, target) in classes:
            raise node.invalid(f"{source} -> {target} is stated above already")
        crossing = boundary["max_class"].one_of({"public", "internal", "pii"})
        classes[source, target] = DataClass[crossing.upper()]
        reader = _GrantReader(
            f"{source} -> {target}", classes[source, target], digest, target, names, privileges
        )
        for method, grant in boundary["methods"].entries():
            grants[source, target, method] = reader.read(method, grant)
    revoked = frozenset(_revoked(document.get("revoked")))
    return TrustPolicy(principals, grants, classes, digest, revoked)


def _load(text: str) -> object:
    if len(text) > MAX_POLICY_CHARS:
        raise PolicyError(f"trust.yaml is longer than {MAX_POLICY_CHARS} characters")
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise PolicyError(f"trust.yaml is not YAML: {' '.join(str(error).split())}") from None


def _principals(node: _Node) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for principal, names in node.entries():
        for name in names.items():
            spiffe_id = name.text()
            if not _SPIFFE_ID.fullmatch(spiffe_id) or spiffe_id in seen:
                raise name.invalid("must be a SPIFFE ID that is listed once")
            seen.add(spiffe_id)
            yield spiffe_id, principal


def _revoked(node: _Node | None) -> Iterator[str]:
    """Yields SPIFFE IDs, and serials and fingerprints as PeerCertificate writes them."""
    if node is None:
        return
    fields = node.fields(set(), optional=frozenset({"spiffe_ids", "serials", "fingerprints"}))
    for kind, names in fields.items():
        for name in names.items():
            text = name.text()
            if kind == "spiffe_ids":
                if not _SPIFFE_ID.fullmatch(text):
                    raise name.invalid("must be a SPIFFE ID")
                yield text
                continue
            digits = text.replace(":", "").lower()
            if kind == "serials" and not _SERIAL.fullmatch(digits):
                raise name.invalid("must be a serial number of 1 to 42 hex digits, quoted")
            if kind == "fingerprints" and not _SHA256.fullmatch(digits):
                raise name.invalid("must be a SHA-256 fingerprint of 64 hex digits, quoted")
            yield digits if kind == "fingerprints" else digits.lstrip("0")


@dataclass(frozen=True, slots=True)
class _GrantReader:
    """Reads the methods of one boundary and holds each against its contract."""

    boundary: str
    max_class: DataClass
    digest: str
    target: str
    principals: set[str]
    privileges: Mapping[str, str]  # method -> the privilege that its contract asks for

    def read(self, method: str, node: _Node) -> Grant:
        privilege = self._privilege(method, node)
        fields = node.fields(set(), optional=_GRANT_KEYS)
        spends = method in SPENDING_METHODS
        if not spends and (unused := sorted(fields.keys() & _SPENDING_KEYS)):
            raise node.invalid(f"this method spends nothing, and enforces no {', '.join(unused)}")
        required = _required(fields) if spends else frozenset[str]()
        audit = fields["audit"].one_of({"always", "refusals"}) if "audit" in fields else "refusals"
        bounds = Bounds(
            boundary=self.boundary,
            max_amount_sat=_amount(fields.get("max_amount_sat")),
            daily_amount_sat=_amount(fields.get("daily_amount_sat")),
            required_attestations=required,
            condition=_condition(node, fields.get("condition"), required),
            digest=self.digest,
            minimum_assurance=_assurance(node, fields.get("minimum_assurance"), required),
            run_privileges=self._run_privileges(fields.get("run_privileges")),
        )
        title = f"{self.boundary} grants {privilege!r}"
        return Grant(title, privilege, self.max_class, audit == "always", bounds, spends)

    def _privilege(self, method: str, node: _Node) -> str:
        if not _METHOD.fullmatch(method):
            raise node.invalid("its key must be a method: package.Service/Method")
        if method not in self.privileges:
            raise node.invalid("no contract has this method")
        if not self.privileges[method]:
            raise node.invalid("its contract names no privilege, so it cannot be granted")
        owners = {f"anya.{principal}": principal for principal in self.principals}
        owner = owners.get(".".join(method.split(".")[:2]), self.target)
        if owner != self.target:
            raise node.invalid(f"is served by {owner}, not by {self.target}")
        return self.privileges[method]

    def _run_privileges(self, node: _Node | None) -> frozenset[str] | None:
        if node is None:
            return None
        known = frozenset(filter(None, self.privileges.values()))
        for item in node.items():
            if item.text() not in known:
                raise item.invalid(f"no method asks for {item.text()!r}")
        return frozenset(item.text() for item in node.items())


def _amount(node: _Node | None) -> int | None:
    if node is None:
        return None
    if type(node.value) is not int or not 0 <= node.value <= MAX_SAT:
        raise node.invalid(f"must be satoshis from 0 to {MAX_SAT}")
    return node.value


def _required(fields: Mapping[str, _Node]) -> frozenset[str]:
    if "required_attestations" not in fields:
        return frozenset(PAYMENT_ATTESTATIONS)
    kinds = fields["required_attestations"].items()
    return frozenset(kind.one_of(ATTESTATION_KINDS) for kind in kinds)


def _assurance(grant: _Node, node: _Node | None, required: frozenset[str]) -> Assurance | None:
    if ("identity" in required) != (node is not None):
        raise grant.invalid("must have minimum_assurance if it requires identity, and only then")
    return None if node is None else Assurance(node.one_of(frozenset(Assurance)))


def _condition(grant: _Node, node: _Node | None, required: frozenset[str]) -> Condition | None:
    """Returns the condition, which can be true for no risk that is refused or unknown."""
    if node is None:
        if "risk" in required:
            raise grant.invalid("requires risk: it must have a condition that limits it")
        return None
    try:
        condition = Condition(node.text())
    except ValueError as error:
        raise node.invalid(str(error)) from None
    if unlisted := condition.kinds - required:
        missing = ", ".join(sorted(unlisted))
        raise node.invalid(f"could never hold: {missing} is not in required_attestations")
    if "risk" in required:
        for what, values in _REFUSED_RISKS:
            if condition.may_hold("risk", values):
                raise node.invalid(
                    f"may be true for {what}: join it by && with a part about the risk alone, as in"
                    " \"attestation.risk.decision == 'accept' && attestation.risk.score < 0.7\""
                )
    return condition


class _Node:
    """A value of the document and its place, which its errors name."""

    def __init__(self, place: str, value: Any) -> None:
        self._place = place
        self.value = value

    def invalid(self, problem: str) -> PolicyError:
        return PolicyError(f"{self._place}: {problem}")

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.invalid("must be a text")
        return self.value

    def one_of(self, known: set[str] | frozenset[str]) -> str:
        text = self.text()
        if text not in known:
            raise self.invalid(f"must be one of {', '.join(sorted(known))}, not {text!r}")
        return text

    def items(self) -> Iterator[_Node]:
        if not isinstance(self.value, list):
            raise self.invalid("must be a list")
        for index, value in enumerate(self.value):
            yield _Node(f"{self._place}[{index}]", value)

    def entries(self) -> Iterator[tuple[str, _Node]]:
        if not isinstance(self.value, dict):
            raise self.invalid("must be a mapping")
        for key, value in self.value.items():
            yield (
                _Node(f"{self._place}: key {key!r}", key).text(),
                _Node(f"{self._place}.{key}", value),
            )

    def fields(
        self, required: set[str], *, optional: frozenset[str] = frozenset()
    ) -> dict[str, _Node]:
        fields = dict(self.entries())
        if unknown := fields.keys() - required - optional:
            raise self.invalid(f"unknown keys: {', '.join(sorted(unknown))}")
        if missing := required - fields.keys():
            raise self.invalid(f"lacks {', '.join(sorted(missing))}")
        return fields

"""Who may call which method, and within which bounds. Pure: what is not granted is denied."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mesh.security.condition import Condition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ATTESTATION_KINDS = frozenset(
    {"identity", "address_link", "risk", "ownership", "identity_features", "payment_features"}
)
DEFAULT_REQUIRES = ("identity", "address_link", "risk")  # of a payment, where a grant names none
MAX_SAT = 21_000_000 * 100_000_000
MAX_POLICY_CHARS = 1 << 20  # characters of trust.yaml

_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+")
_METHOD = re.compile(r"\w+(\.\w+)*/\w+", re.ASCII)
_GRANT_KEYS = frozenset(
    {"privilege", "max_amount_sat", "daily_amount_sat", "requires", "when", "runs", "audit"}
)


class PolicyError(ValueError):
    """The policy contradicts itself or the contracts; a process must not start with it."""


class DataClass(IntEnum):
    """How far a value may travel; the numbers are those of anya.mesh.v1.DataClass."""

    PUBLIC = 1
    INTERNAL = 2
    PII = 3
    SECRET = 4  # never crosses a boundary


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a granted call may do: as much of a payment, or as much through the run it starts.

    The spender enforces the first inside the payment's transaction, the engine the second.
    """

    boundary: str  # "orchestrator -> bitcoin"
    max_amount_sat: int | None  # satoshis in one payment
    daily_amount_sat: int | None  # satoshis in one UTC day
    requires: frozenset[str]  # kinds of attestation
    when: Condition | None
    digest: str  # of the policy that said so
    runs: frozenset[str] | None = None  # privileges that the run may use; None: all


@dataclass(frozen=True, slots=True)
class Grant:
    """One method that one protocol may call on another."""

    title: str  # "orchestrator -> bitcoin grants 'spend'"
    privilege: str
    max_class: DataClass
    always_audited: bool
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class TrustDecision:
    allowed: bool
    explanation: str
    grant: Grant | None = None  # present when allowed


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    protocols: Mapping[str, str]  # SPIFFE ID -> protocol
    grants: Mapping[tuple[str, str, str], Grant]  # by source, target and method
    classes: Mapping[tuple[str, str], DataClass]  # source, target -> the highest that crosses
    digest: str  # SHA-256 of the text in hex, for spans and audit

    def decide(self, caller: str, target: str, method: str, privilege: str) -> TrustDecision:
        """May ``caller`` (a SPIFFE ID) call this method, which asks for ``privilege``?"""
        protocol = self.protocols.get(caller)
        if protocol is None:
            return TrustDecision(False, f"{caller} belongs to no protocol")
        grant = self.grants.get((protocol, target, method))
        if grant is None:
            return TrustDecision(False, f"{protocol} -> {target} does not grant {method}")
        if grant.privilege != privilege:
            return TrustDecision(
                False, f"{method} asks for {privilege!r}, granted is {grant.privilege!r}"
            )
        return TrustDecision(True, grant.title, grant)

    def explain(self, caller: str, target: str, method: str, privilege: str) -> str:
        """The decision in one line, as `anya trust explain` prints it."""
        decision = self.decide(caller, target, method, privilege)
        return f"{'allow' if decision.allowed else 'deny'}: {decision.explanation}"

    def check(self, privileges: Mapping[str, str]) -> None:
        """Hold every grant against the contracts' methods; PolicyError names the first stranger."""
        packages = {f"anya.{protocol}": protocol for protocol in self.protocols.values()}
        for (source, target, method), grant in self.grants.items():
            if method not in privileges:
                raise PolicyError(f"{source} -> {target}: no method {method}")
            if grant.privilege != privileges[method]:
                raise PolicyError(
                    f"{method} asks for {privileges[method]!r}, not {grant.privilege!r}"
                )
            owner = packages.get(".".join(method.split(".")[:2]), target)
            if owner != target:
                raise PolicyError(f"{source} -> {target}: {method} is served by {owner}")
            if strangers := (grant.bounds.runs or frozenset()) - set(privileges.values()):
                raise PolicyError(
                    f"{source} -> {target}: no method asks for {', '.join(sorted(strangers))}"
                )


class ActivePolicy:
    """The policy in force; a reload swaps it whole, and a bad one never gets in."""

    def __init__(self, text: str, privileges: Mapping[str, str]) -> None:
        """PolicyError if ``text`` is no policy for methods with these privileges."""
        self._privileges = privileges
        self.replace(text)

    def replace(self, text: str) -> None:
        """From now on judge by ``text``. PolicyError leaves the last good policy in force."""
        policy = parse(text)
        policy.check(self._privileges)
        self.current = policy


def parse(text: str) -> TrustPolicy:
    """Read trust.yaml. PolicyError says where the text is at fault."""
    document = _Node("trust.yaml", _load(text)).fields({"version", "protocols", "boundaries"})
    if document["version"].value != 1 or document["version"].value is True:
        raise document["version"].fault("must be 1")
    protocols = dict(_protocols(document["protocols"]))
    grants: dict[tuple[str, str, str], Grant] = {}
    classes: dict[tuple[str, str], DataClass] = {}
    digest = hashlib.sha256(text.encode()).hexdigest()
    for node in document["boundaries"].items():
        boundary = node.fields({"from", "to", "max_class", "methods"})
        source, target = (boundary[end].one_of(set(protocols.values())) for end in ("from", "to"))
        if (source, target) in classes:
            raise node.fault(f"{source} -> {target} stands above already")
        crossing = boundary["max_class"].one_of({"public", "internal", "pii"})
        classes[source, target] = DataClass[crossing.upper()]
        for method, grant in boundary["methods"].entries():
            if not _METHOD.fullmatch(method):
                raise grant.fault("its key must be a method: package.Service/Method")
            bounds = f"{source} -> {target}", digest
            grants[source, target, method] = _grant(grant, classes[source, target], *bounds)
    return TrustPolicy(protocols, grants, classes, digest)


def _load(text: str) -> object:
    if len(text) > MAX_POLICY_CHARS:
        raise PolicyError(f"trust.yaml is longer than {MAX_POLICY_CHARS} characters")
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise PolicyError(f"trust.yaml is not YAML: {' '.join(str(error).split())}") from None


def _protocols(node: _Node) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for protocol, names in node.entries():
        for name in names.items():
            spiffe_id = name.text()
            if not _SPIFFE_ID.fullmatch(spiffe_id) or spiffe_id in seen:
                raise name.fault("must be a SPIFFE ID that stands nowhere else")
            seen.add(spiffe_id)
            yield spiffe_id, protocol


def _grant(node: _Node, max_class: DataClass, boundary: str, digest: str) -> Grant:
    fields = node.fields({"privilege"}, optional=_GRANT_KEYS)
    requires = frozenset(DEFAULT_REQUIRES)
    if "requires" in fields:
        requires = frozenset(kind.one_of(ATTESTATION_KINDS) for kind in fields["requires"].items())
    audit = fields["audit"].one_of({"always", "refusals"}) if "audit" in fields else "refusals"
    bounds = Bounds(
        boundary=boundary,
        max_amount_sat=_amount(fields.get("max_amount_sat")),
        daily_amount_sat=_amount(fields.get("daily_amount_sat")),
        requires=requires,
        when=_condition(fields.get("when"), requires),
        digest=digest,
        runs=_texts(fields["runs"]) if "runs" in fields else None,
    )
    privilege = fields["privilege"].text()
    title = f"{boundary} grants {privilege!r}"
    return Grant(title, privilege, max_class, audit == "always", bounds)


def _amount(node: _Node | None) -> int | None:
    if node is None:
        return None
    if type(node.value) is not int or not 0 <= node.value <= MAX_SAT:
        raise node.fault(f"must be satoshis from 0 to {MAX_SAT}")
    return node.value


def _texts(node: _Node) -> frozenset[str]:
    return frozenset(item.text() for item in node.items())


def _condition(node: _Node | None, requires: frozenset[str]) -> Condition | None:
    if node is None:
        return None
    try:
        condition = Condition(node.text())
    except ValueError as error:
        raise node.fault(str(error)) from None
    if strangers := condition.kinds - requires:
        raise node.fault(f"could never hold: {', '.join(sorted(strangers))} is not in requires")
    return condition


class _Node:
    """A value of the document and where it stands; says so when it is not what it must be."""

    def __init__(self, where: str, value: Any) -> None:
        self._where = where
        self.value = value

    def fault(self, complaint: str) -> PolicyError:
        return PolicyError(f"{self._where}: {complaint}")

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.fault("must be a text")
        return self.value

    def one_of(self, known: set[str] | frozenset[str]) -> str:
        text = self.text()
        if text not in known:
            raise self.fault(f"must be one of {', '.join(sorted(known))}, not {text!r}")
        return text

    def items(self) -> Iterator[_Node]:
        if not isinstance(self.value, list):
            raise self.fault("must be a list")
        for index, value in enumerate(self.value):
            yield _Node(f"{self._where}[{index}]", value)

    def entries(self) -> Iterator[tuple[str, _Node]]:
        if not isinstance(self.value, dict):
            raise self.fault("must be a mapping")
        for key, value in self.value.items():
            yield (
                _Node(f"{self._where}: key {key!r}", key).text(),
                _Node(f"{self._where}.{key}", value),
            )

    def fields(
        self, required: set[str], *, optional: frozenset[str] = frozenset()
    ) -> dict[str, _Node]:
        fields = dict(self.entries())
        if unknown := fields.keys() - required - optional:
            raise self.fault(f"unknown keys: {', '.join(sorted(unknown))}")
        if missing := required - fields.keys():
            raise self.fault(f"lacks {', '.join(sorted(missing))}")
        return fields

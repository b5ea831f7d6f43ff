"""The identity policy, a YAML file of the operator: the evidence that proves an identity.

    version: 1
    require_typ: false                # optional: refuse credentials whose header has no typ
    classes:
      biometric:                      # an evidence class: verification_method of a request
        credential_types: [BiometricCredential]
        issuers:                      # DIDs of the trusted issuers of these types
          - did:jwk:eyJ...
        confidence: 0.95              # above 0, at most 1: reported by VerifyIdentity
        assurance: substantial        # low, substantial or high

One valid credential of the holder satisfies a class if it has one of the types and is signed by one
of the issuers. A class that the file lacks is not supported; a missing file has no classes.

The JWT standard lets an issuer omit typ, and some libraries do. With ``require_typ: true`` no other
kind of JWT that an issuer signs with the same key can pass for a credential (RFC 8725, 3.11).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mesh.security.assurance import Assurance

if TYPE_CHECKING:
    from collections.abc import Mapping

TOP_KEYS = {"version", "classes"}
KEYS = {"credential_types", "issuers", "confidence", "assurance"}


class IdentityPolicyError(ValueError):
    """An identity policy that is not valid; the text names the place."""


@dataclass(frozen=True, slots=True)
class EvidenceClass:
    credential_types: frozenset[str]
    issuers: frozenset[str]  # DIDs
    confidence: float
    assurance: Assurance


@dataclass(frozen=True, slots=True)
class IdentityPolicy:
    classes: Mapping[str, EvidenceClass]
    version: str  # "1-" and the first 12 hex digits of the file's SHA-256
    require_typ: bool = False  # refuses credentials whose header has no typ


NO_CLASS = IdentityPolicy({}, "none")


def parse(text: str) -> IdentityPolicy:
    """Parses the policy. Raises IdentityPolicyError if it is not of the form above."""
    try:
        document = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise IdentityPolicyError(f"not YAML: {error}") from None
    if not isinstance(document, dict) or document.keys() - {"require_typ"} != TOP_KEYS:
        raise IdentityPolicyError("the keys must be version and classes, and may be require_typ")
    if document["version"] != 1 or not isinstance(document["classes"], dict):
        raise IdentityPolicyError("version must be 1, and classes a mapping of names")
    require_typ = document.get("require_typ", False)
    if not isinstance(require_typ, bool):
        raise IdentityPolicyError("require_typ must be true or false")
    classes = {str(name): _class(str(name), entry) for name, entry in document["classes"].items()}
    version = f"1-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return IdentityPolicy(classes, version, require_typ)


def _class(name: str, entry: Any) -> EvidenceClass:
    if not isinstance(entry, dict) or entry.keys() != KEYS:
        raise IdentityPolicyError(f"{name}: the keys must be {', '.join(sorted(KEYS))}")
    confidence, assurance = entry["confidence"], entry["assurance"]
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        raise IdentityPolicyError(f"{name}: confidence must be a number")
    if not 0 < confidence <= 1:
        raise IdentityPolicyError(f"{name}: confidence must be above 0 and at most 1")
    if assurance not in list(Assurance):
        raise IdentityPolicyError(f"{name}: assurance must be one of {', '.join(Assurance)}")
    return EvidenceClass(
        credential_types=_words(entry["credential_types"], f"{name}: credential_types"),
        issuers=_words(entry["issuers"], f"{name}: issuers"),
        confidence=float(confidence),
        assurance=Assurance(assurance),
    )


def _words(values: Any, where: str) -> frozenset[str]:
    if not isinstance(values, list) or not values:
        raise IdentityPolicyError(f"{where} must be a list with at least one entry")
    if not all(isinstance(value, str) and value for value in values):
        raise IdentityPolicyError(f"{where} must be texts")
    return frozenset(values)

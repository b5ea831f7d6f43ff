"""The identity policy, a YAML file of the operator: the evidence that proves an identity.

    version: 1
    classes:
      biometric:                      # an evidence class: verification_method of a request
        credential_types: [BiometricCredential]
        issuers:                      # DIDs of the trusted issuers of these types
          - did:jwk:eyJ...
        confidence: 0.95              # above 0, at most 1: reported by VerifyIdentity
        assurance: substantial        # low, substantial or high

One valid credential of the holder satisfies a class if it has one of the types and is signed by one
of the issuers. A class that the file lacks is not supported; a missing file has no classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS = {"credential_types", "issuers", "confidence", "assurance"}


class IdentityPolicyError(ValueError):
    """An identity policy that is not valid; the text names the place."""


class Assurance(StrEnum):
    """The assurance levels of eIDAS (Regulation (EU) No 910/2014, article 8)."""

    LOW = "low"
    SUBSTANTIAL = "substantial"
    HIGH = "high"


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


NO_CLASS = IdentityPolicy({}, "none")


def parse(text: str) -> IdentityPolicy:
    """Parses the policy. Raises IdentityPolicyError if it is not of the form above."""
    try:
        document = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise IdentityPolicyError(f"not YAML: {error}") from None
    if not isinstance(document, dict) or document.keys() != {"version", "classes"}:
        raise IdentityPolicyError("the keys must be version and classes")
    if document["version"] != 1 or not isinstance(document["classes"], dict):
        raise IdentityPolicyError("version must be 1, and classes a mapping of names")
    classes = {str(name): _class(str(name), entry) for name, entry in document["classes"].items()}
    return IdentityPolicy(classes, f"1-{hashlib.sha256(text.encode()).hexdigest()[:12]}")


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

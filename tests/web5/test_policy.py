"""The identity policy: valid and invalid files."""

from __future__ import annotations

import pytest

from mesh.security.assurance import Assurance
from services.web5.policy import IdentityPolicyError, parse

WRITTEN = """\
version: 1
classes:
  biometric:
    credential_types: [BiometricCredential, LivenessCredential]
    issuers: ["did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"]
    confidence: 0.95
    assurance: substantial
"""


def test_evidence_class_has_types_issuers_confidence_and_assurance() -> None:
    policy = parse(WRITTEN)

    biometric = policy.classes["biometric"]
    assert biometric.credential_types == {"BiometricCredential", "LivenessCredential"}
    assert biometric.issuers == {"did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"}
    assert biometric.confidence == 0.95
    assert biometric.assurance is Assurance.SUBSTANTIAL


def test_version_changes_with_the_text() -> None:
    assert parse(WRITTEN).version == parse(WRITTEN).version
    assert parse(WRITTEN).version != parse(WRITTEN.replace("0.95", "0.9")).version


@pytest.mark.parametrize(("written", "required"), [("true", True), ("false", False)])
def test_policy_may_require_typ(written: str, required: bool) -> None:
    assert parse(f"require_typ: {written}\n{WRITTEN}").require_typ is required
    assert parse(WRITTEN).require_typ is False


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("version: 1", "version: 2", "version must be 1"),
        ("version: 1", "version: 1\nrequire_typ: 1", "require_typ must be true or false"),
        ("version: 1", "version: 1\nrequire_type: true", "the keys must be version and classes"),
        ("version: 1", "require_typ: true", "the keys must be version and classes"),
        ("  biometric:", "  biometric: 3\n  other:", "biometric: the keys"),
        ("confidence: 0.95", "confidence: 0", "above 0"),
        ("confidence: 0.95", "confidence: 1.1", "at most 1"),
        ("confidence: 0.95", "confidence: true", "a number"),
        ("confidence: 0.95", "confidence: .nan", "above 0"),
        ("confidence: 0.95", "trust: 0.95", "the keys must be"),
        ("assurance: substantial", "assurance: total", "assurance must be one of low"),
        ("assurance: substantial", "assurance: [high]", "assurance must be one of low"),
        ("[BiometricCredential, LivenessCredential]", "[]", "at least one"),
        ("[BiometricCredential, LivenessCredential]", "Biometric", "must be a list"),
        ("[BiometricCredential, LivenessCredential]", "[1]", "must be texts"),
        ("version: 1", "version: 1\nversion: 1", "not YAML"),
        ("version: 1", "version: [", "not YAML"),
    ],
)
def test_invalid_policy_is_refused(old: str, new: str, complaint: str) -> None:
    with pytest.raises(IdentityPolicyError, match=complaint):
        parse(WRITTEN.replace(old, new))

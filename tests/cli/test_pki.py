"""The local certificates: valid for TLS, SPIFFE and attestations, and renewed in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from cli import pki
from cli.home import SERVICES, Home

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DOMAIN = "anya.internal"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


def renew(home: Home, now: datetime = NOW) -> list[str]:
    return pki.renew(home, trust_domain=DOMAIN, now=now)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_every_service_and_the_operator_get_a_certificate(home: Home) -> None:
    assert renew(home) == [*SERVICES, "operator"]


def test_second_renewal_changes_nothing(home: Home) -> None:
    renew(home)

    assert renew(home) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("pki/bitcoin.pem", "spiffe://anya.internal/ns/anya/sa/bitcoin"),
        ("client/operator.pem", "spiffe://anya.internal/client/operator"),
    ],
)
def test_client_verifier_finds_the_spiffe_id(home: Home, path: str, name: str) -> None:
    renew(home)
    store = Store([certificate(home.pki / "ca.pem")])

    verifier = PolicyBuilder().store(store).time(NOW).build_client_verifier()
    verified = verifier.verify(certificate(home.path / path), [])

    assert verified.subjects
    assert x509.UniformResourceIdentifier(name) in verified.subjects


@pytest.mark.parametrize("host", ["ml", "localhost"])
def test_server_verifier_finds_the_host_name(home: Home, host: str) -> None:
    renew(home)
    store = Store([certificate(home.pki / "ca.pem")])

    verifier = PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName(host))

    assert verifier.verify(certificate(home.pki / "ml.pem"), [])


def test_key_files_are_private(home: Home) -> None:
    renew(home)

    keys = [*home.path.rglob("*.key")]

    assert len(keys) == len(SERVICES) + 2
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_leaf_is_renewed_in_the_second_half_of_its_life(home: Home) -> None:
    renew(home)

    assert renew(home, NOW + timedelta(hours=11)) == []
    assert renew(home, NOW + timedelta(hours=13)) == [*SERVICES, "operator"]


def test_new_authority_replaces_every_leaf(home: Home) -> None:
    renew(home)
    (home.pki / "ca.pem").unlink()

    assert renew(home) == [*SERVICES, "operator"]


def test_leaf_that_does_not_match_its_key_is_reissued(home: Home) -> None:
    renew(home)
    (home.pki / "web5.key").write_bytes((home.pki / "ml.key").read_bytes())

    assert renew(home) == ["web5"]


def test_another_trust_domain_replaces_every_leaf(home: Home) -> None:
    renew(home)

    renewed = pki.renew(home, trust_domain="example.internal", now=NOW)

    assert renewed == [*SERVICES, "operator"]

"""The identities of the operator: private files, found by DID or name, trusted by web5."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cli.errors import CommandError
from cli.home import Home
from cli.identities import ISSUER, Identities, ensure_policy
from cli.wallet_holder import Holder
from services.web5 import policy

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


def test_identity_is_found_by_did_and_by_name(home: Home) -> None:
    identities = Identities(home)
    payer = replace(identities.create("payer"), wallet_id="w1", addresses=("bcrt1q",))
    identities.save(payer)

    assert identities.find(payer.did) == payer
    assert identities.find("payer") == payer


def test_ensure_creates_an_identity_only_once(home: Home) -> None:
    identities = Identities(home)

    assert identities.ensure("payer").did == identities.ensure("payer").did


def test_identity_files_are_private(home: Home) -> None:
    Identities(home).create("payer")

    (path,) = (home.client / "identities").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_did_without_a_local_key_is_refused(home: Home) -> None:
    with pytest.raises(CommandError) as refusal:
        Identities(home).find(Holder.generate().did)

    assert refusal.value.reason == "KEY_NOT_HERE"


def test_broken_identity_file_is_named(home: Home) -> None:
    Identities(home).create("payer")
    (home.client / "identities" / "payer.json").write_text("{}")

    with pytest.raises(CommandError, match=r"payer\.json"):
        Identities(home).load("payer")


def test_new_policy_trusts_the_demo_issuer(home: Home) -> None:
    ensure_policy(home)

    text = (home.service("web5") / "identity-policy.yaml").read_text()
    biometric = policy.parse(text).classes["biometric"]
    assert biometric.issuers == {Identities(home).load(ISSUER).did}
    assert biometric.credential_types == {"BiometricCredential"}


def test_existing_policy_is_unchanged(home: Home) -> None:
    path = home.service("web5") / "identity-policy.yaml"
    path.write_text("version: 1\nclasses: {}\n")

    ensure_policy(home)

    assert path.read_text() == "version: 1\nclasses: {}\n"


def test_repr_of_a_holder_hides_its_key() -> None:
    holder = Holder.generate()

    assert holder.key.secret.hex() not in repr(holder)
    assert str(holder.key.secret) not in repr(holder)

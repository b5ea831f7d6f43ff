"""client/identities/: the DIDs of the person at the keyboard, with keys, addresses, credentials."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.errors import CommandError
from cli.home import PRIVATE, write_private
from cli.wallet_holder import Holder
from formats import jose

if TYPE_CHECKING:
    from pathlib import Path

    from cli.home import Home

ISSUER = "demo-issuer"  # stands in for an identity issuer, and is trusted by the local policy
CREDENTIAL = "BiometricCredential"

POLICY = """\
# Whose credentials prove what, to the web5 service of this home. Written once by anya up: edit it,
# and restart the mesh.
version: 1
classes:
  biometric:
    credential_types: [{credential}]
    issuers:
      - {issuer}  # the demo issuer, whose key is in client/identities
    confidence: 0.95
    assurance: substantial
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """A DID whose key this home keeps, with its wallet, linked addresses and credentials."""

    name: str
    holder: Holder
    wallet_id: str = ""
    addresses: tuple[str, ...] = ()  # linked to the DID
    credentials: tuple[str, ...] = ()  # VC-JWTs about the DID

    @property
    def did(self) -> str:
        return self.holder.did


class Identities:
    """The identities of one home, a file each."""

    def __init__(self, home: Home) -> None:
        self._folder = home.client / "identities"

    def create(self, name: str) -> Identity:
        """Creates a DID; its key is on disk before the DID is returned."""
        identity = Identity(name, Holder.generate())
        self.save(identity)
        return identity

    def ensure(self, name: str) -> Identity:
        """Returns the identity of this name; creates it if there is none."""
        return self.load(name) if self._path(name).exists() else self.create(name)

    def save(self, identity: Identity) -> None:
        self._folder.mkdir(mode=PRIVATE, exist_ok=True)
        document = {
            "did": identity.did,
            "curve": identity.holder.curve,
            "secret": jose.encode(identity.holder.key.secret),
            "wallet_id": identity.wallet_id,
            "addresses": identity.addresses,
            "credentials": identity.credentials,
        }
        write_private(self._path(identity.name), json.dumps(document, indent=2).encode())

    def load(self, name: str) -> Identity:
        return _read(self._path(name))

    def find(self, did: str) -> Identity:
        """Returns the identity of this DID or name. Raises CommandError if its key is not here."""
        for identity in self.all():
            if did in (identity.did, identity.name):
                return identity
        raise CommandError(
            f"the key of {did} is not in {self._folder}",
            code="NOT_FOUND",
            reason="KEY_NOT_HERE",
            remedy="run anya demo once: it makes a payer",
        )

    def all(self) -> list[Identity]:
        """Returns the identities by name."""
        return [_read(path) for path in sorted(self._folder.glob("*.json"))]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def ensure_policy(home: Home) -> None:
    """Writes a policy that trusts the demo's issuer, unless the home has a policy already."""
    path = home.service("web5") / "identity-policy.yaml"
    if not path.exists():
        issuer = Identities(home).ensure(ISSUER)
        write_private(path, POLICY.format(credential=CREDENTIAL, issuer=issuer.did).encode())


def _read(path: Path) -> Identity:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        return Identity(
            name=path.stem,
            holder=Holder.from_secret(document["curve"], jose.decode(document["secret"])),
            wallet_id=document["wallet_id"],
            addresses=tuple(document["addresses"]),
            credentials=tuple(document["credentials"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise CommandError(
            f"{path} holds no identity",
            reason="IDENTITY_INVALID",
            remedy="restore it from a backup, or remove it: its DID is then lost",
        ) from None

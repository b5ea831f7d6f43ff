"""The web5 service's entry point: the only module that constructs its parts."""

from __future__ import annotations

import logging
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from anya.mesh.v1.outbox_pb2_grpc import add_OutboxServiceServicer_to_server
from anya.web5.v1.analysis_pb2_grpc import add_AnalysisServiceServicer_to_server
from anya.web5.v1.did_pb2_grpc import add_DidServiceServicer_to_server
from anya.web5.v1.identity_pb2_grpc import add_IdentityServiceServicer_to_server
from anya.web5.v1.record_pb2_grpc import add_RecordServiceServicer_to_server
from mesh import process
from mesh.clock import SystemClock
from mesh.data.database import open_database
from mesh.rpc.servicers import OutboxServicer
from mesh.runtime import open_runtime
from mesh.security.attestation import Attestor, Verifier
from mesh.security.keystore import Keystore, KeystoreError, MasterKey
from mesh.settings import ConfigError
from services.web5 import policy
from services.web5.config import Web5Config
from services.web5.servicers.analysis import AnalysisServicer
from services.web5.servicers.did import DidServicer
from services.web5.servicers.identity import IdentityServicer
from services.web5.servicers.record import RecordServicer
from services.web5.store import SCHEMA, did, identity, link
from services.web5.store.dwn.node import Dwn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from services.web5.did import Did
    from services.web5.policy import IdentityPolicy
    from services.web5.proof import Signer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Web5:
    """The running service."""

    port: int
    health_port: int
    did: Did  # audience of presentations, issuer of credentials, tenant of the payment records


@asynccontextmanager
async def web5(config: Web5Config) -> AsyncIterator[Web5]:
    """Runs the service for the duration of the block.

    Raises ConfigError if the identity policy cannot be read, or if the master key is not the one
    that sealed the keys of the store.
    """
    (config.mesh.home / "web5").mkdir(mode=0o700, parents=True, exist_ok=True)
    accepted = _read_policy(config.identity_policy)
    keystore = Keystore(MasterKey.from_file(config.master_key))
    attestor = Attestor(config.mesh.identity, lifetime=config.mesh.proof_seconds)
    verifier = Verifier(config.mesh.identity.ca, config.mesh.trust_domain)
    async with (
        open_runtime(config.mesh) as runtime,
        open_database(config.database, schema=SCHEMA) as database,
    ):
        dids = did.DidStore(database, keystore)
        signer = await _service_signer(dids, config)
        links = link.LinkStore(database, signer)
        identities = IdentityServicer(
            service_did=signer.did,
            policy=accepted,
            identities=identity.IdentityStore(database),
            links=links,
            attestor=attestor,
            verifier=verifier,
            clock=SystemClock(),
            network=config.mesh.network,
        )
        analysis = AnalysisServicer(links, attestor, config.mesh.network)
        dwn = Dwn(database, signer, SystemClock())
        await dwn.open()
        async with runtime.serve(
            partial(add_DidServiceServicer_to_server, DidServicer(dids)),
            partial(add_IdentityServiceServicer_to_server, identities),
            partial(add_AnalysisServiceServicer_to_server, analysis),
            partial(add_RecordServiceServicer_to_server, RecordServicer(dwn)),
            partial(add_OutboxServiceServicer_to_server, OutboxServicer(database, "web5")),
            max_in_flight=config.max_in_flight,
        ) as ports:
            yield Web5(ports.port, ports.health_port, signer.did)


async def _service_signer(dids: did.DidStore, config: Web5Config) -> Signer:
    try:
        return await dids.service_signer()
    except KeystoreError as error:
        raise ConfigError(
            f"ANYA_MASTER_KEY_FILE {config.master_key} is not the key of this store: {error};"
            " restore the key file that the store was created with"
        ) from None


def _read_policy(path: Path) -> IdentityPolicy:
    try:
        read = policy.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        log.warning("no identity policy at %s: every verification is refused", path)
        return policy.NO_CLASS
    except (OSError, UnicodeDecodeError, policy.IdentityPolicyError) as error:
        raise ConfigError(f"ANYA_IDENTITY_POLICY {path} cannot be used: {error}") from None
    log.info("identity policy %s names %s", read.version, ", ".join(read.classes) or "no class")
    return read


if __name__ == "__main__":
    sys.exit(process.run("web5", Web5Config.from_environment, web5))

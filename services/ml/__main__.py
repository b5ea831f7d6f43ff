"""The ml service's entry point: the only module that constructs its parts."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from anya.mesh.v1.outbox_pb2_grpc import add_OutboxServiceServicer_to_server
from anya.ml.v1.risk_pb2_grpc import add_RiskServiceServicer_to_server
from anya.standard.inference.v2.inference_pb2_grpc import (
    add_GRPCInferenceServiceServicer_to_server,
)
from mesh import process
from mesh.data.database import open_database
from mesh.rpc.servicers import OutboxServicer
from mesh.runtime import open_runtime
from mesh.security.attestation import Attestor, Verifier
from mesh.settings import ConfigError
from services.ml.config import MlConfig
from services.ml.servicers.inference import InferenceServicer
from services.ml.servicers.risk import RiskServicer
from services.ml.store import SCHEMA
from services.ml.store.assessments import AssessmentStore
from services.ml.store.models import read_models

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh.runtime import Ports

RISK_MODEL = "payment-risk"


@asynccontextmanager
async def ml(config: MlConfig) -> AsyncIterator[Ports]:
    """Runs the service for the duration of the block.

    Raises ConfigError if the model folder has no risk model, or a version is not what was released.
    """
    registry = read_models(config.models)
    model = registry.find(RISK_MODEL)
    if model is None:
        raise ConfigError(f"{config.models} has no {RISK_MODEL}; set ANYA_MODELS")
    async with (
        open_runtime(config.mesh) as runtime,
        open_database(config.database, schema=SCHEMA) as database,
    ):
        risk = RiskServicer(
            model,
            config.policy,
            AssessmentStore(database),
            Attestor(config.mesh.identity, lifetime=config.mesh.proof_seconds),
            Verifier(config.mesh.identity.ca, config.mesh.trust_domain),
        )
        inference = InferenceServicer(registry, version("anya-mesh"))
        outbox = OutboxServicer(database, "ml")
        async with runtime.serve(
            partial(add_RiskServiceServicer_to_server, risk),
            partial(add_GRPCInferenceServiceServicer_to_server, inference),
            partial(add_OutboxServiceServicer_to_server, outbox),
            max_in_flight=config.max_in_flight,
        ) as ports:
            yield ports


if __name__ == "__main__":
    sys.exit(process.run("ml", MlConfig.from_environment, ml))

"""RiskService: checks the attestations of a payment, assesses its risk and stores the result."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from anya.mesh.v1 import features_pb2
from anya.ml.v1 import risk_pb2 as pb
from anya.ml.v1.risk_pb2_grpc import RiskServiceServicer
from features.feature import Feature, Status
from mesh.errors import FailedPrecondition, InvalidArgument, Reason
from mesh.rpc.interceptors import request_key
from mesh.security.attestation import payment_digest
from services.ml.assessment import assess, obstacles

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from mesh.security.attestation import Attestor, Verifier
    from services.ml.assessment import Assessment, ModelFactor, Prediction, RuleFactor
    from services.ml.model import Model
    from services.ml.policy import RiskPolicy
    from services.ml.store.assessments import AssessmentStore

MAX_FEATURES = 256

STATUSES = {
    features_pb2.FEATURE_STATUS_PRESENT: Status.PRESENT,
    features_pb2.FEATURE_STATUS_NO_HISTORY: Status.NO_HISTORY,
    features_pb2.FEATURE_STATUS_UNAVAILABLE: Status.UNAVAILABLE,
    features_pb2.FEATURE_STATUS_OUTSIDE_MAX_AGE: Status.OUTSIDE_MAX_AGE,
}
STATUS_NUMBERS = {status: number for number, status in STATUSES.items()}


class RiskServicer(RiskServiceServicer):
    def __init__(
        self,
        model: Model,
        policy: RiskPolicy,
        store: AssessmentStore,
        attestor: Attestor,
        verifier: Verifier,
    ) -> None:
        self._model = model
        self._policy = policy
        self._store = store
        self._attestor = attestor
        self._verifier = verifier

    async def AssessFraudRisk(
        self,
        request: pb.AssessFraudRiskRequest,
        context: ServicerContext[pb.AssessFraudRiskRequest, pb.AssessFraudRiskResponse],
    ) -> pb.AssessFraudRiskResponse:
        key = request_key.current()
        first = await self._store.find(key)
        if first is None:
            digest = _digest(request)
            self._check_features(request, digest)
            assessment = self._assess(request, digest)
            first = await self._store.record(
                key,
                assessment,
                digest=digest,
                model=self._model.name,
                model_version=self._model.version,
                features=request.features.SerializeToString(deterministic=True),
                reply=self._format(assessment, digest).SerializeToString(),
            )
        return pb.AssessFraudRiskResponse.FromString(first)

    def _check_features(self, request: pb.AssessFraudRiskRequest, digest: bytes) -> None:
        """Raises FailedPrecondition unless the bitcoin service attested exactly these features."""
        attestations = request.context.attestations
        attested = self._verifier.require(attestations, ["payment_features"], digest)
        raw = request.features.SerializeToString(deterministic=True)
        if attested["payment_features"].values.get("sha256") != hashlib.sha256(raw).hexdigest():
            raise FailedPrecondition(
                "the features are not those that the bitcoin service attested; pass them unchanged",
                reason=Reason.PROOF_INVALID,
            )

    def _assess(self, request: pb.AssessFraudRiskRequest, digest: bytes) -> Assessment:
        features = _features(request.features)
        hindered = obstacles(
            features,
            self._model.feature_set,
            name=request.features.feature_set,
            hash=request.features.feature_set_hash,
            index_at_tip=request.features.index_at_tip,
        )
        prediction: Prediction | None = None
        if not hindered:
            prediction = self._model.predict(self._model.feature_set.vector(features))
        rules = self._policy.judge(
            confidence=self._confidence(request, digest),
            recipient=request.recipient_address,
            out_of_range=0 if prediction is None else prediction.out_of_range,
        )
        return assess(features, prediction, hindered, rules)

    def _confidence(self, request: pb.AssessFraudRiskRequest, digest: bytes) -> float | None:
        """Returns the confidence that web5 attested, or a lower one of the request.

        Returns None if there is no valid attestation.
        """
        try:
            attested = self._verifier.require(request.context.attestations, ["identity"], digest)
        except FailedPrecondition:
            return None
        value = attested["identity"].values.get("confidence")
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return min(float(value), request.sender_verification_score)

    def _format(self, assessment: Assessment, digest: bytes) -> pb.AssessFraudRiskResponse:
        response = pb.AssessFraudRiskResponse(
            risk_score=assessment.risk_score,
            decision=pb.RiskDecision.ValueType(int(assessment.decision)),
            risk_factors=[
                *map(_model_factor, assessment.model_factors),
                *map(_rule_factor, assessment.rule_factors),
            ],
            reasons=[
                pb.RiskReason(code=pb.RiskReasonCode.ValueType(reason.code), detail=reason.detail)
                for reason in assessment.reasons
            ],
            model=self._model.name,
            model_version=self._model.version,
            features_out_of_range=assessment.out_of_range,
            baseline=assessment.baseline,
        )
        if assessment.risk_score is not None:
            values = {
                "score": assessment.risk_score,
                "decision": assessment.decision.name.lower(),
                "model": self._model.name,
                "model_version": self._model.version,
            }
            response.attestations.append(self._attestor.attest("risk", digest, values=values))
        return response


def _digest(request: pb.AssessFraudRiskRequest) -> bytes:
    """Returns the digest of the payment intent.

    Raises FailedPrecondition (PROOF_INVALID) if the request is about another payment.
    """
    intent = request.context.intent
    digest = payment_digest(intent)
    for name in ("sender_did", "recipient_address", "amount_sat"):
        if getattr(request, name) != getattr(intent, name):
            raise FailedPrecondition(
                f"{name} must equal that of the payment intent",
                reason=Reason.PROOF_INVALID,
                field=name,
            )
    if not 0 <= request.sender_verification_score <= 1:
        raise InvalidArgument(
            "sender_verification_score must be from 0 to 1", field="sender_verification_score"
        )
    return digest


def _features(vector: features_pb2.FeatureVector) -> tuple[Feature, ...]:
    if len(vector.features) > MAX_FEATURES:
        raise InvalidArgument(f"at most {MAX_FEATURES} features", field="features")
    try:
        return tuple(
            Feature(
                feature.name,
                feature.value if feature.HasField("value") else None,
                STATUSES[feature.status],
            )
            for feature in vector.features
        )
    except (KeyError, ValueError) as error:
        raise InvalidArgument(f"a feature is malformed: {error}", field="features") from None


def _model_factor(factor: ModelFactor) -> pb.RiskFactor:
    return pb.RiskFactor(
        name=factor.feature.name,
        kind=pb.RISK_FACTOR_KIND_MODEL,
        value=factor.feature.value,
        status=STATUS_NUMBERS[factor.feature.status],
        contribution=factor.contribution,
    )


def _rule_factor(factor: RuleFactor) -> pb.RiskFactor:
    known = factor.value is not None
    return pb.RiskFactor(
        name=factor.name,
        kind=pb.RISK_FACTOR_KIND_RULE,
        value=factor.value,
        status=STATUS_NUMBERS[Status.PRESENT if known else Status.UNAVAILABLE],
        note=f"{factor.note}: {factor.decision.name}",
    )

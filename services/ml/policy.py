"""The risk policy: the operator's rules, which apply in addition to the model.

A rule can hold a payment back but cannot approve one: it decides REVIEW or REFUSE and does not
change the score. The file (``ANYA_RISK_POLICY``) is YAML::

    version: 2026-11
    minimum_confidence: 0.5     # of the identity verification; below: REVIEW
    max_out_of_range: 5         # features outside the training range; above: REVIEW
    refused_addresses: []       # recipients that are never paid
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mesh.settings import ConfigError
from services.ml.assessment import RiskDecision, RuleFactor

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = {"version", "minimum_confidence", "max_out_of_range", "refused_addresses"}


@dataclass(frozen=True, slots=True)
class RiskPolicy:
    """The settings of the rules; the defaults apply without a file."""

    version: str = "default"
    minimum_confidence: float = 0.5
    max_out_of_range: int = 5
    refused_addresses: frozenset[str] = field(default_factory=frozenset)

    def judge(
        self, *, confidence: float | None, recipient: str, out_of_range: int
    ) -> Iterator[RuleFactor]:
        """Yields the decision of every rule. ``confidence`` is None if it is not attested."""
        doubtful = confidence is None or confidence < self.minimum_confidence
        yield self._factor(
            "identity_confidence",
            confidence,
            RiskDecision.REVIEW if doubtful else RiskDecision.ACCEPT,
            f"at least {self.minimum_confidence:g}, attested",
        )
        listed = _spelling(recipient) in self.refused_addresses
        yield self._factor(
            "refused_address",
            float(listed),
            RiskDecision.REFUSE if listed else RiskDecision.ACCEPT,
            "the recipient is on the operator's list" if listed else "not on the operator's list",
        )
        strange = out_of_range > self.max_out_of_range
        yield self._factor(
            "features_out_of_range",
            float(out_of_range),
            RiskDecision.REVIEW if strange else RiskDecision.ACCEPT,
            f"at most {self.max_out_of_range}",
        )

    def _factor(
        self, name: str, value: float | None, decision: RiskDecision, note: str
    ) -> RuleFactor:
        return RuleFactor(name, value, decision, f"policy {self.version}: {note}")


def parse(text: str) -> RiskPolicy:
    """Parses the policy. Raises ConfigError, naming the key, if it is not valid."""
    try:
        document: Any = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"the risk policy is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or "version" not in document or document.keys() - KEYS:
        raise ConfigError(f"the risk policy must have version, and may have {sorted(KEYS)}")
    default = RiskPolicy()
    confidence = document.get("minimum_confidence", default.minimum_confidence)
    if type(confidence) not in (int, float) or not 0 <= confidence <= 1:
        raise ConfigError("minimum_confidence of the risk policy must be from 0 to 1")
    most = document.get("max_out_of_range", default.max_out_of_range)
    if type(most) is not int or most < 0:
        raise ConfigError("max_out_of_range of the risk policy must be a count")
    refused = document.get("refused_addresses", [])
    if not isinstance(refused, list) or not all(isinstance(entry, str) for entry in refused):
        raise ConfigError("refused_addresses of the risk policy must be a list of addresses")
    return RiskPolicy(
        str(document["version"]), float(confidence), most, frozenset(map(_spelling, refused))
    )


def _spelling(address: str) -> str:
    """Returns the normal form of an address; bech32 may be in upper case as well (BIP 173)."""
    return address.lower() if address == address.upper() else address

"""Conditions of the trust policy: CEL, compiled once, false if it cannot be evaluated."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cel_expr_python import cel

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CONDITION_CHARS = 4096

_ENVIRONMENT = cel.NewEnv(variables={"attestation": cel.Type.DYN})
_KIND = re.compile(r"""\battestation\s*(?:\.\s*|\[\s*["'])(\w+)""")


class Condition:
    """A CEL expression about a payment's attestations: ``"attestation.risk.score < 0.7"``."""

    def __init__(self, text: str) -> None:
        """Raises ValueError if ``text`` is no CEL expression of type bool."""
        if len(text) > MAX_CONDITION_CHARS:
            raise ValueError(f"longer than {MAX_CONDITION_CHARS} characters")
        try:
            self._expression = _ENVIRONMENT.compile(text)
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from None
        if self._expression.return_type() != cel.Type.BOOL:
            raise ValueError(f"{text!r} is not a condition: its type is not bool")
        self.text = text
        self.kinds = frozenset(_KIND.findall(text))  # of attestations that it names

    def holds(self, attestations: Mapping[str, Mapping[str, object]]) -> bool:
        """Tells if it is true for these values by kind. False if it cannot be evaluated."""
        try:
            result = self._expression.eval(data={"attestation": attestations})
        except RuntimeError:
            return False
        return result.type() == cel.Type.BOOL and result.value() is True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"

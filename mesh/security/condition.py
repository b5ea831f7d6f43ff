"""Conditions of the policy: CEL, compiled once, and false whenever it is not plainly true."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cel_expr_python import cel

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CONDITION_CHARS = 4096  # characters

_ENVIRONMENT = cel.NewEnv(variables={"attestation": cel.Type.DYN})
_KIND = re.compile(r"""\battestation\s*(?:\.\s*|\[\s*["'])(\w+)""")


class Condition:
    """What must hold of a payment's attestations: ``"attestation.risk.score < 0.7"``."""

    def __init__(self, text: str) -> None:
        """ValueError if ``text`` is no CEL expression with a truth value."""
        if len(text) > MAX_CONDITION_CHARS:
            raise ValueError(f"longer than {MAX_CONDITION_CHARS} characters")
        try:
            self._expression = _ENVIRONMENT.compile(text)
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from None
        if self._expression.return_type() != cel.Type.BOOL:
            raise ValueError(f"{text!r} is not a condition: it has no truth value")
        self.text = text
        self.kinds = frozenset(_KIND.findall(text))  # of attestation that it looks at

    def holds(self, attestations: Mapping[str, Mapping[str, object]]) -> bool:
        """Whether it is true of these values, by kind. What cannot be evaluated is not true."""
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

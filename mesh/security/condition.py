"""Conditions of the trust policy: CEL, compiled once, false if it cannot be evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cel_expr_python import cel

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CONDITION_CHARS = 4096

_ENVIRONMENT = cel.NewEnv(variables={"attestation": cel.Type.DYN})
_TEXT = re.compile(r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_FIRST, _OTHER = "\1", "\0"  # stand for the characters of a text
_VARIABLE = re.compile(r"\battestation\b")
_KIND = re.compile(r"""attestation\s*(?:\.\s*(\w+)|\[\s*(["'])(\w+)\2\s*\])""")
# Raw and byte texts, texts in three quotes, quoted names, comments: CEL reads them differently.
_UNREAD = re.compile(rf"""\w{_FIRST}|{_OTHER}{_FIRST}|["'`]|//""")
_TOKEN = re.compile(r"[(\[{]|[)\]}]|&&|\|\||\?")


@dataclass(frozen=True, slots=True)
class _Expression:
    kinds: frozenset[str]  # of attestations that it names
    compiled: Any

    def holds(self, attestations: Mapping[str, Mapping[str, object]]) -> bool:
        try:
            result = self.compiled.eval(data={"attestation": attestations})
        except RuntimeError:
            return False
        return result.type() == cel.Type.BOOL and result.value() is True


class Condition:
    """A CEL expression about a payment's attestations: ``"attestation.risk.score < 0.7"``."""

    def __init__(self, text: str) -> None:
        """Raises ValueError if ``text`` is no CEL expression of type bool.

        Raises it too if the text has an attestation without the name of its kind, a comment, or a
        quoted text with a prefix: the kinds that a condition is about must be certain.
        """
        if len(text) > MAX_CONDITION_CHARS:
            raise ValueError(f"longer than {MAX_CONDITION_CHARS} characters")
        self._whole = _compile(text)
        if self._whole.compiled.return_type() != cel.Type.BOOL:
            raise ValueError(f"{text!r} is not a condition: its type is not bool")
        self._conjuncts = tuple(map(_compile, _conjuncts(text)))
        self.text = text
        self.kinds = self._whole.kinds

    def holds(self, attestations: Mapping[str, Mapping[str, object]]) -> bool:
        """Tells if it is true for these values by kind. False if it cannot be evaluated."""
        return self._whole.holds(attestations)

    def may_hold(self, kind: str, values: Mapping[str, object]) -> bool:
        """Returns if it may be true for these values of ``kind``, whatever the other kinds state.

        Only a conjunct about ``kind`` alone can rule that out.
        """
        return all(
            conjunct.holds({kind: values})
            for conjunct in self._conjuncts
            if conjunct.kinds == {kind}
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"


def _compile(text: str) -> _Expression:
    try:
        compiled = _ENVIRONMENT.compile(text)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return _Expression(_kinds(text), compiled)


def _kinds(text: str) -> frozenset[str]:
    kinds = set()
    for variable in _VARIABLE.finditer(_blank_texts(text)):
        named = _KIND.match(text, variable.start())
        if named is None:
            raise ValueError("must name the kind of each attestation, as in attestation.risk")
        kinds.add(named[1] or named[3])
    return frozenset(kinds)


def _conjuncts(text: str) -> list[str]:
    """Returns the expressions that && joins; only the whole text if || or ? joins them."""
    depth, start, parts = 0, 0, []
    for token in _TOKEN.finditer(_blank_texts(text)):
        match token[0]:
            case "(" | "[" | "{":
                depth += 1
            case ")" | "]" | "}":
                depth -= 1
            case "&&" if depth == 0:
                parts.append(text[start : token.start()])
                start = token.end()
            case _ if depth == 0:
                return [text]
    return [*parts, text[start:]]


def _blank_texts(text: str) -> str:
    """Returns the text with each quoted text blanked out. Raises ValueError if one is not plain."""
    blanked = _TEXT.sub(lambda quoted: _FIRST + _OTHER * (len(quoted[0]) - 1), text)
    if {_FIRST, _OTHER} & set(text) or _UNREAD.search(blanked):
        raise ValueError("must have plain texts, as in 'accept', and no comments")
    return blanked

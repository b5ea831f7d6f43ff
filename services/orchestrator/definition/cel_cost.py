"""Bounds what an evaluation of a CEL expression costs, before it is evaluated.

CEL counts iterations only, and nothing stops it: a bound is what keeps one condition from holding
up every other run. The unit is one byte that one iteration touches, at most about 20 ns. The bound
follows the syntax tree with the sizes of the operands: it is never less than the cost, and may be
much more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from services.orchestrator.definition.cel_ast import dotted_name, parse_expression
from services.orchestrator.definition.cel_patterns import MAX_PATTERN_LENGTH, program_length

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

INLINE_UNITS = 20_000  # in a turn of a run, which holds up all other runs
FREE_UNITS = 4_000  # below it nothing is measured, and a condition is part of what its step costs
MAX_PATTERN_TEXT_BYTES = 64 * 1024
MAX_LIST_LEVELS = 6  # of lists built inside lists that are being built

VALUE_BYTES = 4  # of a number, and of each list, object and text beside what it holds

_NODE = 2  # of evaluating one part of an expression
_CALL = 512  # of a function that no other rule names: time zones take 7 us
_PATTERN = 2_500  # of a match beside what grows with its pattern
_PATTERN_LENGTH = 100  # of each instruction of a pattern, which is compiled at each use
_COPY = 2  # of each element that a new list takes from another one

_LOGIC = ("_&&_", "_||_", "!_", "@not_strictly_false")
_SCALAR = (
    *("_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "size", "startsWith", "endsWith"),
    *("_-_", "_*_", "_/_", "_%_", "-_", "int", "uint", "double", "bool"),
)


class ConditionTooCostlyError(Exception):
    """An evaluation might cost more than it may."""


class PatternInvalidError(ValueError):
    """A regular expression is not written in the condition, or too long."""


class Bound(NamedTuple):
    """The largest that a value may be."""

    weight: int  # bytes of its texts, and VALUE_BYTES for each value in it
    members: int = 0  # elements of a list, or keys and values of an object
    element: Bound | None = None  # of each of them


Frame: TypeAlias = "Mapping[str, Bound]"
Cost: TypeAlias = "Callable[[Frame], tuple[int, Bound]]"

_NUMBER = Bound(VALUE_BYTES)


def measure(value: Any, limit: int) -> Bound:
    """Returns the size of a JSON value. Raises ConditionTooCostlyError beyond ``limit`` bytes."""
    match value:
        case str():
            length = len(value) if value.isascii() else 4 * len(value)
            return Bound(VALUE_BYTES + length)
        case dict():
            return _measure_all([*value, *value.values()], limit)
        case list():
            return _measure_all(value, limit)
        case _:
            return _NUMBER


def _measure_all(members: Sequence[Any], limit: int) -> Bound:
    weight, longest = VALUE_BYTES * (1 + len(members)), 0
    if weight > limit:
        raise ConditionTooCostlyError
    element = _NUMBER if members else None
    for member in members:
        if isinstance(member, str):
            length = len(member) if member.isascii() else 4 * len(member)
            longest = max(longest, length)
            weight += length
        elif isinstance(member, dict | list):
            bound = measure(member, limit - weight)
            weight += bound.weight - VALUE_BYTES
            element = _joined(element or _NUMBER, bound)
        if weight > limit:
            raise ConditionTooCostlyError
    if longest:
        element = _joined(element or _NUMBER, Bound(VALUE_BYTES + longest))
    return Bound(weight, len(members), element)


def _joined(first: Bound, second: Bound) -> Bound:
    """Returns the least bound of a value that either one bounds."""
    element = first.element or second.element
    if first.element is not None and second.element is not None:
        element = _joined(first.element, second.element)
    return Bound(max(first.weight, second.weight), max(first.members, second.members), element)


@dataclass(frozen=True, slots=True)
class ExpressionCost:
    """The cost of a condition, by the sizes of its operands.

    With texts of at most ``free_chars``, numbers and nulls as its operands it is below FREE_UNITS.
    """

    _cost: Cost
    _evaluations: int  # a condition that is false is evaluated as a whole, then by its clauses
    free_chars: int  # -1: it is never known to be cheap

    def units(self, operands: Mapping[str, Any], limit: int) -> int:
        """Returns a bound of the cost. Raises ConditionTooCostlyError beyond ``limit``."""
        bounds, left = {}, limit
        for name, value in operands.items():
            bounds[name] = bound = measure(value, left)
            left -= bound.weight
        units = _units(self._cost, bounds, self._evaluations)
        if units > limit:
            raise ConditionTooCostlyError
        return units


def cost_of(text: str, operands: Collection[str], evaluations: int) -> ExpressionCost:
    """Returns the cost of a CEL expression that compiles, over these operands.

    Raises PatternInvalidError if it matches a text with a pattern that is not written in it.
    """
    tree = parse_expression(text)
    assert tree is not None, "it compiles"  # noqa: S101
    cost = _Compiler(operands).compile(tree, frozenset())
    return ExpressionCost(cost, evaluations, _free_chars(cost, operands, evaluations))


def _free_chars(cost: Cost, operands: Collection[str], evaluations: int) -> int:
    for chars in (4096, 1024, 512, 256, 128, 64, 0):
        bound = Bound(VALUE_BYTES + 4 * chars)
        try:
            if _units(cost, dict.fromkeys(operands, bound), evaluations) <= FREE_UNITS:
                return chars
        except ConditionTooCostlyError:
            continue
    return -1


def _units(cost: Cost, bounds: Frame, evaluations: int) -> int:
    return evaluations * (cost(bounds)[0] + sum(bound.weight for bound in bounds.values()))


class _Compiler:
    """Compiles a syntax tree to functions from the bounds of variables to cost and bound."""

    def __init__(self, operands: Collection[str]) -> None:
        self._operands = operands
        self._list_levels = 0

    def compile(self, tree: Any, local: frozenset[str]) -> Cost:
        """Compiles a tree. ``local``: the variables of the comprehensions around it."""
        if tree.HasField("call"):
            return self._call(tree.call, local)
        if tree.HasField("comprehension"):
            return self._comprehension(tree.comprehension, local)
        if tree.HasField("list"):
            return _collection([self.compile(one, local) for one in tree.list.elements])
        if tree.HasField("struct"):
            parts = [part for entry in tree.struct.entries for part in (entry.key, entry.value)]
            return _collection([self.compile(part, local) for part in parts])
        if tree.HasField("constant"):
            length = 4 * len(tree.constant.string) + len(tree.constant.bytes)
            found = _NODE, Bound(VALUE_BYTES + length)
            return lambda frame: found
        return self._variable(tree, local)

    def _variable(self, tree: Any, local: frozenset[str]) -> Cost:
        """Compiles a name: ``input.a`` may be an operand, or the member of one."""
        name = dotted_name(tree)
        is_operand = name is not None and name in self._operands
        if is_operand and str(name).partition(".")[0] not in local:
            return lambda frame: (_NODE, frame[str(name)])
        if tree.HasField("select"):
            member = _member(self.compile(tree.select.operand, local))
            if not is_operand:
                return member
            return _either(member, str(name))
        found = tree.ident.name
        if found in local:
            return lambda frame: (_NODE, frame[found])
        # A name of a type, or one that a local variable hides in part: bounded by all operands.
        return lambda frame: (_NODE, Bound(sum(bound.weight for bound in frame.values())))

    def _call(self, call: Any, local: frozenset[str]) -> Cost:
        trees = ([call.target] if call.HasField("target") else []) + list(call.args)
        args = [self.compile(arg, local) for arg in trees]
        function = call.function
        if function == "matches" and len(args) == 2:
            return _match(args[0], args[1], trees[1])
        if function == "contains" and len(args) == 2:
            return _search(args[0], args[1])
        if function in _LOGIC:
            return _apply(args, lambda bounds: (_NODE, _NUMBER))
        if function == "_?_:_":
            return _apply(args, lambda bounds: (_NODE, _joined(bounds[1], bounds[2])))
        if function == "_[_]":
            return _apply(args, lambda bounds: (_NODE + bounds[1].weight, _element(bounds[0])))
        if function == "_+_" and len(args) == 2:
            return _apply(args, _sum)
        if function in _SCALAR:
            return _apply(args, lambda bounds: (_NODE + _weight(bounds), _NUMBER))
        return _apply(args, _unknown)

    def _comprehension(self, loop: Any, local: frozenset[str]) -> Cost:
        inner = local | {name for name in (loop.item, loop.second, loop.accumulator) if name}
        builds = not loop.initial.HasField("constant")
        self._list_levels += builds
        if self._list_levels > MAX_LIST_LEVELS:
            raise PatternInvalidError(f"builds lists in lists, more than {MAX_LIST_LEVELS} deep")
        parts = _Loop(
            (loop.item, loop.second, loop.accumulator),
            self.compile(loop.range, local),
            self.compile(loop.initial, local),
            self.compile(loop.condition, inner),
            self.compile(loop.step, inner),
            self.compile(loop.result, inner),
            builds=builds,
        )
        self._list_levels -= builds
        return parts.cost


@dataclass(frozen=True, slots=True)
class _Loop:
    """A comprehension: ``all``, ``exists``, ``exists_one``, ``map`` and ``filter``."""

    names: tuple[str, str, str]  # of the item, of a second variable or "", of the accumulator
    range: Cost
    initial: Cost
    condition: Cost
    step: Cost
    result: Cost
    builds: bool  # a list, to which each iteration may add

    def cost(self, frame: Frame) -> tuple[int, Bound]:
        cost, over = self.range(frame)
        initial_cost, accumulator = self.initial(frame)
        item, second, accumulated = self.names
        element = _element(over)
        inner = {**frame, item: element, second: element, accumulated: accumulator}
        if self.builds and over.members:
            grown = self.step(inner)[1]
            accumulator = inner[accumulated] = Bound(
                accumulator.weight + over.members * max(0, grown.weight - accumulator.weight),
                accumulator.members + over.members * max(0, grown.members - accumulator.members),
                grown.element,
            )
        each = _NODE + self.condition(inner)[0] + self.step(inner)[0]
        result_cost, result = self.result(inner)
        return cost + initial_cost + over.members * each + result_cost, result


def _apply(args: Sequence[Cost], price: Callable[[Sequence[Bound]], tuple[int, Bound]]) -> Cost:
    """Returns the cost of a function beside that of its arguments."""

    def cost(frame: Frame) -> tuple[int, Bound]:
        found = [arg(frame) for arg in args]
        own, result = price([bound for _, bound in found])
        return own + sum(units for units, _ in found), result

    return cost


def _weight(bounds: Sequence[Bound]) -> int:
    return sum(bound.weight for bound in bounds)


def _element(bound: Bound) -> Bound:
    return bound.element or Bound(bound.weight)


def _collection(members: Sequence[Cost]) -> Cost:
    def price(bounds: Sequence[Bound]) -> tuple[int, Bound]:
        element = None
        for bound in bounds:
            element = bound if element is None else _joined(element, bound)
        size = VALUE_BYTES + _weight(bounds)
        return _NODE + _COPY * len(bounds), Bound(size, len(bounds), element)

    return _apply(members, price)


def _member(of: Cost) -> Cost:
    return _apply([of], lambda bounds: (_NODE, _element(bounds[0])))


def _either(member: Cost, operand: str) -> Cost:
    """Returns the cost of an operand, or of a member of the variable that hides it."""

    def cost(frame: Frame) -> tuple[int, Bound]:
        units, bound = member(frame)
        return units, _joined(bound, frame[operand])

    return cost


def _sum(bounds: Sequence[Bound]) -> tuple[int, Bound]:
    """Adds numbers, texts or lists: of lists the elements are copied, not what is in them."""
    first, second = bounds
    count = first.members + second.members
    element = first.element or second.element
    if first.element is not None and second.element is not None:
        element = _joined(first.element, second.element)
    texts = sum(bound.weight for bound in bounds if not bound.members)
    return _NODE + _COPY * count + texts, Bound(_weight(bounds), count, element)


def _unknown(bounds: Sequence[Bound]) -> tuple[int, Bound]:
    size = 32 + 4 * _weight(bounds)  # the text of a number; an escape for each byte
    element = next((bound.element for bound in bounds if bound.element is not None), None)
    return _CALL + size, Bound(size, sum(bound.members for bound in bounds), element)


def _search(text: Cost, part: Cost) -> Cost:
    return _apply(
        [text, part],
        lambda bounds: (_NODE + bounds[0].weight * (1 + bounds[1].weight // 256), _NUMBER),
    )


def _match(text: Cost, pattern: Cost, written: Any) -> Cost:
    if not written.HasField("constant") or not written.constant.HasField("string"):
        raise PatternInvalidError("the pattern of matches must be a text in quotes")
    length = program_length(written.constant.string)
    if length > MAX_PATTERN_LENGTH:
        raise PatternInvalidError(
            f"the pattern of matches repeats too much: it is as long as {length} characters"
            f" without counted repetitions, at most {MAX_PATTERN_LENGTH}"
        )

    def price(bounds: Sequence[Bound]) -> tuple[int, Bound]:
        if bounds[0].weight > MAX_PATTERN_TEXT_BYTES:
            raise ConditionTooCostlyError
        return _PATTERN + length * (_PATTERN_LENGTH + bounds[0].weight), _NUMBER

    return _apply([text, pattern], price)

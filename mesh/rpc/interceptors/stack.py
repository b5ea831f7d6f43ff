"""Interceptors around one call: what ExitStack does, at less cost while no error is raised.

Benchmark ``mesh``: with ExitStack in its place, ``chain_vs_bare`` is 3 % lower and
``chain_vs_bare_c1`` 5 %.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

Unwrapped: TypeAlias = "Callable[[Any], Iterator[None]]"  # an interceptor without @contextmanager


def unwrap(
    interceptors: Sequence[Callable[[Any], AbstractContextManager[None]]],
) -> tuple[Unwrapped, ...]:
    """Returns the generator functions below @contextmanager. Raises AttributeError without it."""
    return tuple(getattr(one, "__wrapped__") for one in interceptors)  # noqa: B009


class InterceptorStack:
    """Leaves interceptors in reverse order; an error of one is raised in those outside of it."""

    def __init__(self) -> None:
        self._entered: list[Iterator[None]] = []

    def enter(self, interceptors: tuple[Unwrapped, ...], call: object) -> None:
        for interceptor in interceptors:
            generator = interceptor(call)
            next(generator)
            self._entered.append(generator)

    def pop_all(self) -> InterceptorStack:
        """Moves the interceptors to a new stack, to be left later, and returns it."""
        moved = InterceptorStack()
        moved._entered, self._entered = self._entered, moved._entered
        return moved

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if error is not None:
            return self._unwind(kind, error, traceback)
        with ExitStack() as rest:
            rest.push(self._unwind)  # for an error of an interceptor on the way out
            while self._entered:
                for _ in self._entered.pop():
                    raise RuntimeError("an interceptor has more than one yield")
        return None

    def _unwind(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        rest = ExitStack()
        for generator in self._entered:
            rest.push(_resumed(generator))
        self._entered.clear()
        return rest.__exit__(kind, error, traceback)


# The context manager of a generator that is at its yield already: to be left, never entered.
_resumed = contextmanager(iter)

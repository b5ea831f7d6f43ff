"""InterceptorStack enters and leaves interceptors as ExitStack does, with and without errors."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from mesh.rpc.interceptors.stack import InterceptorStack, unwrap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Interceptor = Callable[[list[str]], AbstractContextManager[None]]


def plain(name: str) -> Interceptor:
    @contextmanager
    def interceptor(seen: list[str]) -> Iterator[None]:
        seen.append(f"into {name}")
        try:
            yield
        except ValueError as error:
            seen.append(f"{error} through {name}")
            raise
        seen.append(f"out of {name}")

    return interceptor


@contextmanager
def swallows(seen: list[str]) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        seen.append(f"{error} swallowed")


@contextmanager
def refuses(seen: list[str]) -> Iterator[None]:
    raise ValueError("refusal")
    yield


@contextmanager
def fails_at_the_end(seen: list[str]) -> Iterator[None]:
    yield
    raise ValueError("late")


@contextmanager
def replaces(seen: list[str]) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise ValueError("another") from None


STACKS = {
    "all well": (plain("a"), plain("b")),
    "one refuses": (plain("a"), plain("b"), refuses),
    "one refuses within one that swallows": (plain("a"), swallows, plain("b"), refuses),
    "one fails at the end": (plain("a"), fails_at_the_end, plain("b")),
    "one fails at the end within one that swallows": (plain("a"), swallows, fails_at_the_end),
    "one raises something else": (plain("a"), replaces, plain("b")),
    "one swallows": (plain("a"), swallows, plain("b")),
}


@pytest.mark.parametrize("raised", [None, "failure"])
@pytest.mark.parametrize("interceptors", STACKS.values(), ids=STACKS)
def test_stack_does_what_an_exit_stack_does(
    interceptors: tuple[Interceptor, ...], raised: str | None
) -> None:
    assert with_interceptor_stack(interceptors, raised) == with_exit_stack(interceptors, raised)


def with_interceptor_stack(interceptors: tuple[Interceptor, ...], raised: str | None) -> list[str]:
    seen: list[str] = []
    try:
        with InterceptorStack() as stack:
            stack.enter(unwrap(interceptors), seen)
            run(seen, raised)
    except ValueError as error:
        seen.append(f"{error} at the end")
    return seen


def with_exit_stack(interceptors: tuple[Interceptor, ...], raised: str | None) -> list[str]:
    seen: list[str] = []
    try:
        with ExitStack() as stack:
            for interceptor in interceptors:
                stack.enter_context(interceptor(seen))
            run(seen, raised)
    except ValueError as error:
        seen.append(f"{error} at the end")
    return seen


def run(seen: list[str], raised: str | None) -> None:
    seen.append("servicer")
    if raised is not None:
        raise ValueError(raised)


def test_moved_interceptors_are_left_by_their_new_stack() -> None:
    seen: list[str] = []
    with InterceptorStack() as stack:
        stack.enter(unwrap([plain("a")]), seen)
        later = stack.pop_all()

    assert seen == ["into a"]
    with later:
        pass
    assert seen == ["into a", "out of a"]


def test_interceptor_with_two_yields_raises() -> None:
    @contextmanager
    def twice(seen: list[str]) -> Iterator[None]:
        yield
        yield

    with pytest.raises(RuntimeError, match="more than one yield"), InterceptorStack() as stack:
        stack.enter(unwrap([twice]), [])


def test_function_that_is_no_context_manager_is_refused() -> None:
    def interceptor(seen: list[str]) -> AbstractContextManager[None]:
        return suppress(ValueError)

    with pytest.raises(AttributeError):
        unwrap([interceptor])

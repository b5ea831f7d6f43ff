"""The unary path and the interceptors: the same call is the same to all who see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry import trace

from mesh import errors
from mesh.breaker import BreakerState
from mesh.rpc.interceptors import deadline, request_key, tracing, trust
from tests.mesh.echo import ALICE, AUDITED, POLICY, REPLY
from tests.mesh.notes import Note
from tests.mesh.rpc.paths import PATHS, Act, Ask, Case, see

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.testing import Authority

BOB = "spiffe://anya.internal/bob"
IDS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
STREAMS = [path for path in PATHS if "_" in path]
MESH_ERRORS = [
    kind for kind in errors.MeshError.__subclasses__() if kind.__module__ == "mesh.errors"
]


class AbruptEnd(BaseException):
    """No Exception, as KeyboardInterrupt, which would end the tests."""


def fails(error: BaseException) -> Act:
    async def act(request: Any, context: Any) -> Any:
        raise error

    return act


async def reply(request: Any, context: Any) -> Any:
    return REPLY


async def nothing(request: Any, context: Any) -> Any:
    return None


async def sets_a_code(request: Any, context: Any) -> Any:
    context.set_code(grpc.StatusCode.NOT_FOUND)
    context.set_details("set by the servicer")
    context.set_trailing_metadata((("a", "b"),))
    return REPLY


async def sets_no_known_code(request: Any, context: Any) -> Any:
    context.set_code(99)
    return REPLY


async def aborts(request: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.ABORTED, "aborted by the servicer")


async def swallows_its_abort(request: Any, context: Any) -> Any:
    try:
        await context.abort(grpc.StatusCode.ABORTED, "aborted by the servicer")
    except grpc.aio.AbortError:
        return REPLY


async def hangs(request: Any, context: Any) -> Any:
    await asyncio.Event().wait()


async def refuses_to_be_cancelled(request: Any, context: Any) -> Any:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return REPLY


async def fails_when_cancelled(request: Any, context: Any) -> Any:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise errors.PermissionDenied("too late") from None


async def says_what_it_knows(request: Any, context: Any) -> Any:
    """Replies with all that a servicer can ask of the call that it serves."""
    remote = tracing.remote_parent()
    left = deadline.remaining()
    known = (
        trust.current_caller(),
        trust.current_bounds().boundary,
        left is not None and 0 < left <= 5,
        remote and (remote.span_id == SPAN_ID, remote.is_remote, remote.trace_flags),
        bool(tracing.current_traceparent()),
        trace.get_current_span().get_span_context().is_valid,
    )
    return Note(text=repr(known))


async def changes_its_request(request: Any, context: Any) -> Any:
    request.text = "changed"
    return Note(text=repr(request_key.current().body))


async def says_its_key(request: Any, context: Any) -> Any:
    return Note(text=repr(request_key.current()))


async def cancel(call: Any) -> None:
    call.cancel()


async def cancel_once_served(call: Any) -> None:
    await asyncio.wait([asyncio.ensure_future(call.initial_metadata())], timeout=0.05)
    call.cancel()


async def cancel_the_caller(call: Any) -> None:
    async def caller() -> None:
        await (call if hasattr(call, "__await__") else anext(aiter(call)))

    task = asyncio.create_task(caller())
    await asyncio.wait([task], timeout=0.05)
    task.cancel()
    await asyncio.wait([task])


async def ask_only_for_the_code(call: Any) -> None:
    await call.code()


def parent(flags: int, state: str = "") -> trace.SpanContext:
    entries = trace.TraceState.from_header([state]) if state else None
    return trace.SpanContext(TRACE_ID, SPAN_ID, True, trace.TraceFlags(flags), entries)


RAW: dict[str, list[tuple[str, str | bytes]]] = {
    "no traceparent": [("x", "y")],
    "a sampled traceparent": [("traceparent", f"{IDS}-01")],
    "an unsampled traceparent": [("traceparent", f"{IDS}-00")],
    "a random unsampled traceparent": [("traceparent", f"{IDS}-02")],
    "a random sampled traceparent": [("traceparent", f"{IDS}-03")],
    "a malformed traceparent": [("traceparent", f"{IDS}-0")],
    "an empty traceparent": [("traceparent", "")],
    "a traceparent in capitals": [("traceparent", f"{IDS}-01".upper())],
    "a traceparent of another version": [("traceparent", f"01{IDS[2:]}-01")],
    "a traceparent of no version": [("traceparent", f"ff{IDS[2:]}-01")],
    "a traceparent of zeros": [("traceparent", f"00-{'0' * 32}-{'0' * 16}-01")],
    "a huge traceparent": [("traceparent", IDS + "-01" + "0" * 4000)],
    "two traceparents": [("traceparent", f"{IDS}-00"), ("traceparent", f"{IDS}-01")],
    "two traceparents, the last malformed": [("traceparent", f"{IDS}-01"), ("traceparent", "x")],
    "a tracestate": [("traceparent", f"{IDS}-01"), ("tracestate", "vendor=1")],
    "an unsampled tracestate": [("traceparent", f"{IDS}-00"), ("tracestate", "vendor=1")],
    "a malformed tracestate": [("traceparent", f"{IDS}-01"), ("tracestate", ",,=,;")],
    "a tracestate alone": [("tracestate", "vendor=1")],
    "keys of bytes, repeated": [("a-bin", b"\xff\x00"), ("a-bin", b""), ("traceparent-bin", b"\0")],
    "an identity": [("peer_spiffe_id", BOB), ("x-forwarded-client-cert", f"URI={BOB}")],
}

HUGE = Case(
    fails(errors.InvalidArgument("\u20ac" * 20_000, field="\u00e4" * 20_000, retry_after=1.5))
)

CASES = {
    "ok": Case(reply),
    "ok, audited": Case(reply, policy=AUDITED),
    "ok, circuit closed": Case(reply, circuit=BreakerState.CLOSED),
    "what the servicer knows": Case(says_what_it_knows),
    "what the servicer knows, unsampled": Case(says_what_it_knows, parent=parent(0)),
    **{f"{kind.__name__}": Case(fails(kind("no"))) for kind in MESH_ERRORS},
    **{
        f"{kind.__name__}, audited": Case(fails(kind("no")), policy=AUDITED) for kind in MESH_ERRORS
    },
    "an error with all details": Case(
        fails(
            errors.ResourceExhausted(
                "no" * 2000, reason=errors.Reason.OVERLOADED, field="a", retry_after=1.5
            )
        )
    ),
    "an error of huge texts": HUGE,
    "a budget": Case(fails(errors.ResourceExhausted("no", reason=errors.Reason.BUDGET_EXCEEDED))),
    "unexpected": Case(fails(RuntimeError("the password is hunter2"))),
    "unexpected, audited": Case(fails(RuntimeError("hunter2")), policy=AUDITED),
    "StopIteration": Case(fails(StopAsyncIteration()), policy=AUDITED),
    "a reply of None": Case(nothing, policy=AUDITED),
    "a code of the servicer": Case(sets_a_code, policy=AUDITED),
    "a code that no status has": Case(sets_no_known_code, policy=AUDITED),
    "abort": Case(aborts, policy=AUDITED),
    "cancelled by itself": Case(fails(asyncio.CancelledError()), policy=AUDITED, timeout=0.3),
    "abrupt end": Case(fails(AbruptEnd()), policy=AUDITED, timeout=0.3),
    "cancelled by the caller": Case(hangs, policy=AUDITED, end=cancel_once_served),
    "deadline": Case(hangs, policy=AUDITED, timeout=0.2),
    "deadline, and refused": Case(fails_when_cancelled, timeout=0.2),
    "no time left": Case(reply, timeout=0),
    "no deadline": Case(reply, timeout=None, raw=[("x", "y")]),
    "another trust domain": Case(reply, spiffe_ids=("spiffe://elsewhere.example/alice",)),
    "a longer trust domain": Case(reply, spiffe_ids=("spiffe://anya.internal.example/alice",)),
    "two SPIFFE ids": Case(reply, spiffe_ids=(ALICE, BOB)),
    "no SPIFFE id": Case(reply, spiffe_ids=("https://anya.internal/alice",)),
    "not granted": Case(reply, spiffe_ids=(BOB,)),
    "over the limit": Case(reply, slots=0),
    "circuit open": Case(reply, circuit=BreakerState.OPEN),
    "sampled parent": Case(says_what_it_knows, parent=parent(1)),
    "sampled parent with state": Case(says_what_it_knows, parent=parent(1, "vendor=1")),
    "unsampled parent with state": Case(says_what_it_knows, parent=parent(0, "vendor=1")),
    "unsampled parent, refused": Case(reply, parent=parent(0), spiffe_ids=(BOB,)),
    **{name: Case(says_what_it_knows, raw=raw) for name, raw in RAW.items()},
}
# What a stream answers otherwise: it has no request_id, is read and refused message by message,
# cannot be written to after its end, and its caller asks for the code after the replies.
UNARY_CASES = {
    "the key": Case(says_its_key),
    "abort, swallowed": Case(swallows_its_abort, policy=AUDITED),
    "cancelled with its caller": Case(hangs, policy=AUDITED, end=cancel_the_caller),
    "cancelled, and a reply": Case(refuses_to_be_cancelled, policy=AUDITED, end=cancel_once_served),
    "cancelled, and refused": Case(fails_when_cancelled, end=cancel_once_served),
    "data class": Case(reply, request=Ask(request_id="a", diary="mine")),
    "no boundary": Case(reply, policy=POLICY.replace("to: echo", "to: alice")),
    "only the code": Case(reply, end=ask_only_for_the_code),
    "only the code, failed": Case(fails(errors.Unavailable("no")), end=ask_only_for_the_code),
    "a request that is changed": Case(changes_its_request),
    "malformed bytes": Case(reply, raw=[("x", "y")], body=b"\xff\xff", policy=AUDITED),
    "malformed bytes, not granted": Case(
        reply, raw=[("x", "y")], body=b"\xff\xff", spiffe_ids=(BOB,)
    ),
    "no request id": Case(reply, request=Ask(), policy=AUDITED),
    "a long request id": Case(reply, request=Ask(request_id="a" * 129)),
    "a request id that is not printable": Case(reply, request=Ask(request_id="a\n")),
    "a request id, not granted": Case(reply, request=Ask(), spiffe_ids=(BOB,)),
}


@pytest.mark.parametrize(
    "case", [*CASES.values(), *UNARY_CASES.values()], ids=[*CASES, *UNARY_CASES]
)
async def test_unary_path_does_what_the_interceptors_do(
    case: Case, authority: Authority, tmp_path: Path
) -> None:
    unary, interceptors = tmp_path / "unary", tmp_path / "interceptors"

    found = await see(case, "unary", authority, unary)

    assert found == await see(case, "interceptors", authority, interceptors)
    assert found.free_slots == case.slots
    assert len(found.audit) <= 1


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_streams_do_what_unary_calls_do(
    case: Case, path: str, authority: Authority, tmp_path: Path
) -> None:
    stream, unary = tmp_path / "stream", tmp_path / "unary"

    found = await see(case, path, authority, stream)
    assert found == await see(case, "unary", authority, unary)


async def test_call_that_is_cancelled_at_once_frees_its_probe_and_ends_its_span(
    authority: Authority, tmp_path: Path
) -> None:
    found = await see(Case(hangs, end=cancel), "unary", authority, tmp_path)

    assert found.code == "cancelled here"
    assert found.circuit is BreakerState.HALF_OPEN
    assert ("rpc.response.status_code", "CANCELLED") in found.spans[-1][5]


@pytest.mark.parametrize("path", PATHS)
async def test_error_of_huge_texts_arrives_under_its_own_code(
    path: str, authority: Authority, tmp_path: Path
) -> None:
    found = await see(HUGE, path, authority, tmp_path)

    assert found.code == "INVALID_ARGUMENT"

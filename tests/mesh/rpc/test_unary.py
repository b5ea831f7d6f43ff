"""Unary calls: no method without the steps, a call object as gRPC's own, and attacks on both."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.trace import NoOpTracer

from anya.mesh.v1 import outbox_pb2 as pb
from anya.mesh.v1.outbox_pb2_grpc import (
    OutboxServiceServicer,
    OutboxServiceStub,
    add_OutboxServiceServicer_to_server,
)
from mesh.breaker import BreakerState
from mesh.errors import MeshError
from mesh.rpc.call import ServingCall
from mesh.rpc.interceptors import ServerRules
from mesh.rpc.interceptors.limit import Limiter
from mesh.rpc.server import build_server, credentials
from mesh.security.audit import open_audit
from mesh.security.trust import ActivePolicy
from mesh.settings import ConfigError
from mesh.testing import eventually, reason
from tests.mesh.echo import ALICE, AUDITED, POLICY, PRIVILEGES, method
from tests.mesh.notes import Note
from tests.mesh.rpc.paths import PATHS, Case, see

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mesh.testing import Authority
    from tests.mesh.echo import Echo

BOB = "spiffe://anya.internal/bob"


@asynccontextmanager
async def bare_channel(
    authority: Authority, port: int, spiffe_id: str = ALICE
) -> AsyncIterator[grpc.aio.Channel]:
    identity = authority.issue(spiffe_id)
    channel_credentials = grpc.ssl_channel_credentials(
        identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(f"localhost:{port}", channel_credentials) as channel:
        yield channel


@asynccontextmanager
async def serving(
    add: Callable[[grpc.aio.Server], None], authority: Authority, folder: Path
) -> AsyncIterator[tuple[int, ActivePolicy]]:
    policy = ActivePolicy(POLICY, PRIVILEGES)
    with open_audit(folder / "audit.jsonl") as audit:
        rules = ServerRules(
            service="echo",
            policy=policy,
            trust_domain="anya.internal",
            tracer=NoOpTracer(),
            limiter=Limiter(3),
            audit=audit,
        )
        server = build_server(rules)
        add(server)
        with pytest.raises(ConfigError):
            server.add_insecure_port("127.0.0.1:0")  # no caller would have an identity
        port = server.add_secure_port("127.0.0.1:0", credentials(authority.issue(ALICE)))
        await server.start()
        yield port, policy
        await server.stop(None)


def echo_stub(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary("/Echo/unary_unary", Note.SerializeToString, Note.FromString)


def register_only(server: grpc.aio.Server) -> None:
    server.add_registered_method_handlers("Echo", {"unary_unary": method("unary_unary")})


class AnyMethod(grpc.GenericRpcHandler):
    """Finds its methods by itself, not in a dictionary."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        known = handler_call_details.method == "/Echo/unary_unary"
        return method("unary_unary") if known else None


def find_by_itself(server: grpc.aio.Server) -> None:
    server.add_generic_rpc_handlers([AnyMethod()])


@pytest.mark.parametrize("add", [register_only, find_by_itself])
async def test_method_is_guarded_however_it_is_added(
    add: Callable[[grpc.aio.Server], None], authority: Authority, tmp_path: Path
) -> None:
    async with (
        serving(add, authority, tmp_path) as (port, _),
        bare_channel(authority, port) as alice,
        bare_channel(authority, port, BOB) as bob,
    ):
        assert (await echo_stub(alice)(Note(text="hello"), timeout=5)).text == "hello"
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await echo_stub(bob)(Note(text="hello"), timeout=5)
        unknown: Any = alice.unary_unary("/Echo/unknown")
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await unknown(b"", timeout=5)

    assert reason(refusal.value) == "PERMISSION_NOT_GRANTED"
    assert missing.value.code() is grpc.StatusCode.UNIMPLEMENTED


class Unserved(OutboxServiceServicer):
    async def ReadOutbox(self, request: Any, context: Any) -> pb.ReadOutboxResponse:  # noqa: N802
        raise AssertionError("served")


async def test_generated_methods_are_guarded(authority: Authority, tmp_path: Path) -> None:
    add = partial(add_OutboxServiceServicer_to_server, Unserved())

    async with (
        serving(add, authority, tmp_path) as (port, _),
        bare_channel(authority, port) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await OutboxServiceStub(channel).ReadOutbox(pb.ReadOutboxRequest(), timeout=5)

    assert reason(refusal.value) == "PERMISSION_NOT_GRANTED"


async def test_reload_of_the_policy_decides_about_the_next_call(
    authority: Authority, tmp_path: Path
) -> None:
    """A call in progress keeps its grant; no later one has it."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def act(request: Any, context: Any) -> Any:
        begun.set()
        await go.wait()
        return Note(text="hello", diary="dear diary")

    handler = grpc.unary_unary_rpc_method_handler(act, Note.FromString, Note.SerializeToString)
    added = grpc.method_handlers_generic_handler("Echo", {"unary_unary": handler})
    async with (
        serving(lambda server: server.add_generic_rpc_handlers([added]), authority, tmp_path) as (
            port,
            policy,
        ),
        bare_channel(authority, port) as channel,
    ):
        first = echo_stub(channel)(Note(text="hello"), timeout=5)
        await asyncio.wait_for(begun.wait(), 5)
        policy.replace(POLICY.replace(ALICE, "spiffe://anya.internal/another"))
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await echo_stub(channel)(Note(text="hello"), timeout=5)
        go.set()
        reply = await first
        policy.replace(POLICY)
        again = await echo_stub(channel)(Note(text="hello"), timeout=5)

    assert reason(refusal.value) == "PERMISSION_NOT_GRANTED"
    assert (reply.text, reply.diary) == (again.text, again.diary) == ("hello", "")


async def test_slots_are_given_back_once_under_any_mix_of_ends(
    authority: Authority, tmp_path: Path
) -> None:
    """Three slots are as many after a storm of calls that end, fail, or are cancelled."""

    async def act(request: Any, context: Any) -> Any:
        if request.text == "hang":
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if request.text == "crash":
            raise RuntimeError
        return Note(text="hello")

    async def one(stub: Any, number: int) -> None:
        text = ("ok", "crash", "hang")[number % 3]
        call = stub(Note(text=text), timeout=0.2 if number % 2 else 5)
        if text == "hang" or number % 5 == 0:
            for _ in range(number % 7):
                await asyncio.sleep(0)
            call.cancel()
        await asyncio.wait([asyncio.ensure_future(call.code())])

    handler = grpc.unary_unary_rpc_method_handler(act, Note.FromString, Note.SerializeToString)
    added = grpc.method_handlers_generic_handler("Echo", {"unary_unary": handler})
    async with (
        serving(lambda server: server.add_generic_rpc_handlers([added]), authority, tmp_path) as (
            port,
            _,
        ),
        bare_channel(authority, port) as channel,
    ):
        stub = echo_stub(channel)
        await asyncio.gather(*(one(stub, number) for number in range(300)))

        async def all_slots_are_free() -> bool:
            calls = [stub(Note(text="ok"), timeout=5) for _ in range(3)]
            return [await call.code() for call in calls] == [grpc.StatusCode.OK] * 3

        await eventually(all_slots_are_free)
        hanging = [stub(Note(text="hang"), timeout=5) for _ in range(4)]
        await asyncio.wait(
            [asyncio.ensure_future(call.code()) for call in hanging],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert sum(call.done() for call in hanging) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_reply_is_not_sent_if_the_audit_log_takes_no_entry(
    path: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.security.audit.MAX_WAITING", 0)

    async def act(request: Any, context: Any) -> Any:
        return Note(text="hello")

    found = await see(Case(act, policy=AUDITED), path, authority, tmp_path)

    assert (found.code, found.reply) == ("UNAVAILABLE", b"")
    assert found.free_slots == Case.slots


async def test_oversized_metadata_never_reaches_the_servicer(
    authority: Authority, tmp_path: Path
) -> None:
    async def act(request: Any, context: Any) -> Any:
        raise AssertionError("served")

    raw = [("x", "y" * 20_000)]
    found = await see(Case(act, raw=raw), "unary", authority, tmp_path)

    assert found.code == "RESOURCE_EXHAUSTED"
    assert found.free_slots == Case.slots


async def test_call_answers_as_the_call_of_grpc(echo: Echo) -> None:
    seen: list[Any] = []
    async with echo.channel() as channel:
        call: Any = echo_stub(channel)(Note(text="hello"), timeout=5, metadata=(("x", "y"),))
        call.add_done_callback(seen.append)
        assert 0 < call.time_remaining() <= 5
        assert isinstance(call, grpc.aio.UnaryUnaryCall)
        assert not call.done()
        assert (await call).text == (await call).text == "hello"
        assert await call.code() is grpc.StatusCode.OK
        assert await call.details() == ""
        assert len(await call.initial_metadata()) + len(await call.trailing_metadata()) == 0
        await call.wait_for_connection()
        assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
    assert seen == [call]
    assert len(await echo.both_spans()) == 2


async def test_refused_call_answers_as_one_that_has_ended(echo: Echo) -> None:
    seen: list[Any] = []
    async with echo.channel() as channel:
        call = echo_stub(channel)(Note(diary="mine"))
        call.add_done_callback(seen.append)
        assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
        assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "may not go to echo" in await call.details()
        assert len(await call.trailing_metadata()) == 1
        assert len(await call.initial_metadata()) == 0
        assert call.time_remaining() == 0
        for wait in (call, call.wait_for_connection()):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await wait
            assert reason(refusal.value) == "DATA_CLASS_EXCEEDED"
    assert seen == [call]


async def test_dropped_call_ends_its_span(echo: Echo) -> None:
    async with echo.channel() as channel:
        echo_stub(channel)(Note(text="hello"))
        gc.collect()

    await eventually(lambda: any(span.kind == span.SPAN_KIND_CLIENT for span in echo.spans))
    assert echo.rules.breakers["Echo"].state is BreakerState.CLOSED


async def test_call_of_a_closed_channel_ends_its_span(echo: Echo) -> None:
    async with echo.channel() as channel:
        stub = echo_stub(channel)
    with pytest.raises(grpc.aio.UsageError):
        await stub(Note(text="hello"))

    assert [span.kind for span in echo.spans] == [span.SPAN_KIND_CLIENT for span in echo.spans[:1]]


@pytest.mark.parametrize(
    "note",
    [Note(text="hello"), Note(text="quote"), Note(text="refuse"), Note(diary="mine")],
    ids=["served", "failed", "refused", "not sent"],
)
async def test_calls_leave_no_cycles_behind(echo: Echo, note: Note) -> None:
    kinds = grpc.aio.UnaryUnaryCall, grpc.aio.AioRpcError, MeshError, ServingCall
    async with echo.channel() as channel:
        stub = echo_stub(channel)

        async def call() -> None:
            with suppress(grpc.aio.AioRpcError):
                await stub(note)

        await call()
        gc.collect()
        gc.disable()
        try:
            kept = sum(isinstance(one, kinds) for one in gc.get_objects())  # of other tests
            for _ in range(20):
                await call()
            left = sum(isinstance(one, kinds) for one in gc.get_objects())
        finally:
            gc.enable()

    assert left - kept <= 4

"""Authority ends when it ends: for each call, and for streams that are open."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from mesh.clock import ManualClock
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import authority as authority_of_streams
from mesh.testing import Authority, eventually, reason
from tests.mesh.echo import ALICE, POLICY, Echo, serving
from tests.mesh.notes import Note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.config import Identity

HOUR_S = 3600.0
STREAMS = ["unary_stream", "stream_stream"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


@pytest.fixture
async def timed(authority: Authority, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Echo]:
    """An echo server that judges certificates by the manual clock."""
    async with serving(authority, tmp_path, clock=clock) as running:
        yield running


def method(channel: Any, kind: str) -> Any:
    return getattr(channel, kind)(f"/Echo/{kind}", Note.SerializeToString, Note.FromString)


async def hold_open(channel: Any, kind: str) -> Any:
    """Opens a stream that stays open, and reads its first reply."""
    note = Note(text="stay")
    call = method(channel, kind)(iter([note]) if kind.startswith("stream") else note, timeout=60)
    assert (await call.read()).text == "stay"
    return call


async def end_of(call: Any) -> str:
    """Returns the reason with which a stream ends."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in call:
            pass
    return reason(refused.value)


def revocations(identity: Identity) -> dict[str, str]:
    leaf = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    serial, fingerprint = f"{leaf.serial_number:X}", leaf.fingerprint(hashes.SHA256()).hex(":")
    return {
        "serial": f'{{serials: ["0{serial}"]}}',
        "fingerprint": f'{{fingerprints: ["{fingerprint.upper()}"]}}',
        "spiffe_id": f'{{spiffe_ids: ["{ALICE}"]}}',
    }


async def test_open_connection_is_refused_after_its_certificate_has_ended(
    timed: Echo, clock: ManualClock
) -> None:
    async with timed.channel() as channel:
        call = method(channel, "unary_unary")
        await call(Note(text="hello"))
        clock.advance(HOUR_S + 1)

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(Note(text="hello"))

    assert reason(refused.value) == "CERTIFICATE_EXPIRED"
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert ALICE in str(refused.value.details())


async def test_certificate_is_refused_before_its_validity(timed: Echo, clock: ManualClock) -> None:
    clock.advance(-HOUR_S - 60)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await timed.call("unary_unary", "hello")

    assert reason(refused.value) == "CERTIFICATE_EXPIRED"


async def test_certificate_of_two_seconds_is_refused_on_its_own_connection(
    echo: Echo, authority: Authority
) -> None:
    brief = authority.issue(ALICE, lifetime=timedelta(seconds=2))
    async with open_channel(f"127.0.0.1:{echo.port}", echo.rules, brief) as channel:
        call = method(channel, "unary_unary")
        await call(Note(text="hello"))

        async def is_refused() -> bool:
            try:
                await call(Note(text="hello"))
            except grpc.aio.AioRpcError as error:
                return reason(error) == "CERTIFICATE_EXPIRED"
            return False

        await eventually(is_refused)


@pytest.mark.parametrize("kind", STREAMS)
async def test_stream_ends_when_the_certificate_of_its_caller_does(
    timed: Echo, clock: ManualClock, kind: str
) -> None:
    async with timed.channel() as channel:
        call = await hold_open(channel, kind)
        clock.advance(HOUR_S + 1)
        authority_of_streams.review(timed.server_rules)

        assert await end_of(call) == "CERTIFICATE_EXPIRED"
    await eventually(lambda: len(timed.server_rules.streams) == 0)


@pytest.mark.parametrize("kind", STREAMS)
async def test_stream_ends_when_the_policy_no_longer_grants_it(echo: Echo, kind: str) -> None:
    async with echo.channel() as channel:
        call = await hold_open(channel, kind)
        echo.policy.replace(
            POLICY.replace(f"Echo/{kind}: {{}},", "").replace(f", Echo/{kind}: {{}}", "")
        )
        authority_of_streams.review(echo.server_rules)

        assert await end_of(call) == "PERMISSION_NOT_GRANTED"


@pytest.mark.parametrize("kind", STREAMS)
async def test_stream_outlives_a_reload_that_still_grants_it(echo: Echo, kind: str) -> None:
    async with echo.channel() as channel:
        call = await hold_open(channel, kind)
        echo.policy.replace(POLICY + "# changed")
        authority_of_streams.review(echo.server_rules)

        assert (await call.read()).text == "stay"


@pytest.mark.parametrize("name", ["serial", "fingerprint", "spiffe_id"])
async def test_revoked_caller_is_refused_on_calls_and_open_streams(
    echo: Echo, authority: Authority, name: str
) -> None:
    identity = authority.issue(ALICE)
    async with open_channel(f"127.0.0.1:{echo.port}", echo.rules, identity) as channel:
        call = await hold_open(channel, "unary_stream")
        echo.policy.replace(f"{POLICY}revoked: {revocations(identity)[name]}\n")
        authority_of_streams.review(echo.server_rules)

        assert await end_of(call) == "CERTIFICATE_REVOKED"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await method(channel, "unary_unary")(Note(text="hello"))
        assert reason(refused.value) == "CERTIFICATE_REVOKED"


async def test_another_certificate_of_the_same_caller_is_not_revoked(
    echo: Echo, authority: Authority
) -> None:
    revoked = revocations(authority.issue(ALICE))["serial"]
    echo.policy.replace(f"{POLICY}revoked: {revoked}\n")

    assert await echo.call("unary_unary", "hello") == ["hello"]


async def test_stream_that_ended_by_itself_is_not_kept(echo: Echo) -> None:
    await echo.call("unary_stream", "hello")

    await eventually(lambda: len(echo.server_rules.streams) == 0)

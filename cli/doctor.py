"""Checks of a local mesh; each finding has a remedy."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from cli import endpoints, pki
from cli.errors import START_THE_MESH, CommandError
from cli.home import SERVICES
from cli.supervisor import control

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cli.home import Home

PYTHONS = ((3, 11), (3, 14))  # from, below: py-bitcoinkernel, bdkpython and coincurve have wheels
LIBRARIES = ("bdkpython", "coincurve", "cryptography", "grpc", "onnxruntime", "pbk")
MIN_FREE_DISK_BYTES = 500 * 1024 * 1024
HEALTH_TIMEOUT_S = 3.0
SERVING = "SERVING"


class Finding(NamedTuple):
    check: str
    ok: bool
    detail: str
    remedy: str = ""


async def examine(home: Home) -> list[Finding]:
    """Returns every finding, in the order in which to act on them."""
    status = await _supervisor(home)
    found = [_python(), _libraries(), _trust_file()]
    if not home.path.is_dir():
        return [*found, Finding("home", False, f"{home.path} does not exist", START_THE_MESH)]
    found += [_home(home), *_private(home), _disk(home), *_certificates(home)]
    found += _ports(home, running=status is not None)
    if status is None:
        return [*found, Finding("mesh", False, "not running", START_THE_MESH)]
    return [*found, *await _services(home, status["services"])]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = PYTHONS[0] <= sys.version_info < PYTHONS[1]
    return Finding("python", ok, version, "" if ok else "use Python 3.11, 3.12 or 3.13")


def _libraries() -> Finding:
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        return Finding("libraries", False, f"missing: {', '.join(missing)}", "make .venv/run")
    return Finding("libraries", True, "all there")


def _trust_file() -> Finding:
    from cli.trust import check

    try:
        policy = check()
    except CommandError as error:
        return Finding("trust file", False, error.message, error.remedy)
    return Finding("trust file", True, f"{len(policy.grants)} grants, {policy.digest[:12]}")


def _home(home: Home) -> Finding:
    mode = home.path.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding("home", False, f"{home.path} is open to others", f"chmod 700 {home.path}")
    return Finding("home", True, str(home.path))


def _private(home: Home) -> Iterator[Finding]:
    """Keys that others could read."""
    secrets = [*home.pki.glob("*.key"), *home.client.rglob("*"), *home.path.glob("*/master.key")]
    exposed = [path for path in secrets if path.is_file() and path.stat().st_mode & 0o077]
    for path in exposed:
        yield Finding("keys", False, f"{path} can be read by others", f"chmod 600 {path}")
    if not exposed:
        yield Finding("keys", True, f"{len(secrets)} private files")


def _disk(home: Home) -> Finding:
    free = shutil.disk_usage(home.path).free
    ok = free > MIN_FREE_DISK_BYTES
    return Finding("disk", ok, f"{free >> 20} MiB free", "" if ok else "make room")


def _certificates(home: Home) -> Iterator[Finding]:
    now = datetime.now(UTC)
    renew = "restart the mesh: anya up renews them"
    files = [*(home.pki / f"{name}.pem" for name in SERVICES), home.client / "operator.pem"]
    for path in (home.pki / "ca.pem", *files):
        try:
            begins, ends = pki.validity(path)
        except (OSError, ValueError):
            yield Finding("certificate", False, f"{path} is missing or broken", renew)
            continue
        if now < begins:
            remedy = "set the clock of this machine"
            yield Finding("clock", False, f"{path.name} is valid only from {begins}", remedy)
        elif now >= ends:
            yield Finding("certificate", False, f"{path.name} ended at {ends}", renew)
        else:
            hours = (ends - now).total_seconds() / 3600
            yield Finding("certificate", True, f"{path.name}: {hours:.0f} h left")


def _ports(home: Home, *, running: bool) -> Iterator[Finding]:
    try:
        known = endpoints.read(home)
        if not running:
            endpoints.require_free(known)
    except CommandError as error:
        yield Finding("ports", False, error.message, error.remedy)
    else:
        yield Finding("ports", True, ", ".join(one.address for one in known.values()))


async def _supervisor(home: Home) -> dict[str, Any] | None:
    """Returns the supervisor's status, or None if none runs."""
    try:
        answer: dict[str, Any] = await control.request(home, "status")
    except CommandError:
        return None
    return answer


async def _services(home: Home, status: dict[str, Any]) -> list[Finding]:
    known = endpoints.read(home)
    return await asyncio.gather(
        *(_service(home.log(name), name, status[name], known[name].health) for name in SERVICES)
    )


async def _service(log: Path, name: str, status: dict[str, Any], address: str) -> Finding:
    health = await serving(address)
    detail = f"{health}, process {status['pid']}, {status['restarts']} restarts after crashes"
    ok = health == SERVING
    return Finding(name, ok, detail, "" if ok else f"read {log}")


async def serving(address: str) -> str:
    """Returns the health status at this address: "SERVING", another status, or the failure."""
    import grpc
    from grpc_health.v1 import health_pb2
    from grpc_health.v1.health_pb2_grpc import HealthStub

    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = HealthStub(channel)  # its types know no methods
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))

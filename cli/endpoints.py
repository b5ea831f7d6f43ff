"""endpoints.json: where the services of a home listen, and what a client needs to call them."""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.errors import START_THE_MESH, CommandError
from cli.home import SERVICES, write_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cli.home import Home

LOOPBACK = "127.0.0.1"
PORT_RANGE = "ANYA_PORT_RANGE"
CANDIDATES = range(20_000, 32_000)


MIN_PORTS = 100  # so that a few taken ones do not matter


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Ports of one service on the loopback interface."""

    port: int
    health_port: int

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def health(self) -> str:
        return f"{LOOPBACK}:{self.health_port}"


def choose(home: Home, *, port_base: int | None) -> dict[str, Endpoint]:
    """Returns the ports of every service: those asked for, else the last ones, else free ones."""
    if port_base is not None:
        return _consecutive(port_base)
    return read(home) if home.endpoints.exists() else _free()


def read(home: Home) -> dict[str, Endpoint]:
    """Reads the endpoints. Raises CommandError if there are none or the file is damaged."""
    try:
        services = json.loads(home.endpoints.read_bytes())["services"]
        return {name: _endpoint(services[name]) for name in SERVICES}
    except (FileNotFoundError, NotADirectoryError):
        raise CommandError(
            f"no mesh has run on {home.path}",
            code="UNAVAILABLE",
            reason="NO_MESH",
            remedy=START_THE_MESH,
        ) from None
    except OSError as error:
        raise CommandError(
            f"{home.endpoints} cannot be read: {error.strerror}",
            reason="HOME_UNUSABLE",
            remedy="use the home as its owner, or choose another with --home",
        ) from None
    except (KeyError, TypeError, ValueError):
        raise CommandError(
            f"{home.endpoints} is not what anya up writes",
            reason="ENDPOINTS_INVALID",
            remedy="remove the file; anya up chooses new ports",
        ) from None


def write(home: Home, endpoints: Mapping[str, Endpoint]) -> None:
    document = {
        "services": {
            name: {"address": endpoint.address, "health": endpoint.health}
            for name, endpoint in endpoints.items()
        },
        "ca": str(home.pki / "ca.pem"),
        "client_cert": str(home.client / "operator.pem"),
        "client_key": str(home.client / "operator.key"),
    }
    write_private(home.endpoints, json.dumps(document, indent=2).encode() + b"\n")


def require_free(endpoints: Mapping[str, Endpoint]) -> None:
    """Raises CommandError, which names the port, if another process listens on one."""
    for name, endpoint in endpoints.items():
        for port in (endpoint.port, endpoint.health_port):
            if _is_taken(port):
                raise CommandError(
                    f"port {port} of {name} is taken by another process",
                    code="ALREADY_EXISTS",
                    reason="PORT_TAKEN",
                    remedy="stop that process, or choose other ports with --port-base",
                )


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def _free() -> dict[str, Endpoint]:
    """Ports that are free now, below the range from which the kernel takes those of connections.

    Inside that range a client that redials a service between crash and restart could be given the
    service's own port.
    """
    candidates = _candidates()
    shuffled = random.SystemRandom().sample(candidates, len(candidates))
    free = itertools.filterfalse(_is_taken, shuffled)
    return _pair(itertools.islice(free, 2 * len(SERVICES)))


def _candidates() -> range:
    """Returns the ports of ANYA_PORT_RANGE. Raises CommandError unless it is FIRST-LAST."""
    setting = os.environ.get(PORT_RANGE)
    if not setting:
        return CANDIDATES
    first, _, last = setting.partition("-")
    if setting.isascii() and len(setting) <= 11 and first.isdigit() and last.isdigit():
        candidates = range(int(first), int(last) + 1)
        if candidates.start >= 1024 and candidates.stop <= 65536 and len(candidates) >= MIN_PORTS:
            return candidates
    raise CommandError(
        f"{PORT_RANGE} is {setting!r}",
        reason="PORT_RANGE_INVALID",
        remedy=f"set it to FIRST-LAST, {MIN_PORTS} ports or more from 1024-65535: 20000-31999",
    )


def _consecutive(base: int) -> dict[str, Endpoint]:
    return _pair(range(base, base + 2 * len(SERVICES)))


def _pair(ports: Iterable[int]) -> dict[str, Endpoint]:
    """Assigns the first half of the ports to the services, the second to their health ports."""
    chosen = list(ports)
    half = len(SERVICES)
    return dict(zip(SERVICES, map(Endpoint, chosen[:half], chosen[half:]), strict=True))


def _endpoint(document: Any) -> Endpoint:
    return Endpoint(_port(document["address"]), _port(document["health"]))


def _port(address: str) -> int:
    host, _, port = address.rpartition(":")
    if host != LOOPBACK or not 0 < int(port) < 65536:
        raise ValueError(address)
    return int(port)

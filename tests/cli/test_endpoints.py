"""The endpoints of the services: chosen once, kept, and refused if another process has the port."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from cli import endpoints
from cli.errors import CommandError
from cli.home import SERVICES, Home

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


def test_free_ports_are_all_different(home: Home) -> None:
    chosen = endpoints.choose(home, port_base=None)

    ports = [port for one in chosen.values() for port in (one.port, one.health_port)]
    assert chosen.keys() == set(SERVICES)
    assert len(set(ports)) == 2 * len(SERVICES)


def test_ports_are_kept_between_starts(home: Home) -> None:
    chosen = endpoints.choose(home, port_base=None)
    endpoints.write(home, chosen)

    assert endpoints.choose(home, port_base=None) == chosen


def test_requested_ports_replace_the_kept_ones(home: Home) -> None:
    endpoints.write(home, endpoints.choose(home, port_base=None))

    chosen = endpoints.choose(home, port_base=21_000)

    ports = [port for one in chosen.values() for port in (one.port, one.health_port)]
    assert sorted(ports) == [*range(21_000, 21_008)]


def test_port_in_use_is_reported_with_its_service(home: Home) -> None:
    chosen = endpoints.choose(home, port_base=None)
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", chosen["ml"].health_port))
        squatter.listen()

        with pytest.raises(CommandError, match=f"port {chosen['ml'].health_port} of ml") as refusal:
            endpoints.require_free(chosen)

    assert refusal.value.reason == "PORT_TAKEN"


def test_endpoints_file_names_addresses_and_certificates(home: Home) -> None:
    chosen = endpoints.choose(home, port_base=21_000)

    endpoints.write(home, chosen)

    document = json.loads(home.endpoints.read_bytes())
    assert document["services"]["bitcoin"] == {
        "address": f"127.0.0.1:{chosen['bitcoin'].port}",
        "health": f"127.0.0.1:{chosen['bitcoin'].health_port}",
    }
    assert document["ca"] == str(home.pki / "ca.pem")
    assert document["client_cert"] == str(home.client / "operator.pem")
    assert document["client_key"] == str(home.client / "operator.key")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("[]", id="no object"),
        pytest.param('{"services": {}}', id="a service missing"),
        pytest.param('{"services": {"bitcoin": {"address": "127.0.0.1:x"}}}', id="no port"),
    ],
)
def test_invalid_endpoints_file_is_refused(home: Home, text: str) -> None:
    home.endpoints.write_text(text)

    with pytest.raises(CommandError) as refusal:
        endpoints.choose(home, port_base=None)

    assert refusal.value.reason == "ENDPOINTS_INVALID"


def test_missing_endpoints_file_is_reported_with_the_remedy_to_start_a_mesh(home: Home) -> None:
    with pytest.raises(CommandError) as refusal:
        endpoints.read(home)

    assert refusal.value.reason == "NO_MESH"
    assert "anya up" in refusal.value.remedy


def test_free_ports_are_within_the_range_of_the_environment(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYA_PORT_RANGE", "28000-28199")

    chosen = endpoints.choose(home, port_base=None)

    ports = [port for one in chosen.values() for port in (one.port, one.health_port)]
    assert all(28_000 <= port <= 28_199 for port in ports)


@pytest.mark.parametrize(
    "setting", ["20000", "20000-", "a-b", "20000-20010", "80-9000", "60000-70000", "9000-8000"]
)
def test_port_range_that_is_none_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("ANYA_PORT_RANGE", setting)

    with pytest.raises(CommandError) as refusal:
        endpoints.choose(home, port_base=None)

    assert refusal.value.reason == "PORT_RANGE_INVALID"

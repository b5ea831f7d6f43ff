"""The settings: what the environment says, or a complaint that names the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.config import ConfigError, MeshConfig


def read(**environment: str) -> MeshConfig:
    return MeshConfig.from_environment(environment, service="bitcoin")


def test_an_empty_environment_is_a_laptop() -> None:
    config = read()

    assert config.listen == config.health_listen == "127.0.0.1:0"
    assert config.network == "regtest"
    assert config.identity.certificate == Path(".anya/pki/bitcoin.pem")
    assert config.audit_file == Path(".anya/audit/bitcoin.jsonl")
    assert config.trust_file.is_file()
    assert config.otlp_endpoint is None


def test_peers_are_names_and_targets() -> None:
    config = read(ANYA_PEERS="bitcoin=127.0.0.1:1, web5=dns:///web5:2,")

    assert config.peers == {"bitcoin": "127.0.0.1:1", "web5": "dns:///web5:2"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ANYA_LISTEN", ""),
        ("ANYA_LISTEN", "8080"),
        ("ANYA_LISTEN", "127.0.0.1:-1"),
        ("ANYA_HEALTH_LISTEN", "127.0.0.1:\u0661"),
        ("ANYA_PEERS", "web5"),
        ("ANYA_PEERS", "=127.0.0.1:1"),
        ("ANYA_PEERS", "web5=a:1,web5=b:1"),
        ("ANYA_NETWORK", "Regtest"),
        ("ANYA_TRACE_RATIO", "nan"),
        ("ANYA_TRACE_RATIO", "1.1"),
        ("ANYA_DRAIN_SECONDS", "soon"),
        ("ANYA_PROOF_SECONDS", "601"),
        ("ANYA_PROOF_SECONDS", "0"),
    ],
)
def test_what_nothing_can_start_with_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        read(**{name: value})

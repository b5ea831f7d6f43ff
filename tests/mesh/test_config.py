"""Settings: what the reader accepts, and errors that name variable, value and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mesh.config import MeshConfig
from mesh.observability.config import TraceConfig
from mesh.settings import ConfigError, Settings, read_file

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[Settings], object]

NAME = "ANYA_TEST"


def text(settings: Settings) -> object:
    return settings.text(NAME, "none")


def path(settings: Settings) -> object:
    return settings.path(NAME, Path("home"))


def choice(settings: Settings) -> object:
    return settings.choice(NAME, "red", ["red", "blue"])


def flag(settings: Settings) -> object:
    return settings.choice(NAME, "", ["truncate"])


def integer(settings: Settings) -> object:
    return settings.integer(NAME, 5, minimum=1, maximum=10)


def seconds(settings: Settings) -> object:
    return settings.number(NAME, 0.5, minimum=0, maximum=60, unit="seconds")


def address(settings: Settings) -> object:
    return settings.address(NAME, "127.0.0.1:0")


def targets(settings: Settings) -> object:
    return settings.targets(NAME)


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (text, "a text", "a text"),
        (text, "", "none"),
        (path, "/elsewhere", Path("/elsewhere")),
        (path, "", Path("home")),
        (choice, "blue", "blue"),
        (choice, "", "red"),
        (flag, "truncate", "truncate"),
        (flag, "", ""),
        (integer, "1", 1),
        (integer, "10", 10),
        (integer, "", 5),
        (seconds, "0", 0.0),
        (seconds, "59.75", 59.75),
        (seconds, "", 0.5),
        (address, "[::1]:65535", "[::1]:65535"),
        (address, "", "127.0.0.1:0"),
        (targets, "", {}),
        (targets, "a=h:1, b=dns:///b:2,", {"a": "h:1", "b": "dns:///b:2"}),
    ],
)
def test_value_is_read_and_an_empty_one_is_the_default(
    read: Read, value: str, expected: object
) -> None:
    assert read(Settings({NAME: value})) == expected


@pytest.mark.parametrize(
    ("read", "value", "remedy"),
    [
        (choice, "Red", "set it to red or blue, or unset it for red"),
        (flag, "forget", "set it to truncate, or unset it"),
        *(
            (integer, value, "set it to a whole number from 1 to 10, or unset it for 5")
            for value in ("0", "11", "-1", "1.5", "1e1", "1_0", " 1", "\u0661", "9" * 5000, "ten")
        ),
        *(
            (seconds, value, "set it to a number from 0 to 60 seconds, or unset it for 0.5")
            for value in ("-1", "60.1", "nan", "inf", "1e1", "1_0", "\u0661", "9" * 5000, "soon")
        ),
        *(
            (address, value, "set it to host:port with a port from 0 to 65535")
            for value in ("8080", ":8080", "host:", "host:-1", "host:65536", "host:\u0661")
        ),
        (targets, "web5", "set it to name=host:port entries"),
        (targets, "=host:1", "set it to name=host:port entries"),
        (targets, "web5=", "set it to name=host:port entries"),
        (targets, "web5=a:1,web5=b:1", "each name once"),
    ],
)
def test_unacceptable_value_is_named_with_its_remedy(read: Read, value: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(Settings({NAME: value}))

    assert str(error.value).startswith(f"{NAME} is '{value.split(',')[-1]}': ")
    assert remedy in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff"], ids=["missing", "not UTF-8"])
def test_unreadable_file_is_named_with_its_variable(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "policy.yaml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=rf"{NAME} {file} cannot be read: .*; correct the path"):
        read_file(NAME, file)


def test_empty_environment_configures_a_development_machine() -> None:
    config = MeshConfig.from_environment({}, service="bitcoin")

    assert config.listen == config.health_listen == "127.0.0.1:0"
    assert config.network == "regtest"
    assert config.identity.certificate == Path(".anya/pki/bitcoin.pem")
    assert config.audit_file == Path(".anya/audit/bitcoin.jsonl")
    assert config.trust_file.is_file()
    assert config.traces == TraceConfig()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ANYA_LISTEN", "8080"),
        ("ANYA_HEALTH_LISTEN", "127.0.0.1:65536"),
        ("ANYA_PEERS", "web5"),
        ("ANYA_NETWORK", "Regtest"),
        ("ANYA_DRAIN_SECONDS", "301"),
        ("ANYA_PROOF_SECONDS", "601"),
        ("ANYA_PROOF_SECONDS", "0"),
    ],
)
def test_setting_beyond_its_limits_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is '{value}'"):
        MeshConfig.from_environment({name: value}, service="bitcoin")

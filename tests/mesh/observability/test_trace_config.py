"""OpenTelemetry's variables: defaults, precedence, and errors that name variable and remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mesh.observability.config import OtlpConfig, TraceConfig
from mesh.settings import ConfigError, Settings
from tests.mesh.service_process import child, environment_of

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.testing import Authority

OTLP = "OTEL_EXPORTER_OTLP_"
COLLECTOR = {f"{OTLP}ENDPOINT": "https://localhost:1"}


def read(variables: dict[str, str]) -> TraceConfig:
    return TraceConfig.from_settings(Settings(variables))


def test_nothing_is_exported_unless_a_variable_says_so() -> None:
    assert read({}).exporters is None
    assert read({"OTEL_TRACES_EXPORTER": "none", **COLLECTOR}).exporters == ()
    assert read(COLLECTOR).exporters == ("otlp",)
    assert read({f"{OTLP}TRACES_ENDPOINT": "http://localhost:1"}).exporters == ("otlp",)
    assert read({"OTEL_TRACES_EXPORTER": "Console,OTLP"}).exporters == ("console", "otlp")


def test_defaults_are_those_of_the_specification() -> None:
    config = read({})

    assert config == TraceConfig()
    assert config.sampler == "parentbased_always_on"
    assert (config.schedule_delay_ms, config.export_timeout_ms) == (5000, 30_000)
    assert (config.max_queue_spans, config.max_batch_spans) == (2048, 512)
    assert config.otlp.timeout_s == 10
    assert config.otlp.endpoint == "http://localhost:4317"


def test_endpoint_of_http_gets_the_path_of_traces() -> None:
    http = {f"{OTLP}PROTOCOL": "http/protobuf"}

    assert read(http).otlp.endpoint == "http://localhost:4318/v1/traces"
    endpoint = {f"{OTLP}ENDPOINT": "https://collector/base/"}
    assert read({**http, **endpoint}).otlp.endpoint == "https://collector/base/v1/traces"
    exact = {f"{OTLP}TRACES_ENDPOINT": "https://collector/exact"}
    assert read({**http, **endpoint, **exact}).otlp.endpoint == "https://collector/exact"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (f"{OTLP}PROTOCOL", "http/json"),
        (f"{OTLP}TRACES_PROTOCOL", "thrift"),
        (f"{OTLP}ENDPOINT", "ftp://collector"),
        (f"{OTLP}ENDPOINT", "http://"),
        (f"{OTLP}ENDPOINT", "http://collector:port"),
        (f"{OTLP}INSECURE", "yes"),
        (f"{OTLP}TIMEOUT", "0"),
        (f"{OTLP}TIMEOUT", "10000"),  # milliseconds
        (f"{OTLP}COMPRESSION", "zstd"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_TRACES_EXPORTER", "otlp,none"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.1"),
        ("OTEL_TRACES_SAMPLER_ARG", "often"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "1.5"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2049"),
        ("OTEL_RESOURCE_ATTRIBUTES", "city"),
        ("OTEL_SDK_DISABLED", "1"),
    ],
)
def test_invalid_value_is_an_error_that_names_variable_and_remedy(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is '{value}': set it to .*, or unset it"):
        read({name: value})


def test_http_needs_an_endpoint_with_a_scheme() -> None:
    with pytest.raises(ConfigError, match="ENDPOINT is 'collector:4318': set it to http://"):
        read({f"{OTLP}ENDPOINT": "collector:4318", f"{OTLP}PROTOCOL": "http/protobuf"})


@pytest.mark.parametrize(
    "headers",
    [
        *("hunter2", "x-key:hunter2", "x=hunter2%0a"),
        *("x=%20hunter2", "x=hunter2%20", "x!=hunter2", "x-bin=hunter2"),  # no exporter sends these
        *('x="hunter2"', "x=a;hunter2", "x=a\\hunter2"),  # one logs these
    ],
)
def test_error_of_headers_does_not_show_them(headers: str) -> None:
    with pytest.raises(ConfigError, match=f"{OTLP}HEADERS is malformed") as raised:
        read({f"{OTLP}HEADERS": headers})

    assert "hunter2" not in str(raised.value)


def test_headers_hold_any_printable_character_percent_encoded() -> None:
    headers = {f"{OTLP}HEADERS": "Authorization=Basic%20a%3Bb==,x=%22%5C%2C%22"}

    assert read(headers).otlp.headers == {"authorization": "Basic a;b==", "x": '"\\,"'}


@pytest.mark.parametrize("content", ["absent", "no certificate"])
@pytest.mark.parametrize("variable", ["CERTIFICATE", "TRACES_CERTIFICATE", "CLIENT_CERTIFICATE"])
def test_unusable_certificate_is_an_error(
    authority: Authority, tmp_path: Path, variable: str, content: str
) -> None:
    file = tmp_path / "some.pem"
    if content != "absent":
        file.write_text(content)
    variables = {
        **COLLECTOR,
        f"{OTLP}CLIENT_KEY": str(authority.issue().key),
        f"{OTLP}CLIENT_CERTIFICATE": str(authority.issue().certificate),
        f"{OTLP}{variable}": str(file),
    }

    with pytest.raises(ConfigError, match=f"^{OTLP}{variable} {file}.* cannot be used"):
        read(variables)


def test_client_certificate_with_the_key_of_another_is_an_error(authority: Authority) -> None:
    variables = {
        **COLLECTOR,
        f"{OTLP}CLIENT_KEY": str(authority.issue().key),
        f"{OTLP}CLIENT_CERTIFICATE": str(authority.issue().certificate),
    }

    with pytest.raises(ConfigError, match=r"CLIENT_KEY .* cannot be used"):
        read(variables)


@pytest.mark.parametrize("variable", ["CLIENT_KEY", "CLIENT_CERTIFICATE"])
def test_client_certificate_and_key_belong_together(variable: str) -> None:
    with pytest.raises(ConfigError, match="set both, or unset both"):
        read({f"{OTLP}{variable}": "/some.pem"})


async def test_service_does_not_start_with_an_unusable_certificate(
    authority: Authority, tmp_path: Path
) -> None:
    environment = environment_of(authority, tmp_path)
    certificate = {f"{OTLP}CERTIFICATE": "/nowhere.pem"}
    async with child({**environment, **COLLECTOR, **certificate}) as process:
        out, err = await process.communicate()

    assert out == b""
    assert process.returncode == 2
    [line] = err.decode().splitlines()
    assert f"{OTLP}CERTIFICATE /nowhere.pem cannot be used: No such file or directory" in line


def test_configuration_shows_no_headers() -> None:
    config = OtlpConfig(headers={"authorization": "hunter2"})

    assert "hunter2" not in repr(config)

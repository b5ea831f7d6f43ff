"""Bad settings: a service that cannot start prints one line of error and changes nothing."""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from cli.home import SERVICES
from tests.scenarios.single_service import create_home, environment_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.testing import Authority


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def home(service: str, authority: Authority, tmp_path: Path) -> Path:
    return create_home(service, authority, tmp_path)


def start(service: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the service until it exits by itself."""
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        env=environment_of(home) | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(service: str, ended: subprocess.CompletedProcess[str]) -> str:
    """Returns the one line of error beside the log, whose lines are JSON objects."""
    assert ended.stdout == ""
    (line,) = (said for said in ended.stderr.splitlines() if not said.startswith("{"))
    assert line.startswith(f"{service}: ")
    return line


def remove(path: Path) -> None:
    path.unlink()


def spoil(path: Path) -> None:
    path.write_text("nonsense")


@pytest.mark.parametrize(
    ("file", "damage"), [("{}.pem", remove), ("{}.key", spoil), ("ca.pem", remove)]
)
def test_error_names_an_unusable_certificate(
    service: str, home: Path, file: str, damage: Callable[[Path], None]
) -> None:
    path = home / "pki" / file.format(service)
    damage(path)

    ended = start(service, home)

    assert str(path) in refusal(service, ended)
    assert ended.returncode == 2


def test_error_names_a_port_in_use_and_its_variable(service: str, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        ended = start(service, home, ANYA_LISTEN=taken)

    line = refusal(service, ended)
    assert ended.returncode == 1
    assert taken in line
    assert "ANYA_LISTEN" in line


def test_error_names_a_file_that_is_no_store(service: str, home: Path) -> None:
    path = home / service / f"{service}.db"
    path.write_bytes(b"certainly not a database" * 100)
    before = path.read_bytes()

    ended = start(service, home)

    assert str(path) in refusal(service, ended)
    assert ended.returncode == 1
    assert path.read_bytes() == before


def test_error_names_a_store_folder_that_cannot_be_created(service: str, home: Path) -> None:
    (home / service).rmdir()
    (home / service).touch()

    ended = start(service, home)

    assert str(home / service) in refusal(service, ended)
    assert ended.returncode == 1


@pytest.mark.parametrize("service", ["ml", "orchestrator"], indirect=True)
@pytest.mark.parametrize(
    ("url", "code", "named"),
    [
        ("mysql://anya:s3cret@127.0.0.1/anya", 2, "postgresql://"),
        ("postgresql://anya:s3/cret@127.0.0.1/anya", 2, "%xx"),
        ("postgresql://anya:s3?cret@127.0.0.1/anya", 2, "%xx"),
        ("postgresql://anya:s3cret@127.0.0.1:9/anya?sslmode=maybe", 2, "sslmode"),
        ("postgresql://anya:s3cret@127.0.0.1:9/anya", 1, "127.0.0.1"),
        (
            "postgresql://anya:s3cret@127.0.0.1:9/anya?sslmode=verify-ca&sslrootcert=/no/ca",
            1,
            "ssl",
        ),
    ],
)
def test_error_of_an_unusable_database_hides_its_password(
    service: str, home: Path, url: str, code: int, named: str
) -> None:
    before = sorted(Path.cwd().iterdir())

    ended = start(service, home, ANYA_DATABASE=url)

    assert named in refusal(service, ended)
    assert ended.returncode == code
    for piece in ("s3", "cret"):
        assert piece not in ended.stderr
    assert sorted(Path.cwd().iterdir()) == before


@pytest.mark.parametrize("service", ["orchestrator"], indirect=True)
@pytest.mark.parametrize(
    ("statement", "remedy"),
    [
        ("DROP DATABASE {database}", "create that database"),
        ("ALTER ROLE {role} NOLOGIN", "let them in"),
        ("REVOKE CREATE ON SCHEMA public FROM PUBLIC", "create tables"),
        ("REVOKE USAGE ON SCHEMA public FROM PUBLIC", "create tables"),
    ],
)
async def test_rejected_login_has_another_error_than_an_unreachable_server(
    service: str, home: Path, new_postgres_database: str, statement: str, remedy: str
) -> None:
    parts = urlsplit(new_postgres_database)
    name = parts.path[1:]
    role = f"guest_{secrets.token_hex(8)}"
    admin = await asyncpg.connect(new_postgres_database.replace(f"/{name}?", "/postgres?"))
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'")
    here = admin if "DATABASE" in statement else await asyncpg.connect(new_postgres_database)
    await here.execute(statement.format(database=name, role=role))

    url = f"postgresql://{role}:s3cret@/{name}?{parts.query}"
    ended = await asyncio.to_thread(start, service, home, ANYA_DATABASE=url)
    for connection in {here, admin}:
        await connection.close()

    assert remedy in refusal(service, ended)
    assert ended.returncode == 1
    assert "s3cret" not in ended.stderr


@pytest.mark.parametrize("service", ["bitcoin", "web5"], indirect=True)
def test_master_key_readable_by_others_is_refused(service: str, home: Path) -> None:
    key = home / service / "master.key"
    key.write_bytes(bytes(32))
    key.chmod(0o640)

    ended = start(service, home)

    assert f"chmod 600 {key}" in refusal(service, ended)
    assert ended.returncode == 2
    assert key.read_bytes() == bytes(32)

"""Connections to PostgreSQL, and errors that say why there is none and what to do."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from mesh.errors import InvalidArgument, Reason, Unavailable
from mesh.settings import ConfigError

FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


class ServerRefusalError(ConnectionError):
    """The server answers but refuses the connection, maybe temporarily. The cause says why."""


class _InvalidUrlError(ServerRefusalError):
    """The URL is invalid; no server was contacted."""


async def connect(url: str, **settings: Any) -> Any:
    """Returns a connection. Raises an OSError if there is none: ServerRefusalError if refused."""
    try:
        return await asyncpg.connect(url, **settings)
    except asyncpg.PostgresError as error:
        raise ServerRefusalError(str(error)) from error
    except asyncpg.ClientConfigurationError as error:
        raise _InvalidUrlError(f"cannot be used: {error}") from None
    except ssl.SSLError:
        raise
    except ValueError:  # its text quotes the URL, which holds a password
        raise _InvalidUrlError(
            f"must be {FORM}, with special characters of the password as %xx"
        ) from None


def to_invalid_argument(error: Exception) -> Exception:
    """Returns InvalidArgument for a text that cannot be stored, any other error unchanged."""
    if isinstance(error, asyncpg.CharacterNotInRepertoireError):
        return InvalidArgument(
            "a text holds the character U+0000, which cannot be stored; remove it"
        )
    return error


def to_start_error(error: Exception, url: str) -> Unavailable | ConfigError:
    """Returns the error of a failed start: the text of the server or the system, and a remedy."""
    if isinstance(error, _InvalidUrlError):
        return ConfigError(f"ANYA_DATABASE {error}")
    text = str(error).rstrip(".") or type(error).__name__
    # Without a user the part before the path could be the first half of a malformed password.
    user, _, address = urlsplit(url).netloc.rpartition("@")
    server = f"PostgreSQL at {address}" if user and address else "PostgreSQL"
    return Unavailable(
        f"{server} cannot be used ({text}): {_remedy(error)}", reason=Reason.STORE_UNAVAILABLE
    )


def _remedy(error: Exception) -> str:
    match error.__cause__ if isinstance(error, ServerRefusalError) else error:
        case asyncpg.InvalidAuthorizationSpecificationError():
            return "correct user and password in ANYA_DATABASE, or let them in (pg_hba.conf)"
        case asyncpg.InvalidCatalogNameError():
            return "create that database, or correct its name in ANYA_DATABASE"
        case asyncpg.InsufficientPrivilegeError() | asyncpg.InvalidSchemaNameError():
            return "let the user of ANYA_DATABASE connect, and create tables in its schema"
        case ssl.SSLError():
            return "correct sslmode and sslrootcert in ANYA_DATABASE, or the server's certificate"
        case FileNotFoundError():
            return "correct the names of files in ANYA_DATABASE: sslrootcert, or a socket's folder"
        case ConnectionError() if "SSL" in str(error):
            return "enable TLS on the server, or correct sslmode in ANYA_DATABASE"
        case _:
            return "start it, or correct its address in ANYA_DATABASE"

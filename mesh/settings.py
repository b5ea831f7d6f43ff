"""The reader of settings: environment variables, checked and typed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
# What gRPC and HTTP both take. A library that refuses a header may log it, and it is a secret.
_HEADER_NAME = re.compile(r"[0-9A-Za-z_.-]+(?<!-bin)")
_HEADER = re.compile(r"(?! )[ -~]*(?<! )")
_UNENCODED = re.compile(r'[^";\\]*')  # in the variable these are percent-encoded (W3C Baggage)
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


class ConfigError(ValueError):
    """The process must not start with these settings; the text names the variable and a remedy."""


class Settings:
    """Typed reader of environment variables. A variable that is empty counts as unset.

    Every method takes the variable's name, and raises ConfigError if its value is not acceptable.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str, default: str = "") -> str:
        """Returns the value as it is."""
        return self._environment.get(name) or default

    def path(self, name: str, default: Path) -> Path:
        """Returns the value as a path, which need not exist."""
        return Path(self.text(name) or default)

    def choice(
        self, name: str, default: str, choices: Collection[str], *, ignore_case: bool = False
    ) -> str:
        """Returns the value if it is one of ``choices``, which are in lower case."""
        text = self.text(name, default)
        text = text.lower() if ignore_case else text
        if text != default and text not in choices:
            raise self.invalid(name, f"set it to {' or '.join(choices)}", default)
        return text

    def flag(self, name: str) -> bool:
        """Returns whether the value is ``true``; unset is false."""
        return self.choice(name, "false", ("true", "false"), ignore_case=True) == "true"

    def integer(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        """Returns a whole number from ``minimum`` to ``maximum``, both included."""
        text = self.text(name, str(default))
        if not _INTEGER.fullmatch(text) or not minimum <= int(text) <= maximum:
            remedy = f"set it to a whole number from {minimum} to {maximum}"
            raise self.invalid(name, remedy, str(default))
        return int(text)

    def number(
        self, name: str, default: float, *, minimum: float, maximum: float, unit: str = ""
    ) -> float:
        """Returns a decimal number from ``minimum`` to ``maximum``, both included.

        ``unit`` ("seconds", "days") only completes the error text.
        """
        text = self.text(name, f"{default:g}")
        if not _NUMBER.fullmatch(text) or not minimum <= float(text) <= maximum:
            remedy = f"set it to a number from {minimum:g} to {maximum:g} {unit}".rstrip()
            raise self.invalid(name, remedy, f"{default:g}")
        return float(text)

    def address(self, name: str, default: str) -> str:
        """Returns ``host:port`` with a port from 0 to 65535."""
        text = self.text(name, default)
        host, _, port = text.rpartition(":")
        if not host or not _INTEGER.fullmatch(port) or not 0 <= int(port) <= 65535:
            remedy = "set it to host:port with a port from 0 to 65535"
            raise self.invalid(name, remedy, default)
        return text

    def targets(self, name: str) -> Mapping[str, str]:
        """Returns gRPC targets by name, from ``"bitcoin=host:port,web5=..."``."""
        targets: dict[str, str] = {}
        for entry in filter(None, self.text(name).split(",")):
            peer, _, target = (part.strip() for part in entry.partition("="))
            if not peer or not target or peer in targets:
                remedy = "set it to name=host:port entries, separated by commas, each name once"
                raise ConfigError(f"{name} is {entry!r}: {remedy}, or unset it for none")
            targets[peer] = target
        return targets

    def entries(self, name: str) -> Mapping[str, str]:
        """Returns percent-decoded values by key, from ``"key=value,key=value"`` (W3C Baggage)."""
        return dict(self._entries(name, secret=False))

    def headers(self, name: str) -> Mapping[str, str]:
        """Returns ``entries`` as headers: names in lower case. The error does not show the text."""
        headers = {key.lower(): value for key, value in self._entries(name, secret=True)}
        if not all(map(_HEADER_NAME.fullmatch, headers)):
            remedy = "set it to names of letters, digits, '-', '_' and '.' that do not end in -bin"
            raise self.invalid(name, remedy, secret=True)
        if not all(map(_HEADER.fullmatch, headers.values())):
            remedy = "set it to values of printable ASCII characters, not blank at either end"
            raise self.invalid(name, remedy, secret=True)
        if not _UNENCODED.fullmatch(self.text(name)):
            raise self.invalid(name, 'write %22 for ", %3B for ; and %5C for \\', secret=True)
        return headers

    def _entries(self, name: str, *, secret: bool) -> Iterator[tuple[str, str]]:
        for entry in filter(None, map(str.strip, self.text(name).split(","))):
            key, separator, value = (part.strip() for part in entry.partition("="))
            if not separator or not _TOKEN.fullmatch(key):
                remedy = "set it to key=value entries, separated by commas, with %xx in the values"
                raise self.invalid(name, remedy, secret=secret)
            yield key, unquote(value)

    def invalid(
        self, name: str, remedy: str, default: str = "", *, secret: bool = False
    ) -> ConfigError:
        """Returns the error of an unacceptable value; ``secret``: without the value."""
        text = "malformed" if secret else repr(self.text(name))
        unset = f"unset it for {default}" if default else "unset it"
        return ConfigError(f"{name} is {text}: {remedy}, or {unset}")


def read_file(variable: str, path: Path) -> str:
    """Returns the text of the file that a variable names. Raises ConfigError if it has none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{variable} {path} cannot be read: {error}; correct the path or the file"
        ) from None

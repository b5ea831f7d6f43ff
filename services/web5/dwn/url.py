"""Protocol and schema URLs, which must be in the normal form of the WHATWG URL parser.

Nodes compare these URLs as text. A URL that this module cannot recognise as normal (credentials, a
host in another script, characters to be escaped) is refused, although a browser could normalise it.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address

from services.web5.dwn.errors import Code, DwnError

DEFAULT_PORTS = {"ftp": 21, "http": 80, "https": 443, "ws": 80, "wss": 443}  # the special schemes

FORM = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*):"
    r"(?://(?P<host>[a-z0-9._-]+)(?::(?P<port>0|[1-9][0-9]{0,4}))?(?P<path>/[^?#]*)?|(?P<opaque>[^/?#].*))"
)
PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/^|\[\]-]|%[0-9A-Fa-f]{2})*")
DOTS = re.compile(r"/(?:\.|%2[eE]){1,2}(?:/|$)")


def check_protocol(url: str) -> None:
    if not is_normalized(url):
        raise DwnError(Code.URL_PROTOCOL_NOT_NORMALIZED, f"Protocol URI {url} must be normalized.")


def check_schema(url: str) -> None:
    if not is_normalized(url):
        raise DwnError(Code.URL_SCHEMA_NOT_NORMALIZED, f"Schema URI {url} must be normalized.")


def is_normalized(url: str) -> bool:
    """Returns whether a URL is normal and has no query, no fragment and no slash at its end."""
    found = FORM.fullmatch(url)
    if not found or url.endswith("/"):
        return False
    scheme, host, port, path, opaque = found.groups()
    if opaque is not None:
        return scheme not in DEFAULT_PORTS and PATH.fullmatch(opaque) is not None
    return (
        (scheme not in DEFAULT_PORTS or _is_normal_host(host))
        and (port is None or (int(port) != DEFAULT_PORTS.get(scheme) and int(port) < 2**16))
        and (path is None or (PATH.fullmatch(path) is not None and not DOTS.search(path)))
    )


def _is_normal_host(host: str) -> bool:
    """Returns whether a host is normal, and no IPv4 address in another notation."""
    last = host.rstrip(".").rpartition(".")[2]
    if not (last.isdecimal() or re.fullmatch(r"0x[0-9a-f]*", last)):
        return ".." not in host and not host.startswith(".")
    try:
        return str(IPv4Address(host)) == host
    except AddressValueError:
        return False

"""Secrets at rest: each is encrypted under its own data key, each data key under the master key.

A sealed secret is ``version (1) | nonce (12) | wrapped data key (48) | nonce (12) | ciphertext``,
lengths in bytes. Both encryptions are AES-256-GCM with the key id as associated data, so that a
secret moved to another id does not open. A new master key rewraps data keys and leaves ciphertexts
as they are.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from mesh.settings import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

VERSION = b"\x01"
KEY_BYTES = 32
NONCE_BYTES = 12
WRAPPED_KEY_BYTES = KEY_BYTES + 16


class KeystoreError(Exception):
    """A sealed secret does not open: another master key, another id, or altered bytes."""


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The 32 bytes under which all data keys are wrapped; its repr hides them."""

    raw: bytes = field(repr=False)

    @classmethod
    def from_file(cls, path: Path) -> MasterKey:
        """Reads the key, or creates the file if it does not exist.

        Raises ConfigError if the file cannot be read or created, holds no key, or is readable by
        other users.
        """
        try:
            if not path.exists():
                _make(path)
            return cls(_read(path))
        except OSError as error:
            raise ConfigError(
                f"ANYA_MASTER_KEY_FILE {path} cannot be used: {error.strerror};"
                " correct the path or its rights"
            ) from None

    @classmethod
    def from_passphrase(cls, passphrase: str, salt: bytes) -> MasterKey:
        """Derives the key by Argon2id (RFC 9106, second recommended option).

        ``salt``: 16 bytes or more.
        """
        kdf = Argon2id(salt=salt, length=KEY_BYTES, iterations=3, lanes=4, memory_cost=64 * 1024)
        return cls(kdf.derive(passphrase.encode()))


class Keystore:
    def __init__(self, master: MasterKey) -> None:
        self._master = AESGCM(master.raw)

    def seal(self, key_id: str, secret: bytes) -> bytes:
        """Encrypts ``secret`` under a new data key, bound to ``key_id``."""
        data_key, wrap_nonce, nonce = (
            os.urandom(KEY_BYTES),
            os.urandom(NONCE_BYTES),
            os.urandom(NONCE_BYTES),
        )
        aad = key_id.encode()
        wrapped = self._master.encrypt(wrap_nonce, data_key, aad)
        return VERSION + wrap_nonce + wrapped + nonce + AESGCM(data_key).encrypt(nonce, secret, aad)

    def open(self, key_id: str, sealed: bytes) -> bytes:
        """Decrypts the secret. Raises KeystoreError unless sealed under this master key and id."""
        data_key, rest = self._unwrap(key_id, sealed)
        try:
            return AESGCM(data_key).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], key_id.encode())
        except InvalidTag:
            raise KeystoreError(f"the secret of {key_id} was altered") from None

    def rewrap(self, key_id: str, sealed: bytes, old: Keystore) -> bytes:
        """Returns the sealed secret, rewrapped from the master key of ``old`` to this one."""
        data_key, rest = old._unwrap(key_id, sealed)
        wrap_nonce = os.urandom(NONCE_BYTES)
        wrapped = self._master.encrypt(wrap_nonce, data_key, key_id.encode())
        return VERSION + wrap_nonce + wrapped + rest

    def _unwrap(self, key_id: str, sealed: bytes) -> tuple[bytes, bytes]:
        if (
            sealed[:1] != VERSION
            or len(sealed) < 1 + NONCE_BYTES + WRAPPED_KEY_BYTES + NONCE_BYTES + 16
        ):
            raise KeystoreError(f"the secret of {key_id} is not in the format of this version")
        wrap_nonce, rest = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            data_key = self._master.decrypt(wrap_nonce, rest[:WRAPPED_KEY_BYTES], key_id.encode())
        except InvalidTag:
            raise KeystoreError(
                f"the secret of {key_id} does not open with this master key"
            ) from None
        return data_key, rest[WRAPPED_KEY_BYTES:]


def _make(path: Path) -> None:
    """Creates the key file atomically; if two processes race, both use the key of the first."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.unlink(draft)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # syncs the name: with the master key every secret would be lost
    finally:
        os.close(folder)


def _read(path: Path) -> bytes:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(
            f"ANYA_MASTER_KEY_FILE {path} is readable by other users: chmod 600 {path}"
        )
    raw = path.read_bytes()
    if len(raw) != KEY_BYTES:
        raise ConfigError(
            f"ANYA_MASTER_KEY_FILE {path} must hold {KEY_BYTES} bytes, not {len(raw)};"
            " restore the key"
        )
    return raw

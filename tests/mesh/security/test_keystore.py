"""The keystore: a secret opens under its own id and master key only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mesh.security.keystore import Keystore, KeystoreError, MasterKey
from mesh.settings import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SECRET = b"abandon abandon about"


@pytest.fixture
def keystore() -> Keystore:
    return Keystore(MasterKey(bytes(range(32))))


def test_opened_secret_equals_the_sealed_one(keystore: Keystore) -> None:
    assert keystore.open("wallet/1", keystore.seal("wallet/1", SECRET)) == SECRET


def test_sealing_a_secret_twice_gives_different_bytes(keystore: Keystore) -> None:
    one, other = keystore.seal("wallet/1", SECRET), keystore.seal("wallet/1", SECRET)

    assert one != other
    assert SECRET not in one


def test_secret_does_not_open_under_another_id(keystore: Keystore) -> None:
    with pytest.raises(KeystoreError):
        keystore.open("wallet/2", keystore.seal("wallet/1", SECRET))


def test_secret_does_not_open_under_another_master_key(keystore: Keystore) -> None:
    with pytest.raises(KeystoreError, match="master key"):
        Keystore(MasterKey(bytes(32))).open("wallet/1", keystore.seal("wallet/1", SECRET))


@pytest.mark.parametrize("position", [0, 5, 30, 65, -1])
def test_altered_secret_does_not_open(keystore: Keystore, position: int) -> None:
    sealed = bytearray(keystore.seal("wallet/1", SECRET))
    sealed[position] ^= 1

    with pytest.raises(KeystoreError):
        keystore.open("wallet/1", bytes(sealed))


def test_new_master_key_opens_rewrapped_secrets(keystore: Keystore) -> None:
    newer = Keystore(MasterKey(bytes(32)))

    sealed = newer.rewrap("wallet/1", keystore.seal("wallet/1", SECRET), keystore)

    assert newer.open("wallet/1", sealed) == SECRET


def test_master_key_file_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "master.key"

    first = MasterKey.from_file(path)

    assert MasterKey.from_file(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert first.raw.hex() not in repr(first)


def test_master_key_readable_by_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    MasterKey.from_file(path)
    path.chmod(0o640)

    with pytest.raises(ConfigError, match="chmod 600"):
        MasterKey.from_file(path)


def test_master_key_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    MasterKey.from_file(path)
    path.write_bytes(path.read_bytes()[:31])

    with pytest.raises(ConfigError, match="must hold 32 bytes, not 31"):
        MasterKey.from_file(path)


@pytest.mark.parametrize("place", ["nowhere/master.key", "file/master.key", "."])
def test_path_that_cannot_hold_a_master_key_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="ANYA_MASTER_KEY_FILE"):
        MasterKey.from_file(tmp_path / place)


def test_creating_a_master_key_leaves_no_other_file(tmp_path: Path) -> None:
    MasterKey.from_file(tmp_path / "master.key")

    assert [path.name for path in tmp_path.iterdir()] == ["master.key"]


def test_same_passphrase_gives_the_same_master_key() -> None:
    assert MasterKey.from_passphrase("correct horse", bytes(16)) == MasterKey.from_passphrase(
        "correct horse", bytes(16)
    )

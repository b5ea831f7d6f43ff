"""The types of scripts, in agreement with python-bitcoinlib."""

from __future__ import annotations

from bitcoin.core.script import CScript
from hypothesis import given
from hypothesis import strategies as st

from formats.bitcoin.script import (
    ScriptType,
    is_unspendable,
    p2pkh_script,
    p2sh_script,
    script_type,
    witness_program,
    witness_script_pubkey,
)

HASHES = st.binary(min_size=20, max_size=20)
PROGRAMS = st.tuples(st.integers(0, 16), st.binary(min_size=2, max_size=40))
SCRIPTS = (
    st.binary(max_size=80)
    | HASHES.map(p2pkh_script)
    | HASHES.map(p2sh_script)
    | PROGRAMS.map(lambda program: witness_script_pubkey(*program))
)


@given(SCRIPTS)
def test_script_types_are_those_of_python_bitcoinlib(script: bytes) -> None:
    oracle, kind = CScript(script), script_type(script)

    assert (kind is ScriptType.P2SH) == oracle.is_p2sh()
    assert (kind is ScriptType.P2WPKH) == oracle.is_witness_v0_keyhash()
    assert (kind is ScriptType.P2WSH) == oracle.is_witness_v0_scripthash()
    assert (witness_program(script) is not None) == oracle.is_witness_scriptpubkey()
    assert is_unspendable(script) == (script[:1] == b"\x6a")


@given(PROGRAMS)
def test_witness_program_comes_back_from_its_script(program: tuple[int, bytes]) -> None:
    assert witness_program(witness_script_pubkey(*program)) == program


@given(HASHES)
def test_built_scripts_have_their_own_types(key_hash: bytes) -> None:
    assert p2pkh_script(key_hash) == b"\x76\xa9\x14" + key_hash + b"\x88\xac"
    assert p2sh_script(key_hash) == b"\xa9\x14" + key_hash + b"\x87"
    assert script_type(p2pkh_script(key_hash)) is ScriptType.P2PKH
    assert script_type(p2sh_script(key_hash)) is ScriptType.P2SH

"""Definitions that are refused, each with the words of its first fault, and § where it stands."""

from __future__ import annotations

from pathlib import Path

HEAD = "id: w\nname: w\nsteps:\n"
# What several of them have.
SHORT = {
    "$CALL": "protocol: web5, operation: resolve_did, input_mapping: {did: d}, output_mapping: {}",
    "$KEEP": "protocol: web5, operation: store_transaction_record,"
    " input_mapping: {did: d, transaction_data: {}}, output_mapping: {}",
    "$PAY": "protocol: bitcoin, operation: send_transaction, input_mapping: {from_address: a},"
    " output_mapping: {}",
}


def refused(kind: str) -> list[tuple[str, str]]:
    """Definition and words of each case: "texts", "shape" or "sense", as their files say."""
    text = (Path(__file__).parent / f"refused_{kind}.txt").read_text()
    for short, long in SHORT.items():
        text = text.replace(short, long)
    _, *cases = text.removesuffix("\n").split("\n====\n")
    return [
        (_whole(written), words) for words, _, written in (case.partition("\n") for case in cases)
    ]


def _whole(written: str) -> str:
    """Steps alone are those of a definition, the first of them in line 4."""
    if not written.startswith(("- {", "- §{")):
        return written
    return HEAD + "".join(f"  {line}\n" for line in written.splitlines())

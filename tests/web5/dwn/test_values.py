"""JSON values and their CIDs are the same on every node; ambiguous JSON is refused."""

from __future__ import annotations

import pytest

from services.web5.dwn import cid, values


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1.0", 1),
        ("-0", 0),
        ("-0.0", 0),
        ("1e3", 1000),
        ("9007199254740991", 9007199254740991),
        ("9007199254740991.0", 9007199254740991),
        ("9007199254740992", 9007199254740992.0),
        ("9007199254740993", 9007199254740992.0),
        ("-9007199254740993", -9007199254740992.0),
        ("1e300", 1e300),
        ("1.5", 1.5),
    ],
)
def test_numbers_are_those_of_javascript(text: str, number: float) -> None:
    value = values.parse(text.encode())

    assert value == number
    assert type(value) is type(number)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'{"a":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"a":"\\u0000"}',
        b"[NaN]",
        b"[-Infinity]",
        b"[1e400]",
        b"[1" + b"0" * 400 + b"]",
        b"[" * 65 + b"]" * 65,
        b"[" * 60_000,
        b'{"a":"\xff"}',
        b"\xff\xfe{\x00}\x00",
        b"",
        b"{} {}",
    ],
    ids=str,
)
def test_ambiguous_json_is_refused(text: bytes) -> None:
    with pytest.raises(values.MalformedError):
        values.parse(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {"txid": "ab", "fee": 300, "vout": [0, 1]},
            "bafyreido2jfgz4pbybqchae3lkvuh5ltu6uyclwzho32qgidwfcm2pvqka",
        ),
        (
            {"naïve": "₿", "zz": None, "a": True},
            "bafyreicr5wtbqens3euqexzqugm23sjgcckbqes5rir5ra6uobaj7xrjli",
        ),
        (
            {"height": 840000.0, "share": 0.25, "delta": -3, "far": 1e21},
            "bafyreigtzqyjdvhssqmdyjkstbjg3dhu2qxufjc462xnw5jihoqvnk3kq4",
        ),
    ],
    ids=["order", "unicode", "numbers"],
)
def test_cid_of_a_value_is_that_of_its_dag_cbor(value: values.Value, expected: str) -> None:
    assert cid.of_value(values.normal(value)) == expected


def test_cid_does_not_depend_on_member_order_or_number_notation() -> None:
    one = values.parse(b'{"size": 1, "name": "a"}')
    other = values.parse(b'{"name":"\\u0061","size":1.0}')

    assert cid.of_value(one) == cid.of_value(other)


def test_cid_of_a_message_ignores_its_encoded_data() -> None:
    message = {"descriptor": {"method": "Write"}}

    assert cid.of_message(message | {"encodedData": "AA"}) == cid.of_message(message)

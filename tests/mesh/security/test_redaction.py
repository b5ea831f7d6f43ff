"""Redaction: forbidden fields are found and cleared at every depth, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from anya.bitcoin.v1.wallet_pb2 import SendPaymentRequest
from anya.mesh.v1 import options_pb2
from anya.mesh.v1.outbox_pb2 import ReadOutboxResponse
from mesh.rpc import contracts
from mesh.security.redaction import plan_for
from mesh.security.trust import DataClass
from tests.mesh.notes import Note


def cleared(note: Any, highest: DataClass) -> Any:
    plan = plan_for(Note.DESCRIPTOR, highest)
    assert plan
    plan.clear(note)
    return note


@pytest.mark.parametrize("name", ["diary", "pin", "closed"])
def test_field_above_the_class_is_cleared(name: str) -> None:
    note = Note(text="hello", **{name: "mine"})

    assert cleared(note, DataClass.PUBLIC) == Note(text="hello")


def test_field_of_the_class_itself_passes() -> None:
    note = Note(text="hello", diary="mine", closed="mine")

    assert cleared(note, DataClass.PII) == Note(text="hello", diary="mine", closed="mine")


def test_field_without_a_class_never_passes() -> None:
    assert cleared(Note(pin="1234"), DataClass.PII) == Note()


@pytest.mark.parametrize(
    ("note", "left", "path"),
    [
        pytest.param(
            Note(inner=Note(text="a", diary="b")),
            Note(inner=Note(text="a")),
            "inner.diary",
            id="nested",
        ),
        pytest.param(
            Note(notes=[Note(text="a"), Note(diary="b", text="c")]),
            Note(notes=[Note(text="a"), Note(text="c")]),
            "notes.diary",
            id="repeated",
        ),
        pytest.param(
            Note(by_name={"x": Note(text="a", diary="b")}),
            Note(by_name={"x": Note(text="a")}),
            "by_name.diary",
            id="map",
        ),
        pytest.param(
            Note(inner=Note(notes=[Note(by_name={"x": Note(closed="b", text="a")})])),
            Note(inner=Note(notes=[Note(by_name={"x": Note(text="a")})])),
            "inner.notes.by_name.closed",
            id="all at once",
        ),
        pytest.param(
            Note(details={"key": "value"}, remarks={"key": "value"}),
            Note(remarks={"key": "value"}),
            "details",
            id="a free object is of the class of its field",
        ),
    ],
)
def test_forbidden_field_is_found_and_cleared_at_every_depth(
    note: Any, left: Any, path: str
) -> None:
    plan = plan_for(Note.DESCRIPTOR, DataClass.PUBLIC)
    assert plan

    assert plan.find(note) == path
    assert cleared(note, DataClass.PUBLIC) == left
    assert plan.find(note) is None


def test_search_sets_no_field() -> None:
    note = Note(text="hello")

    cleared(note, DataClass.PUBLIC)

    assert not note.HasField("inner")


def test_type_without_forbidden_fields_has_no_plan() -> None:
    assert plan_for(SendPaymentRequest.DESCRIPTOR, DataClass.PII) is None
    assert plan_for(SendPaymentRequest.DESCRIPTOR, DataClass.INTERNAL) is not None


def test_cloud_events_are_internal() -> None:
    assert plan_for(ReadOutboxResponse.DESCRIPTOR, DataClass.INTERNAL) is None
    assert plan_for(ReadOutboxResponse.DESCRIPTOR, DataClass.PUBLIC) is not None


def test_every_field_of_every_contract_has_a_class() -> None:
    unclassified = [
        f"{message.full_name}.{field.name}"
        for message in contracts.all_messages()
        for field in message.fields
        if message.file is not options_pb2.DESCRIPTOR  # not sent by any service
        and not field.GetOptions().HasExtension(options_pb2.data_class)
        and contracts.data_class(field) == DataClass.SECRET
    ]

    assert not unclassified

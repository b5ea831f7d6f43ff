"""A message with fields of every data class and kind, built without a .proto file."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, struct_pb2
from google.protobuf.message_factory import GetMessageClass

from anya.mesh.v1 import options_pb2 as options

PUBLIC, PII = options.DATA_CLASS_PUBLIC, options.DATA_CLASS_PII
FieldProto = descriptor_pb2.FieldDescriptorProto
NOTE = ".tests.Note"


def _note() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/note.proto",
        package="tests",
        syntax="proto3",
        dependency=[options.DESCRIPTOR.name, struct_pb2.DESCRIPTOR.name],
    )
    note = file.message_type.add(name="Note")
    note.oneof_decl.add(name="choice")
    entry = note.nested_type.add(name="ByNameEntry")
    entry.options.map_entry = True
    _add(entry, 1, "key")
    _add(entry, 2, "value", NOTE)
    _add(note, 1, "text", data_class=PUBLIC)
    _add(note, 2, "diary", data_class=PII)
    _add(note, 3, "pin")  # without a class: SECRET
    _add(note, 4, "inner", NOTE, data_class=PUBLIC)
    _add(note, 5, "notes", NOTE, data_class=PUBLIC, repeated=True)
    _add(note, 6, "by_name", f"{NOTE}.ByNameEntry", data_class=PUBLIC, repeated=True)
    _add(note, 7, "open", data_class=PUBLIC).oneof_index = 0
    _add(note, 8, "closed", data_class=PII).oneof_index = 0
    _add(note, 9, "details", ".google.protobuf.Struct", data_class=PII)
    _add(note, 10, "remarks", ".google.protobuf.Struct", data_class=PUBLIC)
    return file


def _add(
    message: descriptor_pb2.DescriptorProto,
    number: int,
    name: str,
    type_name: str = "",
    *,
    data_class: options.DataClass.ValueType | None = None,
    repeated: bool = False,
) -> descriptor_pb2.FieldDescriptorProto:
    field = message.field.add(
        name=name,
        number=number,
        label=FieldProto.LABEL_REPEATED if repeated else FieldProto.LABEL_OPTIONAL,
        type=FieldProto.TYPE_MESSAGE if type_name else FieldProto.TYPE_STRING,
        type_name=type_name or None,
    )
    if data_class is not None:
        field.options.Extensions[options.data_class] = data_class
    return field


_pool = descriptor_pool.Default()
_pool.Add(_note())
Note: Any = GetMessageClass(_pool.FindMessageTypeByName("tests.Note"))

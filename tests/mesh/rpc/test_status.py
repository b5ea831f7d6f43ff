"""Details of a status are read alike, whether a server or an interceptor of the client set them."""

from __future__ import annotations

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from mesh.errors import FailedPrecondition, InvalidArgument, Reason, Unavailable
from mesh.rpc.interceptors.errors import to_rpc_error
from mesh.rpc.status import DETAILS_KEY, find_detail, reason_of, retry_after_s


def test_reason_is_the_one_that_was_packed() -> None:
    error = to_rpc_error(FailedPrecondition("no", reason=Reason.PROOF_EXPIRED))

    assert reason_of(error) == "PROOF_EXPIRED"


def test_retry_delay_is_in_seconds() -> None:
    assert retry_after_s(to_rpc_error(Unavailable("later", retry_after=1.25))) == 1.25


def test_violated_field_is_named() -> None:
    found = find_detail(to_rpc_error(InvalidArgument("no", field="amount_sat")), BadRequest)

    assert found is not None
    assert [violation.field for violation in found.field_violations] == ["amount_sat"]


@pytest.mark.parametrize(
    "trailing",
    [
        pytest.param(grpc.aio.Metadata(), id="no details"),
        pytest.param(grpc.aio.Metadata((DETAILS_KEY, b"")), id="empty status"),
        pytest.param(grpc.aio.Metadata(("other", "text")), id="other metadata"),
    ],
)
def test_status_without_details_has_no_reason(trailing: grpc.aio.Metadata) -> None:
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing)

    assert find_detail(error, BadRequest) is None
    assert reason_of(error) == ""
    assert retry_after_s(error) == 0

"""Bad input to a whole mesh: each is refused with a clear error and changes nothing."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from anya.bitcoin.v1 import chain_pb2, ownership_pb2, regtest_pb2, wallet_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.ownership_pb2_grpc import OwnershipServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from anya.bitcoin.v1.wallet_pb2_grpc import WalletServiceStub
from anya.mesh.v1.attestation_pb2 import PaymentIntent
from anya.orchestrator.v1 import payment_pb2, workflow_pb2
from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceStub
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from anya.standard.inference.v2 import inference_pb2
from anya.standard.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from anya.web5.v1 import did_pb2, identity_pb2
from anya.web5.v1.did_pb2_grpc import DidServiceStub
from anya.web5.v1.identity_pb2_grpc import IdentityServiceStub
from cli.connection import connect
from cli.home import Home
from cli.payment_client import new_id
from cli.wallet_holder import Holder
from formats.money import MAX_SAT
from mesh.testing import detail, reason
from tests.scenarios.meshes import Mesh, up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from cli.connection import Channels

SEED = Path(__file__).parents[2] / "services/orchestrator/workflows/verified_payment.json"
REGTEST = "bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk"
MAINNET = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"

STUBS: dict[str, tuple[str, Any]] = {
    "chain": ("bitcoin", ChainServiceStub),
    "wallet": ("bitcoin", WalletServiceStub),
    "ownership": ("bitcoin", OwnershipServiceStub),
    "regtest": ("bitcoin", RegtestServiceStub),
    "did": ("web5", DidServiceStub),
    "identity": ("web5", IdentityServiceStub),
    "model": ("ml", GRPCInferenceServiceStub),
    "workflow": ("orchestrator", WorkflowServiceStub),
    "payment": ("orchestrator", PaymentServiceStub),
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with up(tmp_path_factory.mktemp("bad-input") / "home", "--mine", "manual") as mesh:
        yield mesh


@dataclass(frozen=True, slots=True)
class Refusal:
    """The expected error of a refused call."""

    code: str
    reason: str
    field: str  # empty if the error is about no field
    words: str  # a part of its message


async def call(channels: Channels, stub: str, method: str, request: Message) -> Any:
    service, kind = STUBS[stub]
    return await getattr(kind(channels[service]), method)(request)


async def state(channels: Channels) -> list[Message]:
    """Returns all state that bad input could change."""
    questions: list[tuple[str, str, Message]] = [
        ("chain", "GetChainInfo", chain_pb2.GetChainInfoRequest()),
        ("chain", "GetMempool", chain_pb2.GetMempoolRequest()),
        ("wallet", "ListWallets", wallet_pb2.ListWalletsRequest()),
        ("workflow", "ListWorkflows", workflow_pb2.ListWorkflowsRequest()),
        ("workflow", "ListRuns", workflow_pb2.ListRunsRequest()),
        ("model", "ModelReady", inference_pb2.ModelReadyRequest(name="payment-risk")),
        ("did", "ResolveDid", did_pb2.ResolveDidRequest(did=PAYER.did)),
    ]
    return [await call(channels, *question) for question in questions]


PAYER = Holder.generate()


def intent(**changes: Any) -> PaymentIntent:
    whole: dict[str, Any] = {
        "network": "regtest",
        "payment_id": new_id(),
        "sender_did": PAYER.did,
        "sender_address": REGTEST,
        "recipient_address": REGTEST,
        "amount_sat": 1_000,
    }
    return PaymentIntent(**whole | changes)


def begin(**changes: Any) -> identity_pb2.BeginVerificationRequest:
    return identity_pb2.BeginVerificationRequest(
        request_id=str(uuid.uuid4()), intent=intent(**changes)
    )


def start(workflow_id: str = "verified_payment", **changes: Any) -> workflow_pb2.StartRunRequest:
    """Returns a payment that is refused because of ``changes``, before its proof is checked."""
    paid = intent(**changes)
    request = workflow_pb2.StartRunRequest(
        request_id=paid.payment_id, workflow_id=workflow_id, intent=paid
    )
    request.input.update(
        {
            "sender_did": paid.sender_did,
            "sender_address": paid.sender_address,
            "recipient_address": paid.recipient_address,
            "amount": paid.amount_sat,
        }
    )
    return request


def order(**changes: Any) -> payment_pb2.SendVerifiedPaymentRequest:
    paid = intent(**changes)
    return payment_pb2.SendVerifiedPaymentRequest(request_id=paid.payment_id, intent=paid)


def infer(model: str) -> inference_pb2.ModelInferRequest:
    return inference_pb2.ModelInferRequest(model_name=model)


INVALID = "INVALID_ARGUMENT"

CASES = [
    pytest.param(
        *("chain", "GetTransaction", chain_pb2.GetTransactionRequest(txid=b"\x01" * 31)),
        Refusal(INVALID, "HASH_INVALID", "txid", "must be 32 bytes in internal order, not 31"),
        id="a txid of 31 bytes",
    ),
    pytest.param(
        *("chain", "GetTransaction", chain_pb2.GetTransactionRequest(txid=b"ab" * 32)),
        Refusal(INVALID, "HASH_INVALID", "txid", "not 64"),
        id="a txid in hex",
    ),
    pytest.param(
        *("chain", "GetTransaction", chain_pb2.GetTransactionRequest(txid=b"\x01" * 32)),
        Refusal("NOT_FOUND", "NOT_FOUND", "txid", f"transaction {'01' * 32} is in neither"),
        id="a txid that is nowhere",
    ),
    pytest.param(
        *("chain", "GetBlock", chain_pb2.GetBlockRequest(hash=b"\x01")),
        Refusal(INVALID, "HASH_INVALID", "hash", "must be 32 bytes"),
        id="a block hash of one byte",
    ),
    pytest.param(
        *("chain", "ListUtxos", chain_pb2.ListUtxosRequest(address=MAINNET)),
        Refusal(INVALID, "ADDRESS_OF_OTHER_NETWORK", "address", "of main; this network is regtest"),
        id="an address of the main network",
    ),
    pytest.param(
        *("chain", "ListUtxos", chain_pb2.ListUtxosRequest(address=REGTEST[:-1] + "q")),
        Refusal(INVALID, "ADDRESS_INVALID", "address", "is not an address"),
        id="a mistyped address",
    ),
    pytest.param(
        *(
            "regtest",
            "MineBlocks",
            regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=1, address=MAINNET),
        ),
        Refusal(INVALID, "ADDRESS_OF_OTHER_NETWORK", "address", "this network is regtest"),
        id="blocks for another network",
    ),
    pytest.param(
        *(
            "regtest",
            "MineBlocks",
            regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=1_000_000),
        ),
        Refusal(INVALID, "FIELD_INVALID", "count", "count must be 1 to"),
        id="a million blocks",
    ),
    pytest.param(
        *("chain", "BroadcastTransaction", chain_pb2.BroadcastTransactionRequest(raw=b"\x02")),
        Refusal(INVALID, "TRANSACTION_MALFORMED", "raw", "the transaction is truncated"),
        id="a truncated transaction",
    ),
    pytest.param(
        "ownership",
        "VerifyOwnership",
        ownership_pb2.VerifyOwnershipRequest(address=MAINNET, message="m", signature="s"),
        Refusal(INVALID, "ADDRESS_OF_OTHER_NETWORK", "address", "this network is regtest"),
        id="a proof for another network",
    ),
    *(
        pytest.param(
            *("identity", "BeginVerification", begin(amount_sat=amount)),
            Refusal(
                INVALID,
                "AMOUNT_INVALID",
                "intent.amount_sat",
                f"not {amount}",
            ),
            id=f"a challenge for {amount} sat",
        )
        for amount in (0, -1, 293, MAX_SAT + 1)
    ),
    *(
        pytest.param(
            *("workflow", "StartRun", start(amount_sat=amount)),
            Refusal(
                INVALID,
                "AMOUNT_INVALID",
                "intent.amount_sat",
                f"not {amount}",
            ),
            id=f"a payment of {amount} sat",
        )
        for amount in (0, -1, 293, MAX_SAT + 1)
    ),
    *(
        pytest.param(
            *(stub, method, ask(**{field: value})),
            Refusal(INVALID, word, f"intent.{field}", words),
            id=f"{method} with {value or 'no'} {field}",
        )
        for stub, method, ask in (
            ("identity", "BeginVerification", begin),
            ("workflow", "StartRun", start),
            ("payment", "SendVerifiedPayment", order),
        )
        for field, value, word, words in (
            ("recipient_address", MAINNET, "ADDRESS_OF_OTHER_NETWORK", "this network is regtest"),
            ("recipient_address", REGTEST[:-1] + "q", "ADDRESS_INVALID", "is not an address"),
            ("sender_address", "", "ADDRESS_INVALID", "1 to 90 characters"),
            ("sender_did", "did:key:zNonsense", "DID_INVALID", "does not encode a supported key"),
            ("network", "main", "INTENT_INVALID", "must be regtest"),
        )
    ),
    pytest.param(
        *("identity", "BeginVerification", begin(sender_did="did:web:example.com")),
        Refusal(
            "FAILED_PRECONDITION",
            "DID_METHOD_UNSUPPORTED",
            "intent.sender_did",
            "did:web is not supported; use did:key or did:jwk",
        ),
        id="a payer of an unknown method",
    ),
    pytest.param(
        *("did", "ResolveDid", did_pb2.ResolveDidRequest(did="did:example:123")),
        Refusal("FAILED_PRECONDITION", "DID_METHOD_UNSUPPORTED", "did", "use did:key or did:jwk"),
        id="a DID of an unknown method",
    ),
    pytest.param(
        *("did", "ResolveDid", did_pb2.ResolveDidRequest(did="did:key:zNonsense")),
        Refusal(INVALID, "DID_INVALID", "did", "does not encode a supported key"),
        id="a malformed DID",
    ),
    pytest.param(
        *("model", "ModelInfer", infer("fortune-teller")),
        Refusal("NOT_FOUND", "MODEL_NOT_FOUND", "model_name", "this service has payment-risk"),
        id="an unknown model",
    ),
    pytest.param(
        *("model", "ModelMetadata", inference_pb2.ModelMetadataRequest(name="fortune-teller")),
        Refusal("NOT_FOUND", "MODEL_NOT_FOUND", "name", "model 'fortune-teller' is unknown"),
        id="the metadata of an unknown model",
    ),
    pytest.param(
        *("workflow", "StartRun", start("fortune_telling")),
        Refusal("NOT_FOUND", "NOT_FOUND", "workflow_id", "no workflow 'fortune_telling'"),
        id="an unknown workflow",
    ),
    pytest.param(
        *("workflow", "GetRun", workflow_pb2.GetRunRequest(run_id="missing")),
        Refusal("NOT_FOUND", "NOT_FOUND", "run_id", "no run 'missing'"),
        id="an unknown run",
    ),
    pytest.param(
        *("workflow", "StartRun", workflow_pb2.StartRunRequest(workflow_id="verified_payment")),
        Refusal(INVALID, "REQUEST_ID_INVALID", "request_id", "request_id"),
        id="no request id",
    ),
]


@pytest.mark.parametrize(("stub", "method", "request_", "expected"), CASES)
async def test_bad_input_is_refused_by_field_and_changes_nothing(
    mesh: Mesh, stub: str, method: str, request_: Message, expected: Refusal
) -> None:
    async with connect(Home(mesh.home)) as channels:
        before = await state(channels)

        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call(channels, stub, method, request_)

        assert await state(channels) == before
    assert fields_of(refusal.value) == (expected.code, expected.reason, expected.field)
    assert expected.words in str(refusal.value.details())


def fields_of(error: grpc.aio.AioRpcError) -> tuple[str, str, str]:
    (violation,) = detail(error, BadRequest).field_violations
    return error.code().name, reason(error), violation.field


def spoiled(folder: Path, step: int, **changes: Any) -> Path:
    """Returns the verified payment workflow under another name, with one step changed."""
    definition = json.loads(SEED.read_text())
    definition["id"] = "spoiled"
    definition["steps"][step] |= changes
    file = folder / "workflow.json"
    file.write_text(json.dumps(definition, indent=2))
    return file


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("{{steps.missing.verified}}", "unknown step 'missing'"),
        ("{{steps.fraud_assessment.risk_score}}", "must be true or false"),
        ("{{steps.verify_sender.sender_verified}} ==", "Syntax error"),
    ],
    ids=["unknown step", "a number", "no expression"],
)
def test_error_of_an_invalid_condition_has_its_position(
    mesh: Mesh, tmp_path: Path, condition: str, message: str
) -> None:
    file = spoiled(tmp_path, 2, condition=condition)
    lines = file.read_text().splitlines()
    line = 1 + lines.index(f'      "condition": "{condition}",')
    before = mesh.anya("workflow", "list", "--json").document

    refused = mesh.anya("workflow", "register", str(file), "--json")

    assert refused.code == 1
    assert refused.error["code"] == INVALID
    assert refused.error["reason"] == "DEFINITION_INVALID"
    assert re.match(rf"{line}:\d+: ", refused.error["message"])
    assert message in refused.error["message"]
    assert mesh.anya("workflow", "list", "--json").document == before

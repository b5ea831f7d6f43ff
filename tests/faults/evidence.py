"""The outcome of payments from five independent sources, and the contradictions between them.

The sources are the chain's raw blocks, its unspent outputs, the records that each payer may read,
the bitcoin service's payments, and the orchestrator's runs. All five must agree.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from anya.bitcoin.v1 import chain_pb2, wallet_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.wallet_pb2_grpc import WalletServiceStub
from anya.orchestrator.v1 import workflow_pb2
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from anya.web5.v1 import record_pb2
from anya.web5.v1.record_pb2_grpc import RecordServiceStub
from cli import payment_client, runs
from formats import jose
from formats.bitcoin.address import parse_address
from formats.bitcoin.block import parse_block
from formats.bitcoin.network import Network
from mesh.testing import eventually
from services.web5 import did
from services.web5.dwn import records_query
from services.web5.proof import Signer
from tests.faults.fault_schedule import MIN_AMOUNT_SAT
from tests.faults.payment_clients import SINGLE_ATTEMPT, retry_until_answered, state_word

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cli.connection import Channels
    from cli.identities import Identity
    from tests.faults.funded_mesh import FundedMesh
    from tests.faults.payment_clients import ObservedPayment

Q = TypeVar("Q")
R = TypeVar("R")

CONFIRMED_WITHIN_S = 60.0
PAYMENT_PROTOCOL = "https://anya.internal/protocols/payment"
OK = 200  # of a DWN reply

PAID = ("CONFIRMED", "SETTLED")
UNPAID = ("none", "CANCELLED")  # the latter if the orchestrator cancelled after a lost response


@dataclass(slots=True)
class Evidence:
    """The payments according to all sources. Txids are hex in display order."""

    paid: dict[tuple[str, int], list[str]]  # shop and amount -> txids in the blocks
    unspent: Counter[tuple[str, int]]  # shop and amount -> number of outputs in the index
    spends: set[str]  # every transaction in a block that spends a payer's coin
    records: dict[str, list[dict[str, Any]]]  # payment id -> data of its payer's records
    payments: dict[str, str] = field(
        default_factory=dict
    )  # payment id -> state, where there is one
    runs: dict[str, payment_client.Outcome] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)  # ids of all payment runs


async def gather(
    channels: Channels, funded: FundedMesh, observed: Sequence[ObservedPayment]
) -> Evidence:
    """Queries all sources as soon as the mempool is empty."""
    await _until_confirmed(channels)
    paid, spends = await _read_blocks(channels, funded)
    tenants = {one.outcome.record_tenant for one in observed} - {""}
    evidence = Evidence(
        paid, await _unspent(channels, funded), spends, await _records(channels, funded, tenants)
    )
    for one in observed:
        run_id = one.proposal.intent.payment_id
        run = await retry_until_answered(partial(runs.get, channels, run_id))
        evidence.runs[run_id] = payment_client.outcome(run)
        if state := await _payment_state(channels, run_id):
            evidence.payments[run_id] = state
    evidence.listed = await listed(channels)
    return evidence


def contradictions(evidence: Evidence, observed: Sequence[ObservedPayment]) -> list[str]:
    """Returns all contradictions; none if each payment has the same outcome in every source."""
    found = [wrong for one in observed for wrong in _wrong_with(one, evidence)]
    ids = [one.proposal.intent.payment_id for one in observed]
    if sorted(evidence.listed) != sorted(ids):
        found.append(f"{len(ids)} payments have {len(evidence.listed)} runs")
    succeeded = {one.txid for one in evidence.runs.values() if one.status == "SUCCEEDED"}
    if evidence.spends != succeeded:
        strange = evidence.spends ^ succeeded
        found.append(f"payers' coins were spent by other transactions than of the runs: {strange}")
    if evidence.unspent != Counter({key: len(txids) for key, txids in evidence.paid.items()}):
        found.append("the index of unspent outputs differs from the blocks")
    if strangers := evidence.records.keys() - set(ids):
        found.append(f"records of unknown payments: {strangers}")
    return found


def _wrong_with(one: ObservedPayment, evidence: Evidence) -> list[str]:
    intent = one.proposal.intent
    run = evidence.runs[intent.payment_id]
    txids = evidence.paid.get((intent.recipient_address, intent.amount_sat), [])
    records = evidence.records.get(intent.payment_id, [])
    state = evidence.payments.get(intent.payment_id, "none")
    recorded = [record["bitcoin_txid"] for record in records]
    paid = run.status == "SUCCEEDED"
    holds = (
        run.status == one.outcome.status
        and run.status in _may_end(one)
        and txids == recorded == ([run.txid] if paid else [])
        and state in (PAID if paid else UNPAID)
    )
    if holds:
        return []
    planned = one.planned
    cancelled = f", {planned.cancel} answered {one.cancelled_state!r}" if planned.cancel else ""
    return [
        f"payment {planned.number} ({intent.payment_id}, {planned.method.name}{cancelled}):"
        f" its client saw {one.outcome.status}, run {run.status} {run.reason!r}, payment {state},"
        f" transactions {txids}, records of {recorded}"
    ]


def _may_end(one: ObservedPayment) -> set[str]:
    """Returns the statuses that the plan and the replies to the client allow."""
    if one.planned.cancel is None:
        return {"SUCCEEDED"} if one.planned.proved else {"REFUSED"}
    stopped = {"REFUSED", "CANCELLED"}
    if not one.planned.proved or one.cancelled_state == "CANCELLED":
        return stopped
    return {"SUCCEEDED"} if one.cancelled_state else {"SUCCEEDED", *stopped}


# The sources. A service may still be restarting after the last fault, so each query is retried.


async def _ask(method: Callable[[Q], Awaitable[R]], request: Q) -> R:
    return await retry_until_answered(lambda: method(request))


async def _until_confirmed(channels: Channels) -> None:
    stub = ChainServiceStub(channels["bitcoin"])

    async def all_mined() -> bool:
        reply = await _ask(stub.GetMempool, chain_pb2.GetMempoolRequest())
        return not reply.entries

    await eventually(all_mined, within=CONFIRMED_WITHIN_S)


async def _read_blocks(
    channels: Channels, funded: FundedMesh
) -> tuple[dict[tuple[str, int], list[str]], set[str]]:
    """Returns the payments to shops, and the spends of payers' coins, from all raw blocks."""
    stub = ChainServiceStub(channels["bitcoin"])
    shops = {parse_address(shop, Network.REGTEST): shop for shop in funded.shops}
    payers = {parse_address(payer.addresses[0], Network.REGTEST) for payer in funded.payers}
    paid: dict[tuple[str, int], list[str]] = defaultdict(list)
    coins: set[bytes] = set()
    spends: set[str] = set()
    tip = (await _ask(stub.GetChainInfo, chain_pb2.GetChainInfoRequest())).height
    for height in range(1, tip + 1):
        block = await _ask(stub.GetBlock, chain_pb2.GetBlockRequest(height=height))
        for transaction in parse_block(block.raw).transactions:
            txid = transaction.txid[::-1].hex()
            if coins.intersection(transaction.prevouts):
                spends.add(txid)
            for vout, output in enumerate(transaction.outputs):
                if output.script_pubkey in payers:
                    coins.add(transaction.txid + vout.to_bytes(4, "little"))
                shop = shops.get(output.script_pubkey)
                if shop and _is_planned(output.amount_sat):
                    paid[shop, output.amount_sat].append(txid)
    return dict(paid), spends


async def _unspent(channels: Channels, funded: FundedMesh) -> Counter[tuple[str, int]]:
    stub = ChainServiceStub(channels["bitcoin"])
    found: Counter[tuple[str, int]] = Counter()
    for shop in funded.shops:
        request = chain_pb2.ListUtxosRequest(address=shop, page_size=1000)
        while True:
            reply = await _ask(stub.ListUtxos, request)
            found.update(
                (shop, utxo.amount_sat) for utxo in reply.utxos if _is_planned(utxo.amount_sat)
            )
            if not reply.next_page_token:
                break
            request.page_token = reply.next_page_token
    return found


def _is_planned(amount_sat: int) -> bool:
    """Returns whether an amount is one of the plan; earlier sales were of larger amounts."""
    return MIN_AMOUNT_SAT <= amount_sat < 2 * MIN_AMOUNT_SAT


async def _records(
    channels: Channels, funded: FundedMesh, tenants: set[str]
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for tenant in tenants:
        for payer in funded.payers:
            for entry in await query(channels, tenant, payer):
                payment_id = entry["descriptor"]["tags"]["paymentId"]
                found[payment_id].append(json.loads(jose.decode(entry["encodedData"])))
    return found


async def query(channels: Channels, tenant: str, payer: Identity) -> list[dict[str, Any]]:
    """Returns all payment records that the node returns to this payer."""
    signer = Signer(did.parse(payer.did), payer.holder.kid, payer.holder.key)
    wanted = {"protocol": PAYMENT_PROTOCOL, "recipient": payer.did}
    stub = RecordServiceStub(channels["web5"])
    entries: list[dict[str, Any]] = []
    pagination: dict[str, Any] = {"limit": 100}
    while True:
        message = records_query.create(wanted, datetime.now(UTC), signer, pagination=pagination)
        request = record_pb2.ProcessMessageRequest(target=tenant, message=message)
        reply = json.loads((await _ask(stub.ProcessMessage, request)).reply)
        if reply["status"]["code"] != OK:
            raise AssertionError(f"the node does not answer {payer.name}: {reply['status']}")
        entries += reply["entries"]
        if "cursor" not in reply:
            return entries
        pagination["cursor"] = reply["cursor"]


async def _payment_state(channels: Channels, payment_id: str) -> str:
    """Returns the payment's state in the bitcoin service, or an empty text if it is unknown."""
    stub = WalletServiceStub(channels["bitcoin"])
    try:
        request = wallet_pb2.GetPaymentRequest(payment_id=payment_id)
        reply = await _ask(stub.GetPayment, request)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return ""
        raise
    return state_word(reply.payment.state)


async def listed(channels: Channels) -> list[str]:
    """Returns the ids of all payment runs in the orchestrator's list."""
    stub = WorkflowServiceStub(channels["orchestrator"])
    found: list[str] = []
    for workflow_id in (payment_client.WORKFLOW, SINGLE_ATTEMPT):
        request = workflow_pb2.ListRunsRequest(workflow_id=workflow_id, page_size=500)
        while True:
            reply = await _ask(stub.ListRuns, request)
            found += [run.run_id for run in reply.runs]
            if not reply.next_page_token:
                break
            request.page_token = reply.next_page_token
    return found

"""WalletService over gRPC: parses requests, and formats replies. It has no rules of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from anya.bitcoin.v1 import wallet_pb2 as pb
from anya.bitcoin.v1.wallet_pb2_grpc import WalletServiceServicer
from formats.bitcoin.address import format_address
from mesh.errors import InvalidArgument
from mesh.rpc import paging
from mesh.rpc.interceptors import request_key, tracing, trust
from mesh.security.payment_intent import check_amount, parse_address, parse_payment_id
from services.bitcoin.descriptor import script_at
from services.bitcoin.payment import MAX_METADATA_BYTES, PaymentRequest, PaymentState
from services.bitcoin.servicers.intent import agreed_digest
from services.bitcoin.wallet import parse_name

if TYPE_CHECKING:
    from datetime import datetime

    from grpc.aio import ServicerContext

    from formats.bitcoin.network import Network
    from mesh.security.attestation import Verifier
    from services.bitcoin.keyring import Keyring
    from services.bitcoin.payment import Payment
    from services.bitcoin.payments import PaymentSender
    from services.bitcoin.store.payment import PaymentStore
    from services.bitcoin.store.wallet import WalletStore
    from services.bitcoin.wallet import OwnAddress, Wallet

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
WALLETS = "wallets"  # the query of page tokens

STATUSES = {
    PaymentState.PREPARED: pb.SEND_OUTCOME_UNKNOWN,
    PaymentState.BROADCAST: pb.SEND_OUTCOME_SUCCESS,
    PaymentState.UNCONFIRMED_MISSING: pb.SEND_OUTCOME_UNKNOWN,
    PaymentState.CONFIRMED: pb.SEND_OUTCOME_SUCCESS,
    PaymentState.SETTLED: pb.SEND_OUTCOME_SUCCESS,
    PaymentState.REJECTED: pb.SEND_OUTCOME_REJECTED,
    PaymentState.CONFLICTED: pb.SEND_OUTCOME_UNKNOWN,  # a reorganisation may undo it
}


class WalletServicer(WalletServiceServicer):
    def __init__(
        self,
        *,
        sender: PaymentSender,
        verifier: Verifier,
        keyring: Keyring,
        wallets: WalletStore,
        payments: PaymentStore,
        network: Network,
    ) -> None:
        self._sender = sender
        self._verifier = verifier
        self._keyring = keyring
        self._wallets = wallets
        self._payments = payments
        self._network = network

    async def CreateWallet(
        self,
        request: pb.CreateWalletRequest,
        context: ServicerContext[pb.CreateWalletRequest, pb.CreateWalletResponse],
    ) -> pb.CreateWalletResponse:
        name = parse_name(request.name)
        first = await self._wallets.create(
            request_key.current(), self._keyring.new_wallet(), name, reply=_format_created
        )
        return pb.CreateWalletResponse.FromString(first)

    async def ListWallets(
        self,
        request: pb.ListWalletsRequest,
        context: ServicerContext[pb.ListWalletsRequest, pb.ListWalletsResponse],
    ) -> pb.ListWalletsResponse:
        limit = paging.page_size(
            request.page_size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE
        )
        after = paging.read_token(request.page_token, WALLETS, str)
        found = await self._wallets.list(after=after[0] if after else "", limit=limit + 1)
        page, next_token = paging.cut(found, limit, WALLETS, lambda wallet: wallet.id)
        return pb.ListWalletsResponse(
            wallets=[_format_wallet(wallet) for wallet in page], next_page_token=next_token
        )

    async def DeriveAddress(
        self,
        request: pb.DeriveAddressRequest,
        context: ServicerContext[pb.DeriveAddressRequest, pb.DeriveAddressResponse],
    ) -> pb.DeriveAddressResponse:
        first = await self._wallets.reveal(
            request_key.current(),
            request.wallet_id,
            derive=lambda descriptor, index: script_at(descriptor, self._network, index),
            reply=self._format_address,
        )
        return pb.DeriveAddressResponse.FromString(first)

    async def GetBalance(
        self,
        request: pb.GetBalanceRequest,
        context: ServicerContext[pb.GetBalanceRequest, pb.GetBalanceResponse],
    ) -> pb.GetBalanceResponse:
        script = parse_address(request.address, self._network) if request.address else None
        balance = await self._wallets.balance(request.wallet_id, script=script)
        return pb.GetBalanceResponse(
            confirmed_sat=balance.confirmed_sat,
            immature_sat=balance.immature_sat,
            reserved_sat=balance.reserved_sat,
            spendable_sat=balance.spendable_sat,
        )

    async def SendPayment(
        self,
        request: pb.SendPaymentRequest,
        context: ServicerContext[pb.SendPaymentRequest, pb.SendPaymentResponse],
    ) -> pb.SendPaymentResponse:
        payment = await self._sender.send(
            request_key.current(),
            _parse_payment(request, self._network),
            trust.current_bounds(),
            partial(self._verifier.require, request.context.attestations),
            reply=lambda payment: _format_sent(payment).SerializeToString(),
        )
        # The stored reply only names the payment; the caller gets its current state.
        return _format_sent(payment)

    async def GetPayment(
        self,
        request: pb.GetPaymentRequest,
        context: ServicerContext[pb.GetPaymentRequest, pb.GetPaymentResponse],
    ) -> pb.GetPaymentResponse:
        payment_id = parse_payment_id(request.payment_id, field="payment_id")
        payment = await self._payments.get(payment_id)
        return pb.GetPaymentResponse(payment=_format_payment(payment))

    async def CancelPayment(
        self,
        request: pb.CancelPaymentRequest,
        context: ServicerContext[pb.CancelPaymentRequest, pb.CancelPaymentResponse],
    ) -> pb.CancelPaymentResponse:
        payment_id = parse_payment_id(request.payment_id, field="payment_id")
        payment = await self._payments.cancel(payment_id)
        return pb.CancelPaymentResponse(payment=_format_payment(payment))

    def _format_address(self, own: OwnAddress) -> bytes:
        address = format_address(own.script_pubkey, self._network)
        reply = pb.DeriveAddressResponse(address=address or "", index=own.index)
        return reply.SerializeToString()


def _parse_payment(request: pb.SendPaymentRequest, network: Network) -> PaymentRequest:
    to_script = parse_address(request.to_address, network, field="to_address")
    check_amount(request.amount_sat, to_script)
    if request.max_fee_sat < 0:
        raise InvalidArgument("max_fee_sat must not be negative", field="max_fee_sat")
    metadata = request.metadata.SerializeToString(deterministic=True)
    if len(metadata) > MAX_METADATA_BYTES:
        raise InvalidArgument(f"metadata exceeds {MAX_METADATA_BYTES} bytes", field="metadata")
    return PaymentRequest(
        payment_id=parse_payment_id(request.request_id, field="request_id"),
        sender_did=request.context.intent.sender_did,
        from_address=request.from_address,
        from_script=parse_address(request.from_address, network, field="from_address"),
        to_address=request.to_address,
        to_script=to_script,
        amount_sat=request.amount_sat,
        max_fee_sat=request.max_fee_sat,
        metadata=metadata,
        digest=agreed_digest(
            request.context,
            network=str(network),
            payment_id=request.request_id,
            sender_address=request.from_address,
            recipient_address=request.to_address,
            amount_sat=request.amount_sat,
        ),
        traceparent=tracing.current_traceparent(),
    )


def _format_created(wallet: Wallet) -> bytes:
    return pb.CreateWalletResponse(wallet=_format_wallet(wallet)).SerializeToString()


def _format_wallet(wallet: Wallet) -> pb.Wallet:
    return pb.Wallet(
        wallet_id=wallet.id,
        name=wallet.name,
        descriptor=wallet.descriptor,
        create_time=_timestamp(wallet.created),
    )


def _format_sent(payment: Payment) -> pb.SendPaymentResponse:
    return pb.SendPaymentResponse(
        payment_id=payment.payment_id,
        txid=payment.txid or b"",
        status=STATUSES[payment.state],
        fee_sat=payment.fee_sat,
    )


def _format_payment(payment: Payment) -> pb.Payment:
    return pb.Payment(
        payment_id=payment.payment_id,
        state=pb.PaymentState.Value(f"PAYMENT_STATE_{payment.state.name}"),
        txid=payment.txid or b"",
        from_address=payment.from_address,
        to_address=payment.to_address,
        amount_sat=payment.amount_sat,
        fee_sat=payment.fee_sat,
        confirmations=payment.confirmations,
        create_time=_timestamp(payment.created),
    )


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp

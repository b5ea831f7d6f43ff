"""PaymentService over gRPC: parses requests, asks the store and bitcoin, formats replies."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from anya.bitcoin.v1 import wallet_pb2
from anya.orchestrator.v1 import payment_pb2 as pb
from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceServicer
from anya.orchestrator.v1.workflow_pb2 import RUN_STATUS_NEEDS_ATTENTION, RUN_STATUS_SUCCEEDED
from mesh.data.idempotency import IdempotencyKey
from mesh.errors import FailedPrecondition, NotFound, Reason, Unavailable
from mesh.rpc.interceptors import request_key, trust
from mesh.security.payment_intent import parse_payment_id
from services.orchestrator import notifications
from services.orchestrator.engine import request_checks
from services.orchestrator.engine.fold import evolve
from services.orchestrator.engine.model import RunState, StepError
from services.orchestrator.engine.start import StartRun
from services.orchestrator.peers.wallet import PaymentAnswer
from services.orchestrator.servicers import views, waits
from services.orchestrator.servicers.workflow import start_run
from services.orchestrator.store.stored_run import require_readable
from services.orchestrator.worker.run_spans import trace_id_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Iterator
    from typing import Any

    from grpc.aio import ServicerContext

    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.peers.wallet import WalletPeer
    from services.orchestrator.store.commits import NewRun
    from services.orchestrator.store.run_store import RunStore
    from services.orchestrator.store.stored_run import StoredRun
    from services.orchestrator.worker.worker import Worker

WORKFLOW = "verified_payment"
CANCEL = "/anya.orchestrator.v1.PaymentService/CancelPayment"
POLL_INTERVAL_S = 0.5  # between a watch's questions to bitcoin, if the run does not change
ANSWER_TIMEOUT_S = 2.0  # for bitcoin's answer on a payment

# Final states of a payment.
FINAL_STATES = frozenset(
    {
        wallet_pb2.PAYMENT_STATE_SETTLED,
        wallet_pb2.PAYMENT_STATE_REJECTED,
        wallet_pb2.PAYMENT_STATE_CANCELLED,
    }
)
# Final statuses of a run whose payment bitcoin may have.
MAY_BE_SIGNED = (RUN_STATUS_SUCCEEDED, RUN_STATUS_NEEDS_ATTENTION)


class PaymentServicer(PaymentServiceServicer):
    def __init__(
        self, store: RunStore, worker: Worker, wallet: WalletPeer, notifier: RunNotifier
    ) -> None:
        self._store = store
        self._worker = worker
        self._wallet = wallet
        self._notifier = notifier

    async def SendVerifiedPayment(
        self,
        request: pb.SendVerifiedPaymentRequest,
        context: ServicerContext[pb.SendVerifiedPaymentRequest, pb.SendVerifiedPaymentResponse],
    ) -> pb.SendVerifiedPaymentResponse:
        seconds = waits.read_wait(request.wait)
        work = start_run(self._worker, WORKFLOW, _parse(request), reply=_format_sent)
        if not seconds:
            return pb.SendVerifiedPaymentResponse.FromString(await work)
        run_id = request.request_id
        with self._notifier.await_end(run_id) as completion:
            sent = pb.SendVerifiedPaymentResponse.FromString(await work)
            state = await waits.end_of(run_id, completion, self._store, self._worker, seconds)
        if state is None:
            sent.payment.CopyFrom(_format_stored(run_id, await self._store.load(run_id)))
        else:
            sent.payment.CopyFrom(views.format_payment(state, run_id, sent.trace_id))
        sent.run_status = sent.payment.run_status
        return sent

    async def GetPayment(
        self,
        request: pb.GetPaymentRequest,
        context: ServicerContext[pb.GetPaymentRequest, pb.GetPaymentResponse],
    ) -> pb.GetPaymentResponse:
        payment_id = request.payment_id
        parse_payment_id(payment_id, field="payment_id")
        stored = await self._find(payment_id)
        answer = await self._ask(payment_id, context)
        if stored is None and isinstance(answer, StepError):
            why = answer.reason or answer.code  # its message may hold personal data
            raise Unavailable(
                f"no run makes payment {payment_id}, and bitcoin does not answer: {why}",
                reason=Reason.PEER_UNAVAILABLE,
            )
        if stored is None and answer is None:
            raise _unknown(payment_id)
        return pb.GetPaymentResponse(payment=_format(payment_id, stored, answer))

    async def WatchPayment(
        self,
        request: pb.WatchPaymentRequest,
        context: ServicerContext[pb.WatchPaymentRequest, pb.WatchPaymentResponse],
    ) -> AsyncIterator[pb.WatchPaymentResponse]:
        payment_id, seen = request.payment_id, request.after_sequence
        parse_payment_id(payment_id, field="payment_id")
        run_id = await self._store.payments.run_of(payment_id)
        state = RunState(run_id)
        answers = PaymentAnswer(self._wallet, payment_id, fresh_for_s=POLL_INTERVAL_S)
        last: pb.Payment | None = None
        with self._changes(run_id, end_only=request.end_only) as changed:
            while True:
                changed.clear()
                stored = await self._store.load_after(run_id, sequence=state.sequence)
                trace_id = trace_id_of(stored.row.traceparent)
                for record in stored.records:
                    evolve(state, record)
                    is_newest = record is stored.records[-1]
                    if record.sequence > seen and not is_newest and not request.end_only:
                        payment = views.format_payment(state, payment_id, trace_id)
                        yield pb.WatchPaymentResponse(sequence=record.sequence, payment=payment)
                _check_pays(state, payment_id)
                require_readable(stored.row, state)
                seen = max(seen, state.sequence)
                if state.finished or not request.end_only:
                    payment = views.format_payment(state, payment_id, trace_id)
                    answer = await answers.for_state(state, timeout=_answer_timeout_s(context))
                    views.add_answer(payment, answer)
                    is_last = state.finished and _is_complete(payment, request.confirmations)
                    if payment != last and (is_last or not request.end_only):
                        yield pb.WatchPaymentResponse(sequence=state.sequence, payment=payment)
                        last = payment
                    if is_last:
                        return
                await notifications.wait(changed, timeout=POLL_INTERVAL_S)

    async def CancelPayment(
        self,
        request: pb.CancelPaymentRequest,
        context: ServicerContext[pb.CancelPaymentRequest, pb.CancelPaymentResponse],
    ) -> pb.CancelPaymentResponse:
        payment_id = request.payment_id
        parse_payment_id(payment_id, field="payment_id")
        stored = await self._find(payment_id)
        answer = await self._wallet.cancel(payment_id)
        is_cancelled = answer.state == wallet_pb2.PAYMENT_STATE_CANCELLED
        if stored is not None:
            run_id = stored.row.id
            if is_cancelled and not stored.state.finished and run_id == payment_id:
                await self._end_run(payment_id)
            self._notifier.notify(run_id)
        stored = await self._find(payment_id)
        return pb.CancelPaymentResponse(payment=_format(payment_id, stored, answer))

    async def _end_run(self, payment_id: str) -> None:
        """Cancels the run, as CancelRun does, before it tries to make the payment."""
        caller = trust.current_caller()
        key = IdempotencyKey(caller, CANCEL, payment_id, b"")
        with suppress(FailedPrecondition):  # it has ended
            cancel = request_checks.cancel("its payment was cancelled", caller)
            await self._worker.inbox.send(key, payment_id, cancel)

    @contextmanager
    def _changes(self, run_id: str, *, end_only: bool) -> Iterator[asyncio.Event]:
        """Yields an event that is set when the run changes, or only when it ends."""
        if end_only:
            with self._notifier.await_end(run_id) as completion:
                yield completion.changed
        else:
            with self._notifier.watch(run_id) as updates:
                yield updates

    async def _find(self, payment_id: str) -> StoredRun | None:
        """Returns the run of the payment, or None. Raises NotFound if the run makes no payment."""
        try:
            stored = await self._store.load(await self._store.payments.run_of(payment_id))
        except NotFound:
            return None
        _check_pays(stored.state, payment_id)
        return stored

    async def _ask(
        self, payment_id: str, context: ServicerContext[Any, Any]
    ) -> wallet_pb2.Payment | StepError | None:
        """Returns bitcoin's answer, or the error of the call, before the caller's deadline."""
        return await self._wallet.find(payment_id, timeout=_answer_timeout_s(context))


def _parse(request: pb.SendVerifiedPaymentRequest) -> StartRun:
    intent = request.intent
    return StartRun(
        run_id=request.request_id,
        input={
            "sender_did": intent.sender_did,
            "sender_address": intent.sender_address,
            "recipient_address": intent.recipient_address,
            "amount": intent.amount_sat,
        },
        intent=intent if request.HasField("intent") else None,
        presentation=request.presentation,
        started_by=request_key.current().caller,
    )


def _format_sent(new: NewRun) -> bytes:
    return pb.SendVerifiedPaymentResponse(
        payment_id=new.state.run_id,
        run_status=views.run_status(new.state.status),
        trace_id=trace_id_of(new.traceparent),
    ).SerializeToString()


def _format_stored(payment_id: str, stored: StoredRun) -> pb.Payment:
    trace_id = trace_id_of(stored.row.traceparent)
    return views.format_payment(stored.state, payment_id, trace_id)


def _format(
    payment_id: str, stored: StoredRun | None, answer: wallet_pb2.Payment | StepError | None
) -> pb.Payment:
    payment = pb.Payment(payment_id=payment_id)
    if stored is not None:
        payment = _format_stored(payment_id, stored)
    return views.add_answer(payment, answer)


def _check_pays(state: RunState, payment_id: str) -> None:
    if views.intent_of(state, payment_id) is not None:
        return
    message = f"run {state.run_id} makes no payment"
    if state.payments:
        message = f"run {state.run_id} makes several payments: use one of their payment ids"
    raise NotFound(message, field="payment_id")


def _answer_timeout_s(context: ServicerContext[Any, Any]) -> float:
    return min(ANSWER_TIMEOUT_S, (context.time_remaining() or ANSWER_TIMEOUT_S) / 2)


def _is_complete(payment: pb.Payment, confirmations: int) -> bool:
    """Checks if the payment of an ended run has what its watcher waits for, or never will."""
    match payment.bitcoin_answer:
        case _ if not confirmations:
            return True
        case pb.BITCOIN_ANSWER_UNAVAILABLE:
            return payment.run_status not in MAY_BE_SIGNED
        case pb.BITCOIN_ANSWER_NOT_FOUND:
            return True
        case _:
            return payment.state in FINAL_STATES or payment.confirmations >= confirmations


def _unknown(payment_id: str) -> NotFound:
    return NotFound(f"no payment {payment_id!r}", field="payment_id")

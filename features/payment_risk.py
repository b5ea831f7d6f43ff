"""The feature set ``payment-risk``: what is known of a proposed payment before it is signed.

The payment goes from the addresses S linked to a sender's DID to a recipient address r, for an
amount a, judged as of block h. Every feature is a pure function of what was confirmed at or below
h: no clock, no mempool, no fee. Amounts are satoshi until a ratio or ``log1p`` of BTC, in float64.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from math import log, log1p
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from features.feature import Definition, Feature, FeatureSet, Status
from formats.money import SAT_PER_BTC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from features.history import AddressHistory, Receipt, Spend

ROUND_SAT = 1_000_000  # an amount that is a multiple of 0.01 BTC
DAY_BLOCKS = 144
LINK_AGE_CAP_BLOCKS = 4_032  # four weeks; older links are all alike

CHAIN_MAX_AGE_BLOCKS = 6
LINK_MAX_AGE_BLOCKS = 144

T = TypeVar("T")

# A measure without a value says NO_HISTORY.
Measures = Iterator[tuple[str, float | None]]


@dataclass(frozen=True, slots=True)
class RecipientLink:
    """What web5 knows of the recipient's public link credential; no height: r is not linked."""

    height: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFacts:
    """What the features are computed from; None where the source could not be asked."""

    height: int  # h: the confirmed tip
    amount_sat: int
    recipient: AddressHistory | None
    sender: tuple[AddressHistory, ...] | None  # one for each address of S
    sender_link_heights: tuple[int, ...] | None  # when the addresses of S were linked
    recipient_link: RecipientLink | None
    links_height: int | None = None  # the tip when the links were read; None: h


def _chain(name: str, formula: str) -> Definition:
    return Definition(name=name, formula=formula, max_age_blocks=CHAIN_MAX_AGE_BLOCKS)


def _link(name: str, formula: str, *, required: bool) -> Definition:
    return Definition(
        name=name, formula=formula, max_age_blocks=LINK_MAX_AGE_BLOCKS, required=required
    )


RECIPIENT = (
    _chain("recipient_seen", "1 if r has a receipt, else 0"),
    _chain("recipient_age_blocks", "h - height of the first receipt of r"),
    _chain("recipient_receipts", "receipts of r"),
    _chain("recipient_transactions", "distinct transactions that pay r or spend from r"),
    _chain("recipient_funders", "distinct scripts other than r that funded its receipts"),
    _chain("recipient_funders_per_receipt", "recipient_funders / recipient_receipts"),
    _chain("recipient_received_log_btc", "ln(1 + BTC ever received by r)"),
    _chain("recipient_held_share", "unspent amount of r / amount ever received by r"),
    _chain("recipient_dwell_blocks", "median over receipts of r of (spend height or h) - height"),
    _chain("recipient_round_share", "share of receipts of r whose sat amount divides by 10^6"),
    _chain("recipient_receipts_144", "receipts of r above height h - 144"),
    _chain("recipient_idle_blocks", "h - height of the last receipt of r"),
    _chain("recipient_destinations", "distinct scripts other than r paid by spends from r"),
    _chain("amount_to_recipient_mean_log", "ln(a / mean receipt of r)"),
)
SENDER = (
    _chain("sender_age_blocks", "h - height of the first receipt of S"),
    _chain("sender_payments", "distinct transactions that spend from S and pay outside S"),
    _chain("sender_payments_144", "those above height h - 144"),
    _chain("amount_to_sender_balance", "a / unspent amount of S"),
    _chain(
        "amount_to_sender_median_log",
        "ln(a / median over sender_payments of min(paid outside S, spent from S - paid back to S))",
    ),
    _chain("sender_fresh_share", "share of the unspent amount of S received above h - 144"),
    _link("sender_link_age_blocks", "min(h - height of the newest link of S, 4032)", required=True),
)
PAIR = (
    _chain("pair_payments", "distinct transactions that pay r and were funded from S"),
    _chain("pair_idle_blocks", "h - height of the last of them"),
    _link("recipient_linked", "1 if r is publicly linked to a DID, else 0", required=False),
    _link("recipient_link_age_blocks", "min(h - height of that link, 4032)", required=False),
)
PAYMENT = (
    _chain("amount_log_btc", "ln(1 + a in BTC)"),
    _chain("amount_round", "1 if a in sat divides by 10^6, else 0"),
)
PAYMENT_RISK = FeatureSet("payment-risk", (*RECIPIENT, *SENDER, *PAIR, *PAYMENT))


class Measured:
    """What was measured of histories, for the other payments of the same block.

    A history is known again as the same object, not by what is in it.
    """

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._known: OrderedDict[tuple[object, ...], tuple[object, Any]] = OrderedDict()

    def once(
        self,
        measure: Callable[..., T],
        subject: AddressHistory | tuple[AddressHistory, ...],
        *others: object,
    ) -> T:
        """What ``measure`` makes of the subject and the others."""
        histories = subject if isinstance(subject, tuple) else (subject,)
        key = (measure, *map(id, histories), *others)
        known = self._known.get(key)
        if known is None:
            # The histories stay with it: as long as they live, nobody else has their ids.
            known = self._known[key] = histories, measure(subject, *others)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        result: T = known[1]
        return result


def extract(facts: PaymentFacts, measured: Measured | None = None) -> tuple[Feature, ...]:
    """The features of ``PAYMENT_RISK``, in its order, in time linear in the histories.

    What was confirmed above ``facts.height`` changes nothing; neither does the order of receipts.
    Histories that ``measured`` has seen at this height are not gone through again.
    Raises ValueError if the amount is not positive.
    """
    if facts.amount_sat <= 0:
        raise ValueError(f"the amount must be positive, not {facts.amount_sat} sat")
    once = (measured or Measured()).once
    found: dict[str, float | None] = dict(_payment(facts.amount_sat))
    if facts.recipient is not None:
        recipient = once(_recipient, facts.recipient, facts.height)
        found.update(recipient.measures, **_beside_recipient(recipient, facts.amount_sat))
        if facts.sender is not None:
            own = frozenset(history.script for history in facts.sender)
            found.update(once(_pair, facts.recipient, own, facts.height))
    if facts.sender is not None:
        sender = once(_sender, facts.sender, facts.height)
        found.update(sender.measures, **_beside_sender(sender, facts.amount_sat))
    links_age = 0 if facts.links_height is None else facts.height - facts.links_height
    links = dict(_links(facts))
    aged = PAYMENT_RISK.age(
        [_feature(definition, links) for definition in PAYMENT_RISK.definitions], links_age
    )
    return tuple(
        old if definition.name in links else _feature(definition, found)
        for definition, old in zip(PAYMENT_RISK.definitions, aged, strict=True)
    )


def _feature(definition: Definition, measured: Mapping[str, float | None]) -> Feature:
    if definition.name not in measured:
        return definition.missing()
    value = measured[definition.name]
    if value is None:
        return definition.missing(Status.NO_HISTORY)
    return Feature(definition.name, float(value), Status.PRESENT)


@dataclass(frozen=True, slots=True)
class _Recipient:
    """What is known of r, whatever it is paid now."""

    measures: Mapping[str, float | None]
    receipts: int
    received_sat: int


@dataclass(frozen=True, slots=True)
class _Sender:
    """What is known of S, whatever it pays now."""

    measures: Mapping[str, float | None]
    balance_sat: int
    typical_sat: float | None


def _recipient(history: AddressHistory, h: int) -> _Recipient:
    r = history.at(h)
    received = sum(receipt.amount_sat for receipt in r.receipts)
    return _Recipient(dict(_of_recipient(r, received, h)), len(r.receipts), received)


def _beside_recipient(r: _Recipient, amount_sat: int) -> dict[str, float | None]:
    mean = log(amount_sat * r.receipts / r.received_sat) if r.received_sat else None
    return {"amount_to_recipient_mean_log": mean}


def _of_recipient(r: AddressHistory, received: int, h: int) -> Measures:
    receipts = r.receipts
    heights = [receipt.height for receipt in receipts]
    spends = _spends(receipts)
    funders = {script for receipt in receipts for script in receipt.funders} - {r.script}
    paid = {output.script for spend in spends.values() for output in spend.outputs} - {r.script}

    yield "recipient_seen", bool(receipts)
    yield "recipient_age_blocks", h - min(heights) if receipts else None
    yield "recipient_receipts", len(receipts)
    yield (
        "recipient_transactions",
        len({receipt.txid for receipt in receipts} | spends.keys()),
    )
    yield "recipient_funders", len(funders)
    yield "recipient_funders_per_receipt", len(funders) / len(receipts) if receipts else None
    yield "recipient_received_log_btc", log1p(received / SAT_PER_BTC)
    yield "recipient_held_share", _unspent(receipts) / received if received else None
    yield "recipient_dwell_blocks", _median([_dwell(receipt, h) for receipt in receipts])
    yield "recipient_round_share", _round_share(receipts)
    yield "recipient_receipts_144", sum(height > h - DAY_BLOCKS for height in heights)
    yield "recipient_idle_blocks", h - max(heights) if receipts else None
    yield "recipient_destinations", len(paid)


def _sender(histories: tuple[AddressHistory, ...], h: int) -> _Sender:
    s = tuple(history.at(h) for history in histories)
    own = frozenset(history.script for history in s)
    receipts = [receipt for history in s for receipt in history.receipts]
    balance = _unspent(receipts)
    spends = _spends(receipts)
    payments = _payments(receipts, spends, own)
    measures = dict(_of_sender(receipts, balance, [spends[txid].height for txid in payments], h))
    return _Sender(measures, balance, _median(list(payments.values())))


def _beside_sender(s: _Sender, amount_sat: int) -> dict[str, float | None]:
    return {
        "amount_to_sender_balance": amount_sat / s.balance_sat if s.balance_sat else None,
        "amount_to_sender_median_log": log(amount_sat / s.typical_sat) if s.typical_sat else None,
    }


def _of_sender(receipts: list[Receipt], balance: int, paid: list[int], h: int) -> Measures:
    """``paid``: the heights of its payments."""
    fresh = _unspent([receipt for receipt in receipts if receipt.height > h - DAY_BLOCKS])

    yield "sender_age_blocks", h - min(r.height for r in receipts) if receipts else None
    yield "sender_payments", len(paid)
    yield "sender_payments_144", sum(height > h - DAY_BLOCKS for height in paid)
    yield "sender_fresh_share", fresh / balance if balance else None


def _pair(history: AddressHistory, own: frozenset[bytes], h: int) -> dict[str, float | None]:
    receipts = history.at(h).receipts
    paid = {receipt.txid: receipt.height for receipt in receipts if receipt.funders & own}
    return {
        "pair_payments": len(paid),
        "pair_idle_blocks": h - max(paid.values()) if paid else None,
    }


def _links(facts: PaymentFacts) -> Measures:
    h = facts.height
    if facts.sender_link_heights is not None:
        past = [height for height in facts.sender_link_heights if height <= h]
        yield "sender_link_age_blocks", min(h - max(past), LINK_AGE_CAP_BLOCKS) if past else None
    if facts.recipient_link is not None:
        since = facts.recipient_link.height
        linked = since is not None and since <= h
        yield "recipient_linked", linked
        yield (
            "recipient_link_age_blocks",
            min(h - since, LINK_AGE_CAP_BLOCKS) if since is not None and linked else None,
        )


def _payment(amount_sat: int) -> Measures:
    yield "amount_log_btc", log1p(amount_sat / SAT_PER_BTC)
    yield "amount_round", amount_sat % ROUND_SAT == 0


def _payments(
    receipts: Iterable[Receipt], spends: Mapping[bytes, Spend], own: frozenset[bytes]
) -> dict[bytes, int]:
    """What left S, in sat, by each transaction that spends from S and pays somebody outside it."""
    put_in = dict.fromkeys(spends, 0)
    for receipt in receipts:
        if receipt.spend:
            put_in[receipt.spend.txid] += receipt.amount_sat
    payments = {}
    for txid, spend in spends.items():
        outside = sum(output.amount_sat for output in spend.outputs if output.script not in own)
        back = sum(output.amount_sat for output in spend.outputs if output.script in own)
        if outside:
            # Of a transaction shared with strangers most is not paid by S, and where S takes out
            # more than it puts in, nothing left it.
            payments[txid] = max(0, min(outside, put_in[txid] - back))
    return payments


def _spends(receipts: Iterable[Receipt]) -> dict[bytes, Spend]:
    return {receipt.spend.txid: receipt.spend for receipt in receipts if receipt.spend}


def _unspent(receipts: Iterable[Receipt]) -> int:
    return sum(receipt.amount_sat for receipt in receipts if receipt.spend is None)


def _dwell(receipt: Receipt, h: int) -> int:
    return (receipt.spend.height if receipt.spend else h) - receipt.height


def _round_share(receipts: tuple[Receipt, ...]) -> float | None:
    if not receipts:
        return None
    return sum(receipt.amount_sat % ROUND_SAT == 0 for receipt in receipts) / len(receipts)


def _median(values: list[int]) -> float | None:
    return median(values) if values else None

"""The feature set ``payment-risk``, of a proposed payment before it is signed.

The payment goes from the addresses S linked to a sender's DID to a recipient address r, for an
amount a, as of block h. Every feature is a pure function of the chain up to h: no clock, no
mempool, no fee. Amounts are satoshis, as integers, before a ratio or ``log1p`` of BTC in float64.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from math import log, log1p
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from features.feature import Definition, FeatureSet
from formats.money import SAT_PER_BTC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from features.feature import Feature
    from features.history import AddressHistory, Receipt, Spend

ROUND_SAT = 1_000_000  # an amount that is a multiple of 0.01 BTC
DAY_BLOCKS = 144
LINK_AGE_CAP_BLOCKS = 4_032  # four weeks; an older link has the same age

CHAIN_MAX_AGE_BLOCKS = 6
LINK_MAX_AGE_BLOCKS = 144

T = TypeVar("T")

# A measure of None stands for NO_HISTORY.
Measures = Iterator[tuple[str, float | None]]


@dataclass(frozen=True, slots=True)
class RecipientLink:
    """web5's record of the recipient's public link credential."""

    height: int | None  # None: r is not linked


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFacts:
    """The input of the features; None where a source was not read."""

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


class MeasureCache:
    """Measures of histories, reused by later payments of the same block.

    The key of a history is its identity as an object, not its content.
    """

    def __init__(self, max_size: int = 1024) -> None:
        self._max_size = max_size
        self._cache: OrderedDict[tuple[object, ...], tuple[object, Any]] = OrderedDict()

    def get(
        self,
        measure: Callable[..., T],
        subject: AddressHistory | tuple[AddressHistory, ...],
        *others: object,
    ) -> T:
        """Returns ``measure(subject, *others)``, computed once for the same objects."""
        histories = subject if isinstance(subject, tuple) else (subject,)
        key = (measure, *map(id, histories), *others)
        cached = self._cache.get(key)
        if cached is None:
            # The entry keeps the histories alive, so that no other object takes their ids.
            cached = self._cache[key] = histories, measure(subject, *others)
            if len(self._cache) > self._max_size:
                self._cache.popitem(last=False)
        result: T = cached[1]
        return result


def extract(facts: PaymentFacts, cache: MeasureCache | None = None) -> tuple[Feature, ...]:
    """Returns the features of ``PAYMENT_RISK``, in its order, in time linear in the histories.

    Blocks above ``facts.height`` and the order of receipts have no influence. Histories that
    ``cache`` has measured at this height are not read again. Raises ValueError if the amount is
    not positive.
    """
    if facts.amount_sat <= 0:
        raise ValueError(f"the amount must be positive, not {facts.amount_sat} sat")
    measured = (cache or MeasureCache()).get
    found: dict[str, float | None] = dict(_payment(facts.amount_sat))
    if facts.recipient is not None:
        recipient = measured(_recipient, facts.recipient, facts.height)
        found.update(recipient.measures, **_recipient_ratios(recipient, facts.amount_sat))
        if facts.sender is not None:
            own = frozenset(history.script for history in facts.sender)
            found.update(measured(_pair, facts.recipient, own, facts.height))
    if facts.sender is not None:
        sender = measured(_sender, facts.sender, facts.height)
        found.update(sender.measures, **_sender_ratios(sender, facts.amount_sat))
    links_age = 0 if facts.links_height is None else facts.height - facts.links_height
    links = dict(_links(facts))
    aged = PAYMENT_RISK.age(
        [definition.feature(links) for definition in PAYMENT_RISK.definitions], links_age
    )
    return tuple(
        old if definition.name in links else definition.feature(found)
        for definition, old in zip(PAYMENT_RISK.definitions, aged, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Recipient:
    """Measures of r that do not depend on the amount."""

    measures: Mapping[str, float | None]
    receipts: int
    received_sat: int


@dataclass(frozen=True, slots=True)
class _Sender:
    """Measures of S that do not depend on the amount."""

    measures: Mapping[str, float | None]
    balance_sat: int
    typical_sat: float | None


def _recipient(history: AddressHistory, h: int) -> _Recipient:
    r = history.at(h)
    received = sum(receipt.amount_sat for receipt in r.receipts)
    return _Recipient(dict(_of_recipient(r, received, h)), len(r.receipts), received)


def _recipient_ratios(r: _Recipient, amount_sat: int) -> dict[str, float | None]:
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


def _sender_ratios(s: _Sender, amount_sat: int) -> dict[str, float | None]:
    return {
        "amount_to_sender_balance": amount_sat / s.balance_sat if s.balance_sat else None,
        "amount_to_sender_median_log": log(amount_sat / s.typical_sat) if s.typical_sat else None,
    }


def _of_sender(receipts: list[Receipt], balance: int, paid: list[int], h: int) -> Measures:
    """Yields measures of S; ``paid`` has the heights of its payments."""
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
    """Returns the satoshis that left S by each transaction that pays a script outside S."""
    spent_sat = dict.fromkeys(spends, 0)
    for receipt in receipts:
        if receipt.spend:
            spent_sat[receipt.spend.txid] += receipt.amount_sat
    payments = {}
    for txid, spend in spends.items():
        outside = sum(output.amount_sat for output in spend.outputs if output.script not in own)
        back = sum(output.amount_sat for output in spend.outputs if output.script in own)
        if outside:
            # A transaction with other senders pays more than S does; if S receives more than it
            # spends there, S pays nothing.
            payments[txid] = max(0, min(outside, spent_sat[txid] - back))
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

"""The samples of training and measurement: payment proposals of simulated worlds, with labels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from features.payment_risk import PAYMENT_RISK, extract
from services.ml.simulation.index import proposals
from services.ml.simulation.population import training_world
from services.ml.simulation.truth import ActorKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    import numpy.typing as npt

    from services.ml.simulation.index import AddressIndex
    from services.ml.simulation.truth import Payment

WARM_UP_PAYMENTS = 200  # left out, because the first addresses of a world have no history
SWAP_EVERY = 4  # one payment of so many is also proposed to other recipients
COLLECTORS = (ActorKind.SCAM, ActorKind.MULE)


class ProposalSource(IntEnum):
    """The origin of a proposal."""

    MADE = 0  # a payment that the simulator made
    SWAPPED_LICIT = 1  # the same payment, proposed to a licit recipient seen before
    SWAPPED_ILLICIT = 2  # the same payment, proposed to a scam or mule seen before


@dataclass(frozen=True, slots=True)
class Rows:
    """Samples as aligned columns [n], one entry per proposal."""

    x: npt.NDArray[np.float32]  # [n, features]
    fraud: npt.NDArray[np.bool_]
    source: npt.NDArray[np.int8]
    typology: npt.NDArray[np.str_]
    world: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.fraud)

    def where(self, mask: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Rows:
        return Rows(
            self.x[mask],
            self.fraud[mask],
            self.source[mask],
            self.typology[mask],
            self.world[mask],
        )

    @property
    def made(self) -> Rows:
        return self.where(self.source == ProposalSource.MADE)

    def column(self, name: str) -> npt.NDArray[np.float32]:
        column: npt.NDArray[np.float32] = self.x[:, PAYMENT_RISK.names.index(name)]
        return column


def build(seeds: Sequence[int], pool: Executor) -> Rows:
    """Returns the rows of the seeds' worlds, in order of the seeds."""
    worlds = list(pool.map(world_rows, seeds))
    return Rows(
        np.concatenate([rows.x for rows in worlds]),
        np.concatenate([rows.fraud for rows in worlds]),
        np.concatenate([rows.source for rows in worlds]),
        np.concatenate([rows.typology for rows in worlds]),
        np.concatenate([rows.world for rows in worlds]),
    )


def world_rows(seed: int) -> Rows:
    """Returns the proposals of one world after its warm-up, some also with another recipient."""
    rng = Random(seed)  # noqa: S311
    known: dict[ProposalSource, dict[int, ActorKind]] = {
        ProposalSource.SWAPPED_LICIT: {},
        ProposalSource.SWAPPED_ILLICIT: {},
    }
    table: list[tuple[npt.NDArray[np.float32], bool, ProposalSource, str]] = []
    world = training_world(seed)
    for number, (payment, index) in enumerate(proposals(world)):
        if number >= WARM_UP_PAYMENTS:
            table.append(
                (_vector(index, payment), payment.fraud, ProposalSource.MADE, payment.typology)
            )
            if number % SWAP_EVERY == 0 and not payment.stolen:
                for source, recipients in known.items():
                    slot = _other(rng, recipients, payment.recipient_slot)
                    if slot is not None:
                        vector = _vector(index, payment, slot, world.truth.links.get(slot))
                        kind = recipients[slot]
                        table.append((vector, kind.illicit, source, kind.value))
        if payment.recipient in COLLECTORS:
            known[ProposalSource.SWAPPED_ILLICIT][payment.recipient_slot] = payment.recipient
        elif not payment.recipient.illicit:
            known[ProposalSource.SWAPPED_LICIT][payment.recipient_slot] = payment.recipient
    return Rows(
        np.stack([row[0] for row in table]),
        np.array([row[1] for row in table]),
        np.array([row[2] for row in table], dtype=np.int8),
        np.array([row[3] for row in table]),
        np.full(len(table), seed),
    )


def _vector(
    index: AddressIndex, payment: Payment, slot: int | None = None, link: int | None = None
) -> npt.NDArray[np.float32]:
    facts = index.facts(payment, recipient_slot=slot, link=link)
    return PAYMENT_RISK.vector(extract(facts))


def _other(rng: Random, recipients: dict[int, ActorKind], slot: int) -> int | None:
    others = [other for other in recipients if other != slot]
    return rng.choice(others) if others else None

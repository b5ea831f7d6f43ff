"""The whole demo: a mesh, the economy on its chain, the cast, and the five scenes in order."""

from __future__ import annotations

import json
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from anya.bitcoin.v1 import chain_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from cli import economy, payment_client, runs
from cli.connection import connect, traced
from cli.demo import (
    cast,
    crash_recovery,
    risky_payment,
    unguarded_workflow,
    unproven_sender,
    verified_payment,
)
from cli.demo.stage import AMOUNT_SAT, Stage
from cli.errors import CommandError
from cli.supervisor import control
from cli.supervisor.process import Command, Process, StartupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cli.connection import Channels
    from cli.demo.scene import Scene
    from cli.home import Home
    from cli.identities import Identity

SCENES = (verified_payment, risky_payment, unproven_sender, unguarded_workflow, crash_recovery)
COINS = 3  # that the payer's address holds before the first scene


class Audience(Protocol):
    """The audience of the demo: receives its progress."""

    def say(self, line: str) -> None:
        """Reports progress; a subclass overrides what it shows."""

    def render(self, height: int, tip: int) -> None:
        """Reports the block that the economy has reached."""

    def settle(self, line: str) -> None:
        """Reports a part that is ready for the scenes."""

    def applaud(self, scene: Scene) -> None:
        """Reports the result of a scene."""


async def perform(home: Home, audience: Audience) -> list[Scene]:
    """Plays every scene on the mesh of this home, or on a mesh of its own if none runs."""
    home.make()
    with home.stage():
        return await _perform(home, audience)


async def _perform(home: Home, audience: Audience) -> list[Scene]:
    async with _mesh(home, audience) as status, connect(home) as channels:
        stage = await _set(home, channels, audience)
        stage.keeps_traces = status["traces"] == str(home.traces)
        scenes = []
        for scene in SCENES:
            audience.say(scene.__name__.rpartition(".")[2].replace("_", " "))
            scenes.append(await scene.play(stage))
            audience.applaud(scenes[-1])
        return scenes


async def _set(home: Home, channels: Channels, audience: Audience) -> Stage:
    """Renders the economy on the chain and prepares the identities."""
    payer = await cast.enter(home, channels, "payer")
    stranger = await cast.enter(home, channels, "stranger")
    await cast.enter(home, channels, "payee")
    payer, address = await cast.open_wallet(home, channels, payer)
    life = _Life(home, channels, audience, payer, address)
    inhabitant = economy.Payer(address, life.settle, life.pay)
    began = time.monotonic()
    state = await economy.ensure(home, channels, inhabitant, audience.render)
    info = await ChainServiceStub(channels["bitcoin"]).GetChainInfo(chain_pb2.GetChainInfoRequest())
    seconds = time.monotonic() - began
    audience.settle(f"the economy is on the chain: {info.height} blocks, {seconds:.1f} s")
    if await _coins(channels, address) < COINS:
        await economy.pay_wages(channels, state, address, coins=COINS)
    return Stage(
        home=home,
        channels=channels,
        say=audience.say,
        payer=life.payer,
        stranger=stranger,
        licit=state.licit,
        scam=state.scam,
    )


class _Life:
    """Links the payer's address and makes its ordinary payments while the economy grows."""

    def __init__(
        self, home: Home, channels: Channels, audience: Audience, payer: Identity, address: str
    ) -> None:
        self._home = home
        self._channels = channels
        self._audience = audience
        self._address = address
        self.payer = payer

    async def settle(self) -> None:
        if self._address not in self.payer.addresses:
            self.payer = await cast.link(self._home, self._channels, self.payer, self._address)
            self._audience.say(f"linked {self._address} to the payer's DID")

    async def pay(self, address: str, amount_sat: int) -> None:
        """Makes an ordinary payment before the scenes; the economy does not depend on it."""
        with traced("pay"):
            proposal = await payment_client.propose(self._channels, self.payer, address, amount_sat)
            started = await payment_client.start(self._channels, proposal)
        outcome = payment_client.outcome(await runs.finish(self._channels, started.run_id))
        self._audience.say(f"the payer pays a shop {amount_sat} sat: {outcome.status.lower()}")


async def _coins(channels: Channels, address: str) -> int:
    """Returns how many coins on the address are large enough for a scene."""
    request = chain_pb2.ListUtxosRequest(address=address, page_size=1000)
    reply = await ChainServiceStub(channels["bitcoin"]).ListUtxos(request)
    return sum(utxo.confirmations > 0 and utxo.amount_sat > 2 * AMOUNT_SAT for utxo in reply.utxos)


@asynccontextmanager
async def _mesh(home: Home, audience: Audience) -> AsyncIterator[dict[str, Any]]:
    """Yields the status of the running supervisor, or of one started for the block."""
    try:
        yield await control.request(home, "status")
        return
    except CommandError as error:
        if error.reason != "NO_MESH":
            raise
    audience.say("starting a mesh")
    began = time.monotonic()
    supervisor = await _start(home)
    audience.settle(f"four services are up: {time.monotonic() - began:.1f} s")
    try:
        yield await control.request(home, "status")
    finally:
        await supervisor.stop()


async def _start(home: Home) -> Process:
    log = home.path / "up.log"
    log.unlink(missing_ok=True)
    arguments = ("-m", "cli", "up", "--home", str(home.path), "--mine", "manual", "--json")
    try:
        return await Process.start(Command(arguments=arguments, environment=os.environ, log=log))
    except StartupError as error:
        raise _explain(log.read_text().splitlines(), str(error)) from None


def _explain(said: list[str], otherwise: str) -> CommandError:
    """Returns the supervisor's own error from its stderr."""
    for line in said:
        try:
            return CommandError(**json.loads(line)["error"])
        except (ValueError, KeyError, TypeError):
            continue
    return CommandError(f"the mesh {otherwise}", code="UNAVAILABLE", reason="NO_MESH")

"""docs/durability.md is true: what it shows is played on a mesh, and printed the same."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from anya.bitcoin.v1 import chain_pb2, regtest_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from cli import payment_client, runs
from cli.connection import connect, traced
from cli.home import Home
from cli.identities import Identities
from cli.spans import store
from cli.supervisor import control
from mesh.observability.telemetry import derive_span_ids
from mesh.testing import eventually
from tests.scenarios import printed
from tests.scenarios.meshes import environment, up
from tests.scenarios.printed import Printed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.payment_client import Proposal
    from cli.spans.span import Trace
    from tests.scenarios.meshes import Mesh, Result

TEXT = (Path(__file__).parents[2] / "docs" / "durability.md").read_text(encoding="utf-8")
SHOWN = printed.on_page(TEXT)
[DEFINITION] = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
RECORDS = re.findall(r"^\| (\d+) \| `(\w+)` \| (?:`(\S+)`)? \| (\d) \| (\w+)", TEXT, re.MULTILINE)
SPANS = re.findall(r"^\| `(.+?)`.* \| `([0-9a-f]{16})` \|", TEXT, re.MULTILINE)
POINT = "engine.before_step_done/{id}/execute_payment"
[TOGETHER] = re.findall(r"Commits: (.+)\.$", TEXT, re.MULTILINE)
COMMITS = [tuple(map(int, pair.split("-"))) for pair in TOGETHER.split(", ")]
AMOUNT_SAT = 250_000
MATURE = 100  # blocks on top of a coinbase
RECORDED = "SELECT sequence, kind, path, attempt, at_us FROM journal WHERE run = '{id}' ORDER BY 1"
INBOX = "SELECT method, request_id FROM inbox WHERE request_id = '{id}'"


class Record(NamedTuple):
    number: str
    kind: str
    path: str
    attempt: str
    at_us: str


@dataclass(slots=True)
class Play:
    """One payment through a crash, and what was printed meanwhile, in the order of the page."""

    home: Path
    folder: Path  # where the commands are given
    payment_id: str = field(default_factory=payment_client.new_id)
    printed: list[Printed] = field(default_factory=list)
    proposal: Proposal | None = None
    journalled_at_death: int = 0
    records: list[Record] = field(default_factory=list)
    spans: dict[str, Any] = field(default_factory=dict)
    receipts: list[int] = field(default_factory=list)  # of the merchant, before and after

    def anya(self, *arguments: str) -> None:
        self.printed.append(printed.anya(*arguments, home=self.home, folder=self.folder))

    def begin(self, *arguments: str) -> Telling:
        """A command that goes on, in a process of its own; its place is where the next one's is."""
        self.printed.append(Printed(f"anya {' '.join(arguments)}", ()))
        child = subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments, "--home", str(self.home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        return Telling(self, len(self.printed) - 1, child)

    def journal(self) -> list[Record]:
        query = RECORDED.format(id=self.payment_id)
        rows = printed.sqlite("orchestrator/orchestrator.db", query, home=self.home).lines
        return [Record(*row.split("|")) for row in rows]


@dataclass(frozen=True, slots=True)
class Telling:
    """A command that still prints."""

    play: Play
    place: int
    child: subprocess.Popen[str]

    def finish(self, *, until: str = "") -> None:
        """Hear it to its end, or to a line that begins like this."""
        assert self.child.stdout
        lines = list(self.play.printed[self.place].lines)
        for line in self.child.stdout:
            lines.append(line.rstrip())
            if until and line.startswith(until):
                break
        command = self.play.printed[self.place].command
        self.play.printed[self.place] = Printed(command, tuple(lines))
        if not until:
            self.child.stdout.close()
            self.child.wait()


@pytest.fixture(scope="module")
def play(demo: Result, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """All of the page, on a copy of the demo's home: its journal is lost at the end."""
    assert demo.code == 0, demo.err
    folder = tmp_path_factory.mktemp("durability")
    shutil.copytree(home, folder / "home")
    play = Play(folder / "home", folder)
    with up(play.home, "--mine", "manual") as mesh:
        through_a_crash(play, mesh)
        through_an_answer_that_nobody_heard(play)
        mesh.stop()
    without_its_journal(play)
    return play


def through_a_crash(play: Play, mesh: Mesh) -> None:
    payment_id, bitcoin = play.payment_id, "bitcoin/bitcoin.db"
    with stopped_at(play, "ml"):
        play.receipts.append(asyncio.run(send(play)))
        play.anya("payment", "show", payment_id)
        play.anya("run", "show", payment_id)
    address = mesh.ready["services"]["orchestrator"]
    asyncio.run(eventually(lambda: not answers(address), within=20))
    play.journalled_at_death = len(play.journal())
    play.anya("payment", "show", payment_id)
    asyncio.run(eventually(lambda: is_started_again(play)))
    play.anya("status")
    watch = play.begin("payment", "watch", payment_id, "--confirmations", "1")
    steps = play.begin("run", "watch", payment_id)
    watch.finish(until="succeeded, broadcast")
    steps.finish()
    play.receipts.append(asyncio.run(mine(play)))
    watch.finish()
    play.anya("run", "show", payment_id)
    play.records = play.journal()
    trace_id = play.printed[-1].lines[0].split()[-1]
    traces = Home(play.home).traces
    asyncio.run(eventually(lambda: has_all(store.load(traces, trace_id), play), within=15))
    play.spans = {span.span_id: span for span in store.load(traces, trace_id).spans}
    play.anya("trace", "show", trace_id[:8])
    play.printed.append(printed.sqlite(bitcoin, INBOX.format(id=payment_id), home=play.home))
    play.anya("payment", "cancel", payment_id)
    with stopped_at(play, "bitcoin"):
        play.anya("payment", "show", payment_id)


def through_an_answer_that_nobody_heard(play: Play) -> None:
    (play.folder / "note.yaml").write_text(DEFINITION)
    did = Identities(Home(play.home)).load("payer").did
    (play.folder / "delivery.json").write_text(json.dumps({"did": did, "order": 7}))
    play.anya("workflow", "register", "note.yaml")
    with stopped_at(play, "web5"):
        start = ("run", "start", "note", "--run-id", "delivery-7")
        play.anya(*start, "--input", "@delivery.json", "--wait")
        play.anya("run", "list", "--attention")
    play.anya("run", "redrive", "delivery-7", "--reason", "web5 answers again")
    asyncio.run(ended(play, "delivery-7"))
    play.anya("run", "show", "delivery-7")


def without_its_journal(play: Play) -> None:
    for file in (play.home / "orchestrator").glob("orchestrator.db*"):
        file.unlink()
    with up(play.home, "--mine", "manual"):
        play.anya("run", "show", play.payment_id)
        play.anya("payment", "show", play.payment_id)
        play.receipts.append(asyncio.run(send_again(play)))
        play.anya("payment", "show", play.payment_id)


@contextmanager
def stopped_at(play: Play, service: str) -> Iterator[None]:
    """A process that is there and does not answer, so that there is time to look."""
    status = asyncio.run(control.request(Home(play.home), "status"))
    pid = status["services"][service]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def send(play: Play) -> int:
    """Send the payment, until its risk is asked for; how often the merchant was paid before."""
    here, point = Home(play.home), POINT.format(id=play.payment_id)
    await control.request(here, "restart", service="orchestrator", failpoints=f"{point}=kill")
    payer = Identities(here).load("payer")
    async with connect(here) as channels:
        regtest = RegtestServiceStub(channels["bitcoin"])
        coin = regtest_pb2.MineBlocksRequest(
            request_id=str(uuid.uuid4()), count=1, address=payer.addresses[0]
        )
        await regtest.MineBlocks(coin)
        await regtest.MineBlocks(
            regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=MATURE), timeout=60
        )
        before = await receipts(play, channels)
        with traced("pay"):
            play.proposal = await payment_client.propose(
                channels, payer, merchant(play), AMOUNT_SAT, payment_id=play.payment_id
            )
            await payment_client.send(channels, play.proposal)
        async for told in runs.watch(channels, play.payment_id):
            if "fraud_assessment/score" in {step.path for step in told.run.steps}:
                break
    return before


async def send_again(play: Play) -> int:
    assert play.proposal
    async with connect(Home(play.home)) as channels:
        await payment_client.pay(channels, play.proposal)
        return await receipts(play, channels)


async def mine(play: Play) -> int:
    async with connect(Home(play.home)) as channels:
        await RegtestServiceStub(channels["bitcoin"]).MineBlocks(
            regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=1)
        )
        return await receipts(play, channels)


async def ended(play: Play, run_id: str) -> None:
    async with connect(Home(play.home)) as channels:
        await runs.finish(channels, run_id)


async def receipts(play: Play, channels: Any) -> int:
    request = chain_pb2.ListUtxosRequest(address=merchant(play), page_size=1000)
    return len((await ChainServiceStub(channels["bitcoin"]).ListUtxos(request)).utxos)


def merchant(play: Play) -> str:
    return str(json.loads((play.home / "client" / "economy.json").read_text())["licit"])


def has_all(trace: Trace, play: Play) -> bool:
    """Whether every span has arrived, whichever process sent it.

    A trace lacks nothing that shows while both ends of a call are still on their way.
    """
    there = {span.span_id for span in trace.spans}
    expected = {f"{id:016x}" for id in (*derived_spans(play.payment_id), *calls(play))}
    return trace.is_whole and not trace.unanswered and expected <= there


def calls(play: Play) -> list[int]:
    """Of every attempt of a step that has none inside it."""
    attempts = {(record.path, int(record.attempt)) for record in play.records if record.path}
    outer = {path.rpartition("/")[0] for path, _ in attempts}
    return [
        derive_span_ids(play.payment_id, path, attempt)[1]
        for path, attempt in attempts
        if path not in outer
    ]


def derived_spans(run_id: str) -> list[int]:
    """Of the run, the attempt that was cut off, its call, and the next attempt."""
    first, call = derive_span_ids(run_id, "execute_payment", 1)
    again, _ = derive_span_ids(run_id, "execute_payment", 2)
    return [derive_span_ids(run_id)[0], first, call, again]


async def is_started_again(play: Play) -> bool:
    status = await control.request(Home(play.home), "status")
    return bool(status["services"]["orchestrator"]["restarts"])


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_the_page_shows_what_is_printed(play: Play, number: int) -> None:
    page, truth = (printed.normalised(all_of) for all_of in (SHOWN, play.printed))

    assert page[number] == truth[number]


def test_the_page_shows_every_command_that_was_given(play: Play) -> None:
    assert len(SHOWN) == len(play.printed)


def test_the_journal_is_as_the_page_says_and_so_is_who_wrote_it(play: Play) -> None:
    written = [
        (*record[:4], "killed" if number <= play.journalled_at_death else "next")
        for number, record in enumerate(play.records, 1)
    ]

    assert written == RECORDS


def test_what_the_page_calls_one_commit_is_of_one_moment(play: Play) -> None:
    moments = [{record.at_us for record in play.records[a - 1 : b]} for a, b in COMMITS]

    assert [number for a, b in COMMITS for number in range(a, b + 1)] == list(range(1, 19))
    assert [len(moment) for moment in moments] == [1] * len(COMMITS)
    assert len(set().union(*moments)) == len(COMMITS)


def test_the_merchant_is_paid_once_whatever_was_lost(play: Play) -> None:
    before, *later = play.receipts

    assert later == [before + 1] * 2


@pytest.mark.parametrize("of_page", [True, False], ids=["page", "truth"])
def test_the_spans_ids_follow_from_the_runs(play: Play, of_page: bool) -> None:
    [run_id, *_] = re.findall(r"payment show (\S+)", TEXT) if of_page else [play.payment_id]
    derived = derived_spans(run_id)
    named = [name for name, _ in SPANS]

    if of_page:
        assert [int(id, 16) for _, id in SPANS] == derived
    else:
        spans = [play.spans[f"{id:016x}"] for id in derived]
        assert [span.name for span in spans] == named
        served = [
            span.service for span in play.spans.values() if span.parent_id == f"{derived[2]:016x}"
        ]
        assert served == ["bitcoin"]

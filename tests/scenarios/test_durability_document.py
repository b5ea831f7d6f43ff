"""docs/durability.md: its commands run on a mesh, and print what the page shows."""

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
from mesh.observability.span_ids import derive_span_ids
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
MATURITY_BLOCKS = 100
RECORDED = "SELECT sequence, kind, path, attempt, at_us FROM journal WHERE run = '{id}' ORDER BY 1"
IDEMPOTENCY_KEYS = "SELECT method, request_id FROM idempotency_key WHERE request_id = '{id}'"


class Record(NamedTuple):
    number: str
    kind: str
    path: str
    attempt: str
    at_us: str


@dataclass(slots=True)
class CrashScenario:
    """One payment through a crash, and the output of its commands, in the order of the page."""

    home: Path
    folder: Path  # working directory of the commands
    payment_id: str = field(default_factory=payment_client.new_id)
    printed: list[Printed] = field(default_factory=list)
    proposal: Proposal | None = None
    journalled_at_death: int = 0
    records: list[Record] = field(default_factory=list)
    spans: dict[str, Any] = field(default_factory=dict)
    receipts: list[int] = field(default_factory=list)  # number of the merchant's coins

    def anya(self, *arguments: str) -> None:
        self.printed.append(printed.anya(*arguments, home=self.home, folder=self.folder))

    def start(self, *arguments: str) -> RunningCommand:
        """Starts a command in its own process; its output takes the next place on the page."""
        self.printed.append(Printed(f"anya {' '.join(arguments)}", ()))
        child = subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments, "--home", str(self.home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        return RunningCommand(self, len(self.printed) - 1, child)

    def journal(self) -> list[Record]:
        query = RECORDED.format(id=self.payment_id)
        rows = printed.sqlite("orchestrator/orchestrator.db", query, home=self.home).lines
        return [Record(*row.split("|")) for row in rows]


@dataclass(frozen=True, slots=True)
class RunningCommand:
    """A command that still prints its output."""

    scenario: CrashScenario
    place: int
    child: subprocess.Popen[str]

    def finish(self, *, until: str = "") -> None:
        """Reads its output to the end, or up to a line that starts with ``until``."""
        assert self.child.stdout
        lines = list(self.scenario.printed[self.place].lines)
        for line in self.child.stdout:
            lines.append(line.rstrip())
            if until and line.startswith(until):
                break
        command = self.scenario.printed[self.place].command
        self.scenario.printed[self.place] = Printed(command, tuple(lines))
        if not until:
            self.child.stdout.close()
            self.child.wait()


@pytest.fixture(scope="module")
def scenario(demo: Result, home: Path, tmp_path_factory: pytest.TempPathFactory) -> CrashScenario:
    """The whole page, on a copy of the demo's home, whose journal is deleted at the end."""
    assert demo.code == 0, demo.err
    folder = tmp_path_factory.mktemp("durability")
    shutil.copytree(home, folder / "home")
    scenario = CrashScenario(folder / "home", folder)
    with up(scenario.home, "--mine", "manual") as mesh:
        through_a_crash(scenario, mesh)
        through_a_lost_answer(scenario)
        mesh.stop()
    without_its_journal(scenario)
    return scenario


def through_a_crash(scenario: CrashScenario, mesh: Mesh) -> None:
    payment_id, bitcoin = scenario.payment_id, "bitcoin/bitcoin.db"
    with stopped_at(scenario, "ml"):
        scenario.receipts.append(asyncio.run(send(scenario)))
        scenario.anya("payment", "show", payment_id)
        scenario.anya("run", "show", payment_id)
    address = mesh.ready["services"]["orchestrator"]
    asyncio.run(eventually(lambda: not answers(address), within=20))
    scenario.journalled_at_death = len(scenario.journal())
    scenario.anya("payment", "show", payment_id)
    asyncio.run(eventually(lambda: is_started_again(scenario)))
    scenario.anya("status")
    watch = scenario.start("payment", "watch", payment_id, "--confirmations", "1")
    steps = scenario.start("run", "watch", payment_id)
    watch.finish(until="succeeded, broadcast")
    steps.finish()
    scenario.receipts.append(asyncio.run(mine(scenario)))
    watch.finish()
    scenario.anya("run", "show", payment_id)
    scenario.records = scenario.journal()
    trace_id = scenario.printed[-1].lines[0].split()[-1]
    traces = Home(scenario.home).traces
    asyncio.run(eventually(lambda: has_all(store.load(traces, trace_id), scenario), within=15))
    scenario.spans = {span.span_id: span for span in store.load(traces, trace_id).spans}
    scenario.anya("trace", "show", trace_id[:8])
    scenario.printed.append(
        printed.sqlite(bitcoin, IDEMPOTENCY_KEYS.format(id=payment_id), home=scenario.home)
    )
    scenario.anya("payment", "cancel", payment_id)
    with stopped_at(scenario, "bitcoin"):
        scenario.anya("payment", "show", payment_id)


def through_a_lost_answer(scenario: CrashScenario) -> None:
    (scenario.folder / "note.yaml").write_text(DEFINITION)
    did = Identities(Home(scenario.home)).load("payer").did
    (scenario.folder / "delivery.json").write_text(json.dumps({"did": did, "order": 7}))
    scenario.anya("workflow", "register", "note.yaml")
    with stopped_at(scenario, "web5"):
        start = ("run", "start", "note", "--run-id", "delivery-7")
        scenario.anya(*start, "--input", "@delivery.json", "--wait")
        scenario.anya("run", "list", "--attention")
    scenario.anya("run", "redrive", "delivery-7", "--reason", "web5 answers again")
    asyncio.run(ended(scenario, "delivery-7"))
    scenario.anya("run", "show", "delivery-7")


def without_its_journal(scenario: CrashScenario) -> None:
    for file in (scenario.home / "orchestrator").glob("orchestrator.db*"):
        file.unlink()
    with up(scenario.home, "--mine", "manual"):
        scenario.anya("run", "show", scenario.payment_id)
        scenario.anya("payment", "show", scenario.payment_id)
        scenario.receipts.append(asyncio.run(send_again(scenario)))
        scenario.anya("payment", "show", scenario.payment_id)


@contextmanager
def stopped_at(scenario: CrashScenario, service: str) -> Iterator[None]:
    """Stops the process of the service for the block, by SIGSTOP: it does not answer."""
    status = asyncio.run(control.request(Home(scenario.home), "status"))
    pid = status["services"][service]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def send(scenario: CrashScenario) -> int:
    """Sends the payment and waits for its risk step; returns the merchant's receipts before it."""
    here, point = Home(scenario.home), POINT.format(id=scenario.payment_id)
    await control.request(here, "restart", service="orchestrator", failpoints=f"{point}=kill")
    payer = Identities(here).load("payer")
    async with connect(here) as channels:
        regtest = RegtestServiceStub(channels["bitcoin"])
        coin = regtest_pb2.MineBlocksRequest(
            request_id=str(uuid.uuid4()), count=1, address=payer.addresses[0]
        )
        await regtest.MineBlocks(coin)
        await regtest.MineBlocks(
            regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=MATURITY_BLOCKS),
            timeout=60,
        )
        before = await receipts(scenario, channels)
        with traced("pay"):
            scenario.proposal = await payment_client.propose(
                channels, payer, merchant(scenario), AMOUNT_SAT, payment_id=scenario.payment_id
            )
            await payment_client.send(channels, scenario.proposal)
        async for update in runs.watch(channels, scenario.payment_id):
            if "fraud_assessment/score" in {step.path for step in update.run.steps}:
                break
    return before


async def send_again(scenario: CrashScenario) -> int:
    assert scenario.proposal
    async with connect(Home(scenario.home)) as channels:
        await payment_client.pay(channels, scenario.proposal)
        return await receipts(scenario, channels)


async def mine(scenario: CrashScenario) -> int:
    async with connect(Home(scenario.home)) as channels:
        await RegtestServiceStub(channels["bitcoin"]).MineBlocks(
            regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=1)
        )
        return await receipts(scenario, channels)


async def ended(scenario: CrashScenario, run_id: str) -> None:
    async with connect(Home(scenario.home)) as channels:
        await runs.finish(channels, run_id)


async def receipts(scenario: CrashScenario, channels: Any) -> int:
    request = chain_pb2.ListUtxosRequest(address=merchant(scenario), page_size=1000)
    return len((await ChainServiceStub(channels["bitcoin"]).ListUtxos(request)).utxos)


def merchant(scenario: CrashScenario) -> str:
    return str(json.loads((scenario.home / "client" / "economy.json").read_text())["licit"])


def has_all(trace: Trace, scenario: CrashScenario) -> bool:
    """Checks that every span has arrived, of both processes.

    ``is_whole`` alone does not show that both spans of one call are missing.
    """
    arrived = {span.span_id for span in trace.spans}
    expected = {f"{id:016x}" for id in (*derived_spans(scenario.payment_id), *calls(scenario))}
    return trace.is_whole and not trace.unanswered and expected <= arrived


def calls(scenario: CrashScenario) -> list[int]:
    """Returns the span ids of the calls of all attempts of steps without inner steps."""
    attempts = {(record.path, int(record.attempt)) for record in scenario.records if record.path}
    outer = {path.rpartition("/")[0] for path, _ in attempts}
    return [
        derive_span_ids(scenario.payment_id, path, attempt)[1]
        for path, attempt in attempts
        if path not in outer
    ]


def derived_spans(run_id: str) -> list[int]:
    """Returns the span ids of the run, the interrupted attempt, its call, and the next attempt."""
    first, call = derive_span_ids(run_id, "execute_payment", 1)
    again, _ = derive_span_ids(run_id, "execute_payment", 2)
    return [derive_span_ids(run_id)[0], first, call, again]


async def is_started_again(scenario: CrashScenario) -> bool:
    status = await control.request(Home(scenario.home), "status")
    return bool(status["services"]["orchestrator"]["restarts"])


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_page_shows_the_output_of_its_commands(scenario: CrashScenario, number: int) -> None:
    page, truth = (printed.normalised(all_of) for all_of in (SHOWN, scenario.printed))

    assert page[number] == truth[number]


def test_page_shows_every_command_of_the_scenario(scenario: CrashScenario) -> None:
    assert len(SHOWN) == len(scenario.printed)


def test_page_shows_the_journal_and_the_writer_of_each_record(scenario: CrashScenario) -> None:
    written = [
        (*record[:4], "killed" if number <= scenario.journalled_at_death else "next")
        for number, record in enumerate(scenario.records, 1)
    ]

    assert written == RECORDS


def test_records_of_one_commit_have_the_same_time(scenario: CrashScenario) -> None:
    moments = [{record.at_us for record in scenario.records[a - 1 : b]} for a, b in COMMITS]

    assert [number for a, b in COMMITS for number in range(a, b + 1)] == list(range(1, 19))
    assert [len(moment) for moment in moments] == [1] * len(COMMITS)
    assert len(set().union(*moments)) == len(COMMITS)


def test_merchant_is_paid_once(scenario: CrashScenario) -> None:
    before, *later = scenario.receipts

    assert later == [before + 1] * 2


@pytest.mark.parametrize("of_page", [True, False], ids=["page", "truth"])
def test_span_ids_are_derived_from_the_run_id(scenario: CrashScenario, of_page: bool) -> None:
    [run_id, *_] = re.findall(r"payment show (\S+)", TEXT) if of_page else [scenario.payment_id]
    derived = derived_spans(run_id)
    named = [name for name, _ in SPANS]

    if of_page:
        assert [int(id, 16) for _, id in SPANS] == derived
    else:
        spans = [scenario.spans[f"{id:016x}"] for id in derived]
        assert [span.name for span in spans] == named
        served = [
            span.service
            for span in scenario.spans.values()
            if span.parent_id == f"{derived[2]:016x}"
        ]
        assert served == ["bitcoin"]

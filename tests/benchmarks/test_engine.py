"""The engine as the benchmarks run it: a client in a process of its own requests bursts."""

from __future__ import annotations

import pytest

from benchmarks.runs import engine


@pytest.mark.parametrize("ask", ["run", "signal"])
def test_a_client_process_requests_runs_over_grpc(ask: str) -> None:
    with engine.ours("--door", "grpc", "--ask", ask) as ours:
        burst = ours.burst(2, 0.2)

    assert burst.runs >= 2
    assert burst.rate > 0
    assert 0 < burst.p50_ms <= burst.p99_ms
    assert burst.cpu_ms > 0
    assert burst.client_cpu_ms > 0
    assert 0.2 <= burst.client_s <= burst.runs / burst.rate

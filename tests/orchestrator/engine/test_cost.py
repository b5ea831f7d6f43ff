"""The cost of a transition does not grow with the steps that have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.orchestrator.engine.cost import lines_run
from tests.orchestrator.engine.definitions import READ_ITEM, call, indent, steps
from tests.orchestrator.engine.engine_run import EngineRun, run_of

if TYPE_CHECKING:
    from services.orchestrator.engine.activations import Command


def test_the_last_of_many_steps_costs_what_the_last_of_few_does() -> None:
    few = run_of(steps(*(call(f"step_{at}") for at in range(4))), did="d")
    many = run_of(steps(*(call(f"step_{at}") for at in range(60))), did="d")

    assert cost_of_last_turns(many) <= 1.1 * cost_of_last_turns(few)


def test_the_last_of_many_items_costs_what_the_last_of_few_does() -> None:
    few, many = run_of(each(1), names=["a"] * 4), run_of(each(1), names=["a"] * 400)

    assert cost_of_last_turns(many) <= 1.1 * cost_of_last_turns(few)


def test_an_item_among_many_in_flight_costs_what_one_among_few_does() -> None:
    few, many = run_of(each(64), names=["a"] * 4), run_of(each(64), names=["a"] * 64)

    assert cost(many, many.commands[-2]) <= 1.1 * cost(few, few.commands[-2])


def test_an_item_after_a_slow_one_costs_what_one_without_it_does() -> None:
    run = run_of(each(2), names=["a"] * 400)
    costs = [cost(run, run.commands[-1]) for _ in range(380)]

    assert max(costs[-10:]) <= 1.1 * max(costs[:10])


def each(most: int) -> str:
    return steps(
        f'each\n    for_each:\n      items: "{{{{input.names}}}}"\n      max_concurrency: {most}\n'
        f"      steps:\n        - id: look{indent(READ_ITEM, 6)}"
    )


def cost_of_last_turns(run: EngineRun) -> int:
    """Returns the lines of code that the transition before the last one runs."""
    costs: list[int] = []
    while run.commands:
        (command,) = run.commands
        costs.append(cost(run, command))
    return costs[-2]


def cost(run: EngineRun, command: Command) -> int:
    return lines_run(lambda: run.do(command))

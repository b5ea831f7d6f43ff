"""The architecture, as rules that fail the build."""

from __future__ import annotations

import ast
import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mesh.rpc import client, server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
TOPS = ("mesh", "features", "formats", "services", "cli", "tests", "benchmarks")
SOURCES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]

SERVICES = ("bitcoin", "web5", "ml", "orchestrator")

# where -> what it must never import
WIRE = ("grpc", "grpc_status", "anya")
WORLD = (*WIRE, "asyncio", "sqlite3", "asyncpg", "os", "time", "random", "socket", "subprocess")
FORBIDDEN = {
    "mesh": ("services", "cli", "features"),
    "formats": ("cli", "features", *WORLD),
    "features": ("services", "cli", "mesh", *WORLD, "datetime"),
    "cli": ("lightgbm", "onnxruntime", "bdkpython", "pbk"),
    "mesh/errors.py": WORLD,
    "mesh/breaker.py": WORLD,
    "mesh/security/trust.py": WORLD,
    "mesh/clock.py": WIRE,
    "mesh/actor.py": WIRE,
    "mesh/data/database": WIRE,
    "mesh/data/idempotency.py": WIRE,
    "mesh/data/outbox.py": WIRE,
    **{
        f"services/{name}": (
            "cli",
            *(f"services.{other}" for other in SERVICES if other != name),
            *(() if name == "orchestrator" else ("mesh.rpc.client",)),
        )
        for name in SERVICES
    },
}

# What of the services the command line may use: pure modules, so that it stays a client.
CLI_MAY_USE = (
    "formats.bitcoin.block",
    "services.orchestrator.definition",
    "services.ml.simulation",
)

# Rooms of a service that touch the world. Everything else in it is a noun and does no I/O.
ROOMS = ("__main__", "config", "actors", "servicers", "store")
ADAPTERS = {
    "services/bitcoin/kernel.py": "Bitcoin Core's consensus code",
    "services/bitcoin/recovery.py": "makes journal, kernel and index agree",
    "services/ml/inference.py": "ONNX Runtime",
    "services/ml/training": "a command of its own, never part of serving",
    "services/orchestrator/notifications.py": "wakes those who watch a run",
    "services/orchestrator/worker": "does what the pure engine wants, and journals it",
    "services/orchestrator/peers": "the other services, through the mesh's client",
    "services/orchestrator/retention.py": "sweeps the journal by the clock",
    "services/orchestrator/schedules/scheduler.py": "starts runs when they are due",
    "services/web5/dwn/methods": "what each message does inside its one transaction",
    "services/web5/dwn/node.py": "the node: opens that transaction, and asks the clock",
}

# Nouns that are about the contracts themselves.
ABOUT_CONTRACTS = ("services/orchestrator/definition", "services/orchestrator/engine")

# Nouns that draw from a seed: their randomness repeats.
SEEDED = ("services/ml/simulation",)

# The only places that may catch what nobody foresaw.
BOUNDARIES = {
    "cli/__main__.py": "main: a defect of ours is one line with a remedy, its text in a file",
    "mesh/actor.py": "the supervisor: a broken actor is built anew",
    "mesh/data/database/postgres.py": "the writer: one failure is one caller's, not the batch's",
    "mesh/data/database/sqlite.py": "the writer: one failure is one caller's, not the batch's",
    "mesh/rpc/interceptors/errors.py": "the error step: the text stays in the log",
    "services/orchestrator/store/group_commit.py": "the writer: one failure is one run's",
    "services/orchestrator/store/postgres/writer.py": "the writer: one failure is one caller's",
    "services/orchestrator/retention.py": "the sweeps: what fails is logged, and tried again later",
    "services/orchestrator/worker/worker.py": "the engine: one run's defect is that run's alone",
}

# Where time is what is tried, and nothing is waited for.
BY_THE_CLOCK = {
    "tests/faults/paying.py": "clients cancel at random moments, and wait before they ask again",
    "tests/faults/fault_injection.py": "services are killed and stopped at random moments",
}

LINES_PER_FILE = 400
LINES_PER_FUNCTION = 60

VAGUE = re.compile(r"(utils?|helpers?|manager|handler)s?(\.py)?$", re.IGNORECASE)
UNBUILT = re.compile(
    r"\b(TODO|FIXME|XXX)\b|[Ff]or now\b|[Ii]n a real (?:implementation|system)|NotImplementedError"
)
FOREIGN = re.compile(
    rb"/(?:work|farm|root)/|https?://[a-z0-9.-]*(?:pypi|pythonhosted|npmjs)[a-z0-9.-]*"
)


def within(name: str, places: Sequence[str], *, separator: str = ".") -> bool:
    return any(name == place or name.startswith(place + separator) for place in places)


@pytest.mark.parametrize(("where", "banned"), FORBIDDEN.items(), ids=FORBIDDEN)
def test_imports_point_inwards(where: str, banned: tuple[str, ...]) -> None:
    top = ROOT / where
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in ([top] if top.is_file() else top.rglob("*.py"))
        for name in imports(path)
        if within(name, banned)
    ]

    assert not broken


def nouns() -> list[Path]:
    return [
        path
        for path in SOURCES
        if path.is_relative_to(ROOT / "services")
        and len(path.relative_to(ROOT).parts) > 2
        and path.relative_to(ROOT).parts[2].removesuffix(".py") not in ROOMS
        and not within(str(path.relative_to(ROOT)), tuple(ADAPTERS), separator="/")
    ]


@pytest.mark.parametrize("path", nouns(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nouns_touch_nothing_outside_themselves(path: Path) -> None:
    about_contracts = within(str(path.relative_to(ROOT)), ABOUT_CONTRACTS, separator="/")
    banned = [*WORLD, "mesh.data.database"]
    if about_contracts:
        banned.remove("anya")
    if within(str(path.relative_to(ROOT)), SEEDED, separator="/"):
        banned.remove("random")

    assert not [name for name in imports(path) if within(name, banned)]


def test_no_modules_go_in_circles() -> None:
    """Not even for types: of two that need each other, nobody understands one alone."""
    modules = {module(path): path for path in SOURCES}
    needs = {
        name: {
            needed
            for found in imports(path)
            if (needed := found if found in modules else found.rpartition(".")[0]) in modules
            # What a package says for all of its modules, they may use.
            and not within(name, (needed,))
        }
        for name, path in modules.items()
    }

    TopologicalSorter(needs).prepare()  # CycleError names those in the circle


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_the_command_line_is_a_client() -> None:
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "cli").rglob("*.py")
        for name in imports(path)
        if within(name, ("services",)) and not within(name, CLI_MAY_USE)
    ]

    assert not broken


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_PER_FILE
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            assert node.end_lineno - node.lineno < LINES_PER_FUNCTION, node.name


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "a docstring that would serve in ls"


def test_names_say_what_a_thing_is() -> None:
    classes = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and VAGUE.search(node.name)
    ]

    assert not classes
    assert not [
        path for path in SOURCES if VAGUE.search(path.name) or VAGUE.search(path.parent.name)
    ]


def test_what_is_not_built_is_absent() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNBUILT.search(line)
    ]

    assert not found


def test_nothing_points_at_one_machine_or_one_package_index() -> None:
    command = ["git", "ls-files", "-z"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    paths = [ROOT / name.decode() for name in tracked.stdout.split(b"\0") if name]

    found = [
        str(path.relative_to(ROOT))
        for path in paths
        if path != Path(__file__) and path.is_file() and FOREIGN.search(path.read_bytes())
    ]

    assert not found


def test_what_nobody_foresaw_is_caught_at_the_boundaries_only() -> None:
    catching = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
    }

    assert catching == BOUNDARIES.keys()


def test_tests_do_not_sleep() -> None:
    sleeping = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "tests") and str(path.relative_to(ROOT)) not in BY_THE_CLOCK
        for node in nodes(path)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"time.sleep", "asyncio.sleep"}
        and ast.unparse(node.args[0]) != "0"
    ]

    assert not sleeping


@pytest.mark.parametrize(
    ("side", "steps"),
    [("Server", server.INTERCEPTORS), ("Client", client.INTERCEPTORS)],
    ids=["server", "client"],
)
def test_the_document_lists_the_steps_as_they_run(side: str, steps: Sequence[object]) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    listed = re.search(rf"^{side}: (.+)$", text, re.MULTILINE)

    assert listed
    assert listed[1].split(" → ") == [f"`{name(step)}`" for step in steps]


def name(step: object) -> str:
    """``"deadline.require"``: the file of the step, and what it does."""
    return f"{step.__module__.rpartition('.')[2]}.{getattr(step, '__name__')}"  # noqa: B009


def imports(path: Path) -> Iterator[str]:
    """What the module names, to run or only to be typed."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}:{node.lineno} is a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))

"""The architecture, as rules that fail the build."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mesh.rpc import client, server
from tests.sources import ROOT, SOURCES, imports, module, nodes, relative, text, tree

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICES = ("bitcoin", "web5", "ml", "orchestrator")

# where -> what it must never import
WIRE = ("grpc", "grpc_status", "anya")
WORLD = (*WIRE, "asyncio", "sqlite3", "asyncpg", "os", "time", "random", "socket", "subprocess")
FORBIDDEN = {
    "mesh": ("services", "cli", "features"),
    "formats": ("services", "cli", "mesh", "features", *WORLD),
    "features": ("services", "cli", "mesh", *WORLD, "datetime"),
    "cli": ("lightgbm", "onnxruntime", "bdkpython", "pbk"),
    "mesh/errors.py": WORLD,
    "mesh/breaker.py": WORLD,
    "mesh/security/trust.py": WORLD,
    "mesh/clock.py": WIRE,
    "mesh/actor": WIRE,
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
    "services.orchestrator.definition",
    "services.ml.simulation",
)

# Rooms of a service that do I/O. Every other module is a noun, and does none.
ROOMS = ("__main__", "config", "actors", "servicers", "store")
# The exceptions: the world that each touches, and why.
ADAPTERS = {
    "services/bitcoin/kernel.py": "threads and files: Bitcoin Core's consensus code, in C++",
    "services/bitcoin/recovery.py": "threads: calls of the kernel block",
    "services/ml/training/__main__.py": "processes and files: it is a command, not part of serving",
    "services/orchestrator/notifications.py": "asyncio: it wakes the watchers of a run",
    "services/orchestrator/worker": "asyncio and calls: it performs what the pure engine commands",
    "services/orchestrator/peers": "gRPC: the orchestrator alone calls the other services",
    "services/orchestrator/retention.py": "asyncio: it erases and deletes by the database's clock",
    "services/orchestrator/schedules/scheduler.py": "asyncio: it starts runs at their due times",
}

# Nouns that are about the contracts themselves.
ABOUT_CONTRACTS = ("services/orchestrator/definition", "services/orchestrator/engine")

# Nouns that draw from a seed: their randomness repeats.
SEEDED = ("services/ml/simulation", "services/ml/training")

# The only places that may catch every exception.
BOUNDARIES = {
    "benchmarks/__main__.py": "a measurement that failed is one row of a long run, with its reason",
    "cli/__main__.py": "main: a defect of ours is one line with a remedy, its text in a file",
    "mesh/actor/cell.py": "the supervisor: restarts an actor that failed",
    "mesh/actor/directory.py": "a callback that fails ends no actor",
    "mesh/actor/envelope.py": "a coroutine in another context gets every error of its task",
    "mesh/actor/supervision.py": "the supervisor: an actor that fails to stop is logged",
    "mesh/actor/piped.py": "the supervisor: restarts an actor whose work failed",
    "mesh/data/database/postgres.py": "the writer: one failure is one caller's, not the batch's",
    "mesh/data/database/sqlite.py": "the writer: one failure is one caller's, not the batch's",
    "mesh/rpc/interceptors/errors.py": "the error step: the text stays in the log",
    "mesh/rpc/unary_server.py": "the error step of unary calls: the text stays in the log",
    "services/orchestrator/store/group_commit.py": "the writer: one failure is one run's",
    "services/orchestrator/store/postgres/writer.py": "the writer: one failure is one caller's",
    "services/orchestrator/retention.py": "the sweeps: what fails is logged, and tried again later",
    "services/orchestrator/actors/run.py": "the engine: a defect ends one run alone",
    "services/orchestrator/worker/executor.py": "a command: a turn of its run raises the defect",
    "services/orchestrator/worker/worker.py": "a start: its caller gets every error",
}

# Where time is what is tried, and nothing is waited for.
BY_THE_CLOCK = {
    "tests/faults/payment_clients.py": "clients cancel at random moments, and wait before a retry",
    "tests/faults/fault_injection.py": "services are killed and stopped at random moments",
}

LINES_PER_FILE = 400
LINES_PER_FUNCTION = 60

GERUND = re.compile(r"(?!test_)\w+ing$")
# Gerunds that are the field's own nouns.
GERUND_NOUNS = {
    "batching",
    "keyring",
    "logging",
    "paging",
    "signing",
    "testing",
    "tracing",
    "training",
}

# The unit of a module's constant, as its comment may begin with it; and names that have one.
UNIT = re.compile(
    r"((milli|micro|nano)?seconds?|ms|minutes|hours|days|bytes|[KM]iB|sat|satoshis?|characters|blocks)\b"
)
TIME = re.compile(r"TIMEOUT|INTERVAL|DELAY|LIFETIME|WITHIN|DURATION|WINDOW|DEADLINE|PERIOD|BACKOFF")
SUFFIX = re.compile(r"_(S|MS|US|NS|DAYS|BYTES|KIB|SAT|KVB|CHARS|BLOCKS|COLUMNS|SPANS|SHARE)$")

# Within each of these, a class name means one thing.
NAMESPACES = (*(f"services/{name}" for name in SERVICES), "mesh", "cli", "formats", "features")

VAGUE = re.compile(r"(utils?|helpers?|manager|handler)s?(\.py)?$", re.IGNORECASE)
UNBUILT = re.compile(
    r"\b(TODO|FIXME|XXX)\b|[Ff]or now\b|[Ii]n a real (?:implementation|system)|NotImplementedError"
)
FOREIGN = re.compile(
    rb"/(?:work|farm|root)/|https?://[a-z0-9.-]*(?:pypi|pythonhosted|npmjs)[a-z0-9.-]*"
)


def within(name: str, places: Sequence[str], *, separator: str = ".") -> bool:
    return any(name == place or name.startswith(place + separator) for place in places)


def below(path: Path, places: Sequence[str]) -> bool:
    return within(relative(path), places, separator="/")


def test_imports_point_inwards() -> None:
    broken = [
        f"{relative(path)} imports {name}"
        for where, banned in FORBIDDEN.items()
        for path in SOURCES
        if below(path, (where,))
        for name in imports(path)
        if within(name, banned)
    ]

    assert not broken


def test_every_rule_is_about_something_that_exists() -> None:
    named = {*FORBIDDEN, *ADAPTERS, *ABOUT_CONTRACTS, *SEEDED, *BOUNDARIES, *BY_THE_CLOCK}

    assert not [name for name in named if not (ROOT / name).exists()]


def test_nouns_do_no_input_or_output() -> None:
    broken = [
        f"{relative(path)} imports {name}"
        for path in SOURCES
        if is_noun(path)
        for name in imports(path)
        if within(name, banned_for_noun(path))
    ]

    assert not broken


def is_noun(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return (
        parts[0] == "services"
        and len(parts) > 2
        and parts[2].removesuffix(".py") not in ROOMS
        and not below(path, tuple(ADAPTERS))
    )


def banned_for_noun(path: Path) -> list[str]:
    banned = [*WORLD, "mesh.data.database"]
    if below(path, ABOUT_CONTRACTS):
        banned.remove("anya")
    if below(path, SEEDED):
        banned.remove("random")
    return banned


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for types count too: of two modules in a circle, neither is understood alone."""
    modules = {module(path): path for path in SOURCES}
    needs = {
        name: {
            needed
            for found in imports(path)
            if (needed := found if found in modules else found.rpartition(".")[0]) in modules
            # A package's own names are open to its modules.
            and not within(name, (needed,))
        }
        for name, path in modules.items()
    }

    TopologicalSorter(needs).prepare()  # CycleError names the modules of the circle


def test_the_command_line_is_a_client() -> None:
    broken = [
        f"{relative(path)} imports {name}"
        for path in SOURCES
        if below(path, ("cli",))
        for name in imports(path)
        if within(name, ("services",)) and not within(name, CLI_MAY_USE)
    ]

    assert not broken


def test_tests_import_no_test_module() -> None:
    """A module that is named after what it holds has what several tests need."""
    shared = [
        f"{relative(path)} imports {name}"
        for path in SOURCES
        for name in imports(path)
        if name.startswith("tests.") and name.split(".")[-2].startswith("test_")
    ]

    assert not shared


def test_files_and_functions_stay_small() -> None:
    files = [
        f"{relative(path)}: {lines} lines"
        for path in SOURCES
        if (lines := len(text(path).splitlines())) > LINES_PER_FILE
    ]
    functions = [
        f"{relative(path)}: {node.name}"
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LINES_PER_FUNCTION
    ]

    assert not files + functions


def test_every_module_says_what_it_is() -> None:
    assert not [relative(path) for path in SOURCES if not ast.get_docstring(tree(path))]


def test_no_name_is_vague() -> None:
    classes = [
        f"{relative(path)}: {node.name}"
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and VAGUE.search(node.name)
    ]
    modules = [
        relative(path)
        for path in SOURCES
        if VAGUE.search(path.name) or VAGUE.search(path.parent.name)
    ]

    assert not classes + modules


def test_no_module_is_called_by_a_gerund() -> None:
    found = [
        relative(path)
        for path in SOURCES
        for name in (path.stem, path.parent.name)
        if GERUND.match(name) and name not in GERUND_NOUNS
    ]

    assert not found


def test_no_class_name_means_two_things_in_one_service() -> None:
    homes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in SOURCES:
        for place in NAMESPACES:
            for node in nodes(path) if below(path, (place,)) else ():
                if isinstance(node, ast.ClassDef):
                    homes[place, node.name].append(relative(path))

    assert not {name: paths for name, paths in homes.items() if len(paths) > 1}


def test_constants_carry_their_unit() -> None:
    found = [
        f"{relative(path)}:{node.lineno}: {name}"
        for path in SOURCES
        for node in tree(path).body
        if isinstance(node, ast.Assign) and is_number(node.value)
        for name in map(ast.unparse, node.targets)
        if not SUFFIX.search(name) and (TIME.search(name) or UNIT.match(comment(path, node)))
    ]

    assert not found


def is_number(value: ast.expr) -> bool:
    """Checks for a number, or a calculation with numbers and names."""
    return all(
        isinstance(node, ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop | ast.Name | ast.Load)
        or (isinstance(node, ast.Constant) and isinstance(node.value, int | float))
        for node in ast.walk(value)
    )


def comment(path: Path, node: ast.stmt) -> str:
    """Returns the comment on the last line of a statement, or an empty text."""
    return text(path).splitlines()[(node.end_lineno or node.lineno) - 1].partition("#")[2].strip()


def test_what_is_not_built_is_absent() -> None:
    found = [
        f"{relative(path)}:{number}"
        for path in SOURCES
        if path != Path(__file__)
        for number, line in enumerate(text(path).splitlines(), 1)
        if UNBUILT.search(line)
    ]

    assert not found


def test_nothing_points_at_one_machine_or_one_package_index() -> None:
    command = ["git", "ls-files", "-z"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    paths = [ROOT / name.decode() for name in tracked.stdout.split(b"\0") if name]

    found = [
        relative(path)
        for path in paths
        if path != Path(__file__) and path.is_file() and FOREIGN.search(path.read_bytes())
    ]

    assert not found


def test_unforeseen_exceptions_are_caught_at_the_boundaries_only() -> None:
    catching = {
        relative(path)
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
    }

    assert catching == BOUNDARIES.keys()


def test_tests_do_not_sleep() -> None:
    sleeping = [
        f"{relative(path)}:{node.lineno}"
        for path in SOURCES
        if below(path, ("tests",)) and relative(path) not in BY_THE_CLOCK
        for node in nodes(path)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"time.sleep", "asyncio.sleep"}
        and ast.unparse(node.args[0]) != "0"
    ]

    assert not sleeping


@pytest.mark.parametrize(
    ("side", "interceptors"),
    [("Server", server.INTERCEPTORS), ("Client", client.INTERCEPTORS)],
    ids=["server", "client"],
)
def test_the_document_lists_the_interceptors_in_order(
    side: str, interceptors: Sequence[object]
) -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = re.search(rf"^{side}: (.+)$", page, re.MULTILINE)

    assert listed
    assert listed[1].split(" → ") == [f"`{name_of(interceptor)}`" for interceptor in interceptors]


def name_of(interceptor: object) -> str:
    """``"deadline.require"``: the interceptor's module, and its function."""
    module_name = interceptor.__module__.rpartition(".")[2]
    return f"{module_name}.{getattr(interceptor, '__name__')}"  # noqa: B009

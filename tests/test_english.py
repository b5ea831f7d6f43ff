"""Plain English, as rules that fail the build: CONTRIBUTING.md says them to people."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import TYPE_CHECKING

from tests.sources import ROOT, SOURCES, nodes, relative, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

PAGES = [
    path
    for pattern in (
        "*.md",
        "docs/*",
        "clients/*/*.md",
        "deploy/**/*.yaml",
        "deploy/**/Dockerfile",
        "protos/**/*.proto",
        "services/*/workflows/*",
        "tests/**/*.txt",
        "Makefile",
        "pyproject.toml",
    )
    for path in sorted(ROOT.glob(pattern))
]

# They hide the subject or the verb of a sentence.
HIDING = re.compile(
    r"\b(whoever|nobody|somebody|everybody|hear|hears|heard|told|anew|meanwhile|goes\s+on|lets\s+go"
    r"|looks\s+for|under\s+way|at\s+fault|stands\s+on)\b",
    re.IGNORECASE,
)
MARK = re.compile(r"\s*(//|#|>)+ ?")  # before each line of a comment or a quotation
QUOTED = {  # where one of them is quoted, or a name of others
    "tests/test_english.py": "this list",
}

# A sentence that begins so has a clause for its subject.
CLAUSE = re.compile(
    r"(Who|Whoever|Whom|Whose|What|Whatever|Those|That|How|Whether|Where|When|If|As)\b"
)
# A property is a thing, and the docstring of a command is its help, which is imperative.
PROPERTIES = ("property", "setter", "fixture")
COMMANDS = "cli/commands/"


def test_no_text_hides_its_subject_or_its_verb() -> None:
    found = [
        f"{relative(path)}:{number}: {match[0]!r}"
        for path in (*SOURCES, *PAGES)
        if relative(path) not in QUOTED
        for number, passage in passages(path)
        for match in HIDING.finditer(passage)
    ]

    assert not found


def test_every_docstring_begins_with_its_subject_or_its_verb() -> None:
    found = [
        f"{relative(path)}:{getattr(node, 'lineno', 1)}: {first}"
        for path in SOURCES
        for node, first in docstrings(path)
        if CLAUSE.match(first)
    ]

    assert not found


def test_every_function_says_what_it_does() -> None:
    """Its docstring begins with a verb in the third person: "Returns", "Raises", "Suspends"."""
    found = [
        f"{relative(path)}:{node.lineno}: {first}"
        for path in SOURCES
        if not relative(path).startswith("tests/")
        for node, first in docstrings(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not any(ast.unparse(one).endswith(PROPERTIES) for one in node.decorator_list)
        and not (relative(path).startswith(COMMANDS) and not node.name.startswith("_"))
        and not re.match(r"[A-Z][\w-]*s\b", first)
    ]

    assert not found


def passages(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the paragraphs of a page; of a source its comments, strings and names.

    Each comes with the number of its first line, and whole, so that no phrase is cut by a line end.
    """
    if path.suffix != ".py":
        yield from paragraphs(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
        return
    comments = []
    for token in tokenize.generate_tokens(io.StringIO(text(path)).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string.replace("_", " ")
        elif token.type == tokenize.COMMENT:
            comments.append((token.start[0], token.string))
    yield from paragraphs(comments)
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def paragraphs(numbered: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Joins adjacent lines, without the marks of comments; yields them with the first number."""
    first, last, joined = 0, 0, ""
    for number, line in numbered:
        if number != last + 1 or not line.strip():
            yield first, joined
            first, joined = number, ""
        last = number
        joined += MARK.sub("", line, count=1) + "\n"
    yield first, joined


def docstrings(
    path: Path,
) -> Iterator[tuple[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Yields every module, class and function that has a docstring, with its first line."""
    for node in nodes(path):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield node, docstring.splitlines()[0]

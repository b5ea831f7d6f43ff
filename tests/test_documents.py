"""The pages: every link has a target, and the README links to every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_readme_links_to_every_page() -> None:
    linked = {path for path, _ in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))}

    assert {str(page.relative_to(ROOT)) for page in PAGES} - {"README.md"} <= linked


def test_architecture_names_every_part_of_the_orchestrator() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    folder = ROOT / "services" / "orchestrator"
    modules = {path.name for path in folder.glob("*.py") if not path.name.startswith("__")}
    packages = {f"{path.name}/" for path in folder.iterdir() if any(path.glob("*.*"))}

    assert {
        name for name in modules | packages - {"__pycache__/"} if f"`{name}`" not in text
    } == set()

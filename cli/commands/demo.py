"""`anya demo`: the main job, on real parts, in five scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from rich.status import Status

    from cli.demo.scene import Scene
    from cli.home import Home


def demo(home: HomeOption = None, json: JsonOption = False) -> None:
    """Replay a small economy onto a regtest chain, and play five scenes on it."""

    from cli import errors, screen
    from cli.connection import run
    from cli.demo.performance import perform
    from cli.home import Home

    chosen = Home.of(home)
    with screen.progress().status("") as status:
        scenes = run(perform(chosen, _Watcher(status, silent=json)))
    if json:
        screen.emit({"scenes": [scene.document for scene in scenes]})
    else:
        _close(scenes, chosen)
    failures = [f"{scene.name}: {failure}" for scene in scenes for failure in scene.failures]
    if failures:
        raise errors.CommandError(
            f"not as it should be: {'; '.join(failures)}",
            reason="SCENE_FAILED",
            remedy=f"read the logs under {chosen.path}",
        )


class _Watcher:
    """The audience at a terminal: progress on stderr, results on stdout."""

    def __init__(self, status: Status, *, silent: bool) -> None:
        self._status = status
        self._silent = silent

    def say(self, line: str) -> None:
        from cli import screen

        screen.say(line)
        self._status.update(line)

    def render(self, height: int, tip: int) -> None:
        self._status.update(f"replaying the economy: block {height} of {tip}")

    def settle(self, line: str) -> None:
        from cli import screen

        if not self._silent:
            screen.show(f"· {line}")

    def applaud(self, scene: Scene) -> None:
        from cli import screen

        if self._silent:
            return
        mark, style = ("✓", "bold green") if not scene.failures else ("✗", "bold red")
        status = scene.document["status"]
        screen.results().print(f"{mark} {scene.name}: {status}", style=style)
        for line in scene.lines:
            screen.show(f"  {line}")


def _close(scenes: list[Scene], home: Home) -> None:
    """Prints the first scene's trace and the next commands to try."""
    from cli import economy, screen
    from cli.spans.waterfall import summary, waterfall

    trace = scenes[0].trace
    if trace is not None and trace.spans:
        screen.results().print(waterfall(trace))
        screen.results().print(summary(trace))
    state = economy.load(home)
    if state is not None:
        here = "" if home == home.of(None) else f" --home {home.path}"
        pay = f"anya pay{here} --from payer --to {state.licit} --amount-sat 1000000"
        screen.show(f"now by hand: anya up{here}, and beside it {pay}")

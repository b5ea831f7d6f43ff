"""A trace as people read it: one line per span, indented by depth, with a bar along the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cli.spans.span import ReceivedSpan, SpanEvent, Trace

COLOURS = {"orchestrator": "cyan", "bitcoin": "yellow", "web5": "green", "ml": "magenta"}
BAR_COLUMNS = 32
EIGHTHS = " ▏▎▍▌▋▊▉█"  # how much of its last column a bar fills


def waterfall(trace: Trace) -> Table:
    """Returns the trace for a terminal: failed spans red, orphans marked."""
    orphans = {span.span_id for span in trace.orphans}
    table = Table(box=None, padding=(0, 1), show_edge=False, header_style="dim")
    table.add_column("service", no_wrap=True)
    table.add_column("span", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column(f"0 … {trace.seconds * 1000:.0f} ms", no_wrap=True, width=BAR_COLUMNS)
    for depth, span in trace.walk():
        colour = COLOURS.get(span.service, "white")
        table.add_row(
            Text(span.service, style=colour),
            _title(span, depth, is_orphan=span.span_id in orphans),
            f"{span.seconds * 1000:.1f}",
            Text(_bar(span, trace), style="red" if span.failed else colour),
        )
        for event in span.events:
            title = Text(_event_title(event, depth))  # no markup
            table.add_row("", title, "", _mark(event, trace), style="dim")
    return table


def summary(trace: Trace) -> str:
    """Returns the line under the waterfall."""
    line = f"trace {trace.trace_id}: {_count(len(trace.spans), 'span')}"
    line += f" in {trace.seconds * 1000:.0f} ms across {', '.join(trace.services)}"
    failed = sum(span.failed for span in trace.spans)
    if failed:
        line += f"; {failed} failed"
    if trace.orphans:
        line += f"; {_count(len(trace.orphans), 'orphan')}: a parent did not arrive"
    return line


def document(trace: Trace) -> dict[str, Any]:
    """Returns the trace for programs, in waterfall order, with offsets from its start."""
    return {
        "trace_id": trace.trace_id,
        "start_unix_ns": trace.start_ns,
        "seconds": trace.seconds,
        "services": trace.services,
        "orphans": [span.span_id for span in trace.orphans],
        "spans": [
            {
                "span_id": span.span_id,
                "parent_id": span.parent_id,
                "depth": depth,
                "service": span.service,
                "name": span.name,
                "kind": span.kind,
                "offset_seconds": (span.start_ns - trace.start_ns) / 1e9,
                "seconds": span.seconds,
                "failed": span.failed,
                "message": span.message,
                "attributes": dict(span.attributes),
                "events": [
                    {
                        "name": event.name,
                        "offset_seconds": (event.time_ns - trace.start_ns) / 1e9,
                        "attributes": dict(event.attributes),
                    }
                    for event in span.events
                ],
            }
            for depth, span in trace.walk()
        ],
    }


def _title(span: ReceivedSpan, depth: int, *, is_orphan: bool) -> Text:
    title = Text("  " * depth + span.name.rpartition(".")[2], style="red" if span.failed else "")
    if span.failed:
        why = span.message or span.attributes.get("error.type") or "failed"
        title.append(f" ✗ {why}")
    if is_orphan:
        title.append(" (orphan)", style="dim")
    return title


def _event_title(event: SpanEvent, depth: int) -> str:
    attributes = " ".join(f"{name}={value}" for name, value in event.attributes.items())
    return f"{'  ' * depth}· {event.name} {attributes}".rstrip()


def _mark(event: SpanEvent, trace: Trace) -> str:
    """Returns a dot at the time of the event within its trace."""
    return " " * _column(event.time_ns, trace) + "·"


def _column(time_ns: int, trace: Trace) -> int:
    """Returns the column of a time within its trace."""
    share = (time_ns - trace.start_ns) / 1e9 / max(trace.seconds, 1e-9)
    return max(0, min(int(BAR_COLUMNS * share), BAR_COLUMNS - 1))


def _bar(span: ReceivedSpan, trace: Trace) -> str:
    """Returns the bar of a span within its trace, to an eighth of a column, at least that wide."""
    start = _column(span.start_ns, trace)
    eighths = max(1, round(8 * BAR_COLUMNS * span.seconds / max(trace.seconds, 1e-9)))
    full, rest = divmod(eighths, 8)
    return " " * start + ("█" * full + EIGHTHS[rest].strip())[: BAR_COLUMNS - start]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""What came of one run, for a person: the trace as lines, figures, what all nodes show, what did nothing."""

from __future__ import annotations

from crdtmail.screen import flags, out, table
from simulations.actions import spelt
from simulations.config import Config
from simulations.trace import Record, equal_after_heal_s
from simulations.world import Result

FIGURES = {
    "convergence_s": "seconds from when faults stopped until all nodes were equal",
    "read_rounds": "times that everybody had to read again because messages got new UIDs",
    "messages": "messages between nodes, answers included",
    "bytes": "bytes in them, HTTP apart",
    "redundancy": "times that each change was sent to a node that needed it (1 is the least)",
    "quiet_bytes_per_node_and_s": "bytes a node and second when nothing happens",
}
"""What of a run's figures a person is told, and how."""
LAST_RECORDS = 40
MOST_IDLE = 20
"""Events that did nothing, of which a person is told."""


def report(result: Result, config: Config, events: int, *, whole_trace: bool) -> None:
    """Print it."""
    if whole_trace or result.violation is not None:
        for record in result.trace if whole_trace else result.trace[-LAST_RECORDS:]:
            out.print(line(record), markup=False)
    faults = ", ".join(switched_on(config)) or "none but the story's"
    out.print(
        f"seed {result.seed}: {len(config.nodes)} nodes, {config.topology}; {events} events; faults: {faults}"
    )
    out.print(f"trace {result.hash}, {result.at_s:.1f} s of simulated time", markup=False)
    for name, said in FIGURES.items():
        if name in result.figures:
            out.print(f"  {say(result.figures[name]):>12}  {said}", markup=False)
    healed_s = equal_after_heal_s(result.trace)
    if healed_s is not None:
        said = "seconds from when the last cut was healed until all nodes were equal"
        out.print(f"  {say(healed_s):>12}  {said}", markup=False)
    if config.operations == 0:
        _print_shown(result)
    idle = _print_idle(result, config)
    if result.violation is None:
        but = f" But {idle} of the {len(config.story)} events of the story did nothing: see above."
        out.print(f"Every promise held.{but if idle else ''}")
    else:
        out.print(f"BROKEN: {result.violation}", markup=False, style="bold red")


def switched_on(config: Config) -> list[str]:
    """The faults of the run by name, and which of them are high."""
    return [name if level == "on" else f"{name} ({level})" for name, level in sorted(config.faults.items())]


def say(value: float) -> str:
    """A number without an exponent, to four digits where it is no whole one."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 0.001 else f"{value:.6f}".rstrip("0")


def line(record: Record) -> str:
    """A record of the trace."""
    details = record.details[1:] if record.kind == "event" else record.details
    words = " ".join(str(detail) for detail in details if detail != "")
    return f"{record.at_us / 1e6:14.6f}  {record.node:12}  {record.kind:9}  {words}".rstrip()


def _print_shown(result: Result) -> None:
    """Every mailbox with its messages, the empty ones too, and what else clients see."""
    if not result.mailboxes:
        return
    shown = table("account", "mailbox", ">UID", "message", "flags", title="What all nodes show at the end")
    for mailbox in result.mailboxes:
        inside = [row for row in result.shown if row[:2] == (mailbox.account, mailbox.name)]
        for account, name, uid, id, keywords in inside:
            shown.add_row(account, name, str(uid), id, flags(keywords))
        if not inside:
            shown.add_row(mailbox.account, mailbox.name, "", "(empty)", "")
    out.print(shown)
    for mailbox in result.mailboxes:
        if mailbox.said:
            out.print(f"{mailbox.account}, {mailbox.name}: {', '.join(mailbox.said)}", markup=False)
    for account, name, content, is_active in result.scripts:
        active = "active" if is_active else "not active"
        out.print(f"{account}, script {name} ({active}): {' | '.join(content.splitlines())}", markup=False)


def _print_idle(result: Result, config: Config) -> int:
    """A story is written by a person, who wants to hear of each event that came to nothing; how many did."""
    story = {event.action for event in config.story}
    idle = [(at_s, action, why) for at_s, action, why in result.did_nothing if action in story]
    if not idle:
        return 0
    events = "1 event of the story" if len(idle) == 1 else f"{len(idle)} events of the story"
    out.print(f"{events} did nothing:", markup=False)
    for at_s, action, why in idle[:MOST_IDLE]:
        out.print(f"  {at_s:g} s {spelt(action)}: {why}", markup=False)
    if len(idle) > MOST_IDLE:
        out.print(f"  and {len(idle) - MOST_IDLE} more; --trace shows them all")
    return len(idle)

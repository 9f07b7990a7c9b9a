"""The lower part of a timeline: how far the nodes are apart, and what it costs to bring them together."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from simulations.pictures.history import History, bytes_per_round
from simulations.pictures.style import SERIES, SMALL_PT, say_bytes, say_number
from simulations.pictures.thinning import thin_steps
from simulations.pictures.time import say_duration


def draw_panels(panels: Sequence[Axes], history: History, round_us: int, unit_us: int) -> None:
    views, missing, sent = panels
    end_us = history.end_us
    _title(views, "Different versions of the mailboxes among the running nodes (1: all hold the same)")
    _draw_steps(views, [(step.at_us, step.views) for step in history.steps], 1, unit_us, end_us, SERIES[1])
    most = max((step.views for step in history.steps), default=1)
    views.set_ylim(0.6, most + max(0.5, 0.08 * most))
    views.yaxis.set_major_locator(FixedLocator(sorted({1, (1 + most) // 2, most} if most > 2 else {1, most})))
    _title(missing, "Changes that some nodes have and others lack, nodes that are down included")
    _draw_steps(
        missing, [(step.at_us, step.missing) for step in history.steps], 0, unit_us, end_us, SERIES[3]
    )
    missing.set_ylim(0, max((step.missing for step in history.steps), default=0) * 1.1 or 1)
    missing.yaxis.set_major_locator(MaxNLocator(3, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    missing.yaxis.set_major_formatter(FuncFormatter(lambda value, _: say_number(value)))

    length = "second" if round_us == 1_000_000 else say_duration(round_us)
    _title(sent, f"Bytes that all nodes send, per {length}")
    rounds = bytes_per_round(history.messages, round_us, history.end_us)
    edges = [min(number * round_us, end_us) / unit_us for number in range(len(rounds) + 1)]
    sent.stairs(rounds, edges, fill=True, color=SERIES[0], lw=0)
    sent.set_ylim(0, max(rounds) * 1.1 or 1)
    sent.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    sent.yaxis.set_major_formatter(FuncFormatter(lambda value, _: say_bytes(value)))


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", size=SMALL_PT, pad=4)


def _draw_steps(
    axes: Axes, steps: list[tuple[int, int]], ground: int, unit_us: int, end_us: int, colour: str
) -> None:
    if not steps:
        return
    kept = thin_steps(steps, end_us, 1500)
    xs = [at_us / unit_us for at_us, _ in kept] + [end_us / unit_us]
    ys = [value for _, value in kept] + [kept[-1][1]]
    axes.fill_between(xs, ys, ground, step="post", color=colour, alpha=0.35, lw=0)
    axes.step(xs, ys, where="post", color=colour, lw=1.1)

"""One of three is cut off for a month and used all the while."""

from simulations.actions import Event, Heal, Isolate
from simulations.config import Config

DAY = 86_400.0

CONFIG = Config(
    seconds=32 * DAY,
    operations=200,
    clients=6,
    interval_s=3600,
    last_retry_s=3600,
    story=(
        Event(1 * DAY, Isolate("mx3")),
        Event(31 * DAY, Heal()),
    ),
)

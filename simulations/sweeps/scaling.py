"""What it costs to bring one change to every node, and what a quiet cluster says, by topology and size.

Up to some hundred nodes the real gossip is measured; up to a thousand a model says what is to be expected.
"""

from __future__ import annotations
import sys, time
from simulations.sweeps.cluster import Cluster
from crdtmail.effects import Kind


def go(n, topo, seed=1):
    t = time.time()
    c = Cluster(seed, n, topo, interval_s=3600)
    t1 = time.time()
    c.count_anew()
    for i, name in enumerate(c.config.nodes):
        c.deliver(name, f"box {name}")
    c.run(2)
    c.until_equal(600)
    c.until(c.is_quiet, 600)
    t2 = time.time()
    print(
        n,
        topo,
        "start",
        round(t1 - t, 1),
        "fill",
        round(t2 - t1, 1),
        dict(c.said.requests),
        "red",
        c.sent_deltas / sum(c.checks.received.values()),
        c.now_us / 1e6,
    )
    for k in range(3):
        t = time.time()
        said = c.count_anew()
        node = c.chance.choice(c.config.nodes)
        p = c.deliver_and_follow(node, f"box {node}")
        s = c.until_equal(600)
        c.until(c.is_quiet, 600)
        print(
            "   s",
            s,
            "hops",
            max(p.hops.values()),
            "copies",
            p.copies,
            p.copies / (n - 1),
            dict(said.requests),
            "bytes",
            sum(said.bytes.values()),
            "busiest",
            max(said.bytes.values()),
            "delta",
            len(p.delta),
            "wall",
            round(time.time() - t, 1),
        )


if __name__ == "__main__":
    go(int(sys.argv[1]), sys.argv[2])

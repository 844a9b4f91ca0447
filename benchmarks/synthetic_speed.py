"""How many synthetic places a minute one core makes, and how their labels err.

Run `OMP_NUM_THREADS=1 python benchmarks/synthetic_speed.py [places]` (default 40; 128 px, 4 seasons). The promise is
100 places a minute and core; the labeller of the world is fitted once a process, and counted apart.
"""

from __future__ import annotations

import json
import sys
import time

from cromss.data.synthetic import LabelTally, SyntheticWorld, make_place


def main() -> None:
    """Make places of both worlds and both designs, and print rates and figures."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    for name, design in (("pretrain", "systematic"), ("pretrain", "idiosyncratic"), ("shifted", "systematic")):
        world = SyntheticWorld(name=name)
        start = time.process_time()
        make_place(world, 0, design=design)
        first = time.process_time() - start
        start = time.process_time()
        records = [make_place(world, index, design=design) for index in range(count)]
        seconds = time.process_time() - start
        print(f"{name}, {design}: {60 * count / seconds:.0f} places a minute of one core; the first took {first:.1f} s")
        if name == "pretrain":
            tally = LabelTally(names=world.legend.names)
            for record in records:
                tally.add(record.labels, record.truth)
            print(json.dumps(tally.figures(), indent=1))


if __name__ == "__main__":
    main()

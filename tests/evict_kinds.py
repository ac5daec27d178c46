#!/usr/bin/env python3
"""evict_kinds.py - the eviction policy on made requests of many kinds, beside LRU:  evict_kinds.py BUILD [SEEDS]

Real traces are few.  Each seed (0 to 119, unless told otherwise) draws a kind of requests and its numbers, or two
kinds, mixed or taking turns; BUILD/tests/evict-sim replays them in tiers of three sizes.  Shown is what is more than
half a point below LRU, and what all have come to.
"""
import bisect
import heapq
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

COUNT = 100000
SIZES = ["300", "1000", "3000"]
APART = 10**7  # between the keys of two kinds


def zipf(draw, keys, skew):
    sums, total = [], 0
    for rank in range(1, keys + 1):
        total += 1 / rank**skew
        sums.append(total)
    return lambda: bisect.bisect_left(sums, draw.random() * total)


def stack(draw, late, fresh):
    """Each request is for the key asked for so many different keys ago: LRU is the best there can be."""
    latest, asked, made = [], [], 0
    for _ in range(COUNT):
        distance = int(late())
        if draw.random() >= fresh and distance < len(latest):
            key = latest.pop(len(latest) - 1 - distance)
        else:
            key, made = made, made + 1
        latest.append(key)
        asked.append(key)
        del latest[:-20000]
    return asked


def skewed(draw):
    one = zipf(draw, draw.choice([2000, 10000, 30000]), draw.uniform(0.5, 1.2))
    return "skewed", [one() for _ in range(COUNT)]


def lognormal(draw):
    middle, width = draw.uniform(4.5, 7.5), draw.uniform(0.6, 2.5)
    return f"stack lognormal {middle:.1f} {width:.1f}", stack(draw, lambda: draw.lognormvariate(middle, width), 0)


def exponential(draw):
    mean, fresh = draw.uniform(100, 4000), draw.uniform(0, 0.2)
    return f"stack exponential {mean:.0f} {fresh:.2f}", stack(draw, lambda: draw.expovariate(1 / mean), fresh)


def sliding(draw):
    width, slow = draw.randrange(100, 6000), draw.choice([5, 20, 100])
    return f"sliding {width} {slow}", [i // slow + draw.randrange(width) for i in range(COUNT)]


def looping(draw):
    loop, one, share = draw.randrange(200, 6000), zipf(draw, 10000, draw.uniform(0.6, 1.1)), draw.random()
    return f"loop {loop} {share:.2f}", [50000 + i % loop if draw.random() < share else one() for i in range(COUNT)]


def few(draw):
    """Every key a few times within a while, and never again."""
    within, most = draw.randrange(100, 5000), draw.choice([1, 2, 4])
    due, asked, made = [], [], 0
    for i in range(COUNT):
        if due and due[0][0] <= i:
            asked.append(heapq.heappop(due)[1])
            continue
        asked.append(made)
        for _ in range(draw.randrange(0, most + 1)):
            heapq.heappush(due, (i + draw.randrange(1, within), made))
        made += 1
    return f"few {within} {most}", asked


def drifting(draw):
    one = zipf(draw, draw.choice([3000, 10000]), draw.uniform(0.7, 1.1))
    every, step = draw.choice([5000, 20000]), draw.randrange(100, 5000)
    return f"drift {every} {step}", [one() + i // every * step for i in range(COUNT)]


def bursts(draw):
    one, most, asked = zipf(draw, 8000, draw.uniform(0.6, 1)), draw.randrange(2, 8), []
    while len(asked) < COUNT:
        asked += [one()] * draw.randrange(1, most)
    return f"bursts {most}", asked[:COUNT]


KINDS = [skewed, lognormal, exponential, sliding, looping, few, drifting, bursts]


def requests(draw):
    name, asked = draw.choice(KINDS)(draw)
    if draw.random() > 0.35:
        return name, asked
    other, more = draw.choice(KINDS)(draw)
    if draw.random() < 0.5:
        return f"{name}, mixed with {other}", [a if draw.random() < 0.5 else b + APART for a, b in zip(asked, more)]
    turns = [asked[i] if i // 15000 % 2 else more[i] + APART for i in range(COUNT)]
    return f"{name}, in turns with {other}", turns


def points(sim, asked, path):
    """Points above LRU, of each size."""
    path.write_bytes(struct.pack(f">{len(asked)}i", *(key + 1 for key in asked)))
    shown = subprocess.run([sim, path, *SIZES], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in shown.splitlines()[2:2 + len(SIZES)]]
    return [float(row[2]) - float(row[1]) for row in rows]


def main(build, seeds):
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            name, asked = requests(random.Random(seed))
            row = points(pathlib.Path(build) / "tests/evict-sim", asked, pathlib.Path(folder) / "made.trace")
            found += row
            if min(row) < -0.5:
                print(f"seed {seed:3}  {'  '.join(f'{p:+.2f}' for p in row)}  {name}", flush=True)
    low = sum(p < -0.5 for p in found)
    print(f"{len(found)} runs: {sum(found) / len(found):+.2f} points on LRU in the mean, {low} more than half a point "
          f"below, the worst {min(found):+.2f}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: evict_kinds.py BUILD [SEEDS]")
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 120)

#!/usr/bin/env python3
"""trace_check.py - hold what real processes did to the rules that the model's assertions rest on.

usage: trace_check.py [--bound-ms N] [--spoil] DIR      (the files of a run, one a process: tests/race/trace_test.c)

A line is: ns pid host event partition epoch position extra more hashes.  Events, as core/trace.h orders them against
their stores, and what must hold of each:

  confirmed, resent  Redis answered a change (of keys, tags, or a clear) with epoch and position
  fence, clear       stored
  floor              stored
  applied            about to be stored: every change up to it is in this host's fences, or under its clear or floor
  epoch              about to be stored: floor and applied are at its position, which is above all of the one it follows
  proven             everything that was confirmed in this epoch before `extra`, the moment of asking, has a position up
                     to the proven one, and applied has come that far
  ticket, filled     no change of the key between the two, nor an epoch; and a ticket fills once
  guarded, unguarded nothing is filled, and no ticket given, between a guard's begin and its end
  written            in the outbox: some time later it is confirmed
  returned           a change returned to its caller: answers begun later on this host are not older (P3); and when
                     the host adopts an epoch, it is sent again before anything is proven there
  read               an answer: no change of its epoch and key above its as-of was confirmed longer than the bound
                     before it was judged (P1)

With --spoil copies of the trace are spoiled, for each rule in turn, and must be found out.  Exit status: 0 all holds,
1 it does not, 2 the run shows too little to tell.
"""
import argparse
import bisect
import collections
import os
import sys

KEEP_NS = 50 * 10**9  # renew.c sends again what was confirmed within 60 s
FRAME_CLEAR, FRAME_TAGS = 3, 4  # what `extra` says of a confirmed one
OUTBOX_CLEAR, OUTBOX_TAG = 2, 3  # and of one resent or written

Event = collections.namedtuple("Event", "ns pid host kind part epoch position extra more hashes")


def load(directory):
    events = []
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), encoding="ascii") as file:
            for line in file:
                ns, pid, host, kind, part, epoch, position, extra, more, hashes = line.split()
                events.append(Event(int(ns), int(pid), int(host), kind, int(part), int(epoch, 16), int(position),
                                    int(extra, 16), more, () if hashes == "-" else tuple(hashes.split(","))))
    events.sort(key=lambda event: event.ns)
    return events


def is_tags(event):
    return event.extra == (FRAME_TAGS if event.kind == "confirmed" else OUTBOX_TAG)


def is_clear(event):
    return event.extra == (FRAME_CLEAR if event.kind == "confirmed" else OUTBOX_CLEAR)


class Changes:
    """What Redis confirmed: by key and by epoch, in the order of positions."""

    def __init__(self, events):
        self.all = sorted({(e.position, e.epoch, e.ns, e.hashes, is_clear(e)) for e in events
                           if e.kind in ("confirmed", "resent") and not is_tags(e)}, key=lambda change: change[0])
        self.positions = [change[0] for change in self.all]
        self.by_key = collections.defaultdict(list)
        self.clears = []
        self.epochs = {}
        for position, epoch, ns, hashes, clear in self.all:
            low, high = self.epochs.get(epoch, (position, position))
            self.epochs[epoch] = (min(low, position), max(high, position))
            for key in hashes:
                self.by_key[key].append((position, epoch, ns))
            if clear:
                self.clears.append((position, epoch, ns))

    def between(self, low, high):
        """All with low < position <= high."""
        return self.all[bisect.bisect_right(self.positions, low):bisect.bisect_right(self.positions, high)]

    def of(self, key, low):
        """Those of a key, and the clears, above a position."""
        for changes in (self.by_key.get(key, ()), self.clears):
            yield from changes[bisect.bisect_right(changes, (low, 1 << 64, 0)):]


def near(a, b):
    """Positions of one epoch?  A new one leaps by 2^32."""
    return abs(a - b) < 1 << 31


def check_page(events, changes):
    """fence, clear, floor, applied, epoch, proven: the words of each host."""
    fences = collections.defaultdict(int)
    floor, clear, applied = (collections.defaultdict(int) for _ in range(3))
    confirmed = collections.defaultdict(list)
    for position, epoch, ns, _, _ in changes.all:
        confirmed[epoch].append((ns, position))
    highest = {}
    for epoch, list_ in confirmed.items():
        list_.sort()
        top, tops = 0, []
        for ns, position in list_:
            top = max(top, position)
            tops.append(top)
        highest[epoch] = ([ns for ns, _ in list_], tops)
    for e in events:
        h = e.host
        if e.kind == "fence":
            for key in e.hashes:
                fences[h, key] = max(fences[h, key], e.position)
        elif e.kind == "clear":
            clear[h] = max(clear[h], e.position)
        elif e.kind == "floor":
            floor[h] = max(floor[h], e.position)
        elif e.kind == "applied":
            for position, _, _, hashes, was_clear in changes.between(max(applied[h], floor[h]), e.position):
                if was_clear and clear[h] < position:
                    yield "fences", e, f"the clear at {position} is not in"
                for key in hashes:
                    if max(fences[h, key], clear[h]) < position:
                        yield "fences", e, f"the change of {key} at {position} is not in its fence"
            applied[h] = max(applied[h], e.position)
        elif e.kind == "epoch":
            if floor[h] < e.position or applied[h] < e.position:
                yield "adopted", e, "before floor and applied"
            if changes.epochs.get(e.extra, (0, 0))[1] >= e.position:
                yield "adopted", e, "at a position that the epoch before it has reached"
        elif e.kind == "proven":
            if applied[h] < e.position:
                yield "applied", e, f"though only {applied[h]} was applied"
            times, tops = highest.get(e.epoch, ((), ()))
            before = bisect.bisect_left(times, e.extra)
            if before and tops[before - 1] > e.position:
                yield "proven", e, f"though {tops[before - 1]} had been confirmed before it was asked"


def check_fills(events, changes):
    """ticket, filled, guarded, unguarded."""
    tickets, guards, used = {}, {}, set()
    held = collections.defaultdict(list)
    for e in events:
        if e.kind == "ticket":
            tickets[e.extra] = e
        elif e.kind == "guarded":
            guards[e.extra] = e
        elif e.kind == "unguarded" and e.extra in guards and guards[e.extra].epoch == e.epoch:
            for key in e.hashes:
                held[key].append((guards[e.extra].position, e.position))
    for e in events:
        if e.kind not in ("ticket", "filled"):
            continue
        for begin, end in held.get(e.hashes[0], ()):
            if begin <= e.position < end:
                yield "guarded", e, f"under a guard in force from {begin} to {end}"
        if e.kind != "filled" or e.extra not in tickets:
            continue
        ticket = tickets[e.extra]
        if ticket.epoch != e.epoch or e.extra in used:
            yield "filled", e, "with a ticket of another epoch, or a used one"
        used.add(e.extra)
        for position, epoch, _ in changes.of(e.hashes[0], ticket.position):
            if epoch == e.epoch and position <= e.position:
                yield "filled", e, f"though it changed at {position}, after the ticket of {ticket.position}"


def check_outbox(events):
    """written: all is confirmed in the end.  returned: sent again in the next epoch before it is proven."""
    last, cleared = {}, collections.defaultdict(int)
    for e in events:
        if e.kind in ("confirmed", "resent"):
            for key in e.hashes:
                last[e.host, key] = e.ns
            if is_clear(e):
                cleared[e.host] = e.ns
    for e in events:
        if e.kind == "written" and e.extra != OUTBOX_TAG:
            for key in e.hashes:
                if max(last.get((e.host, key), 0), cleared[e.host]) < e.ns:
                    yield "kept", e, f"and {key} was never confirmed"
    returned = collections.defaultdict(dict)
    owed = {}
    for e in events:
        if e.kind == "returned":
            returned[e.host][e.hashes[0]] = (e.ns, e.position)
        elif e.kind == "epoch":
            owed[e.host] = (e.epoch, e.position, {key for key, (ns, position) in returned[e.host].items()
                                                  if ns > e.ns - KEEP_NS and position < e.position})
        elif e.kind in ("confirmed", "resent") and e.host in owed and e.epoch == owed[e.host][0]:
            if is_clear(e):
                owed[e.host][2].clear()
            else:
                owed[e.host][2].difference_update(e.hashes)
        elif e.kind == "proven" and e.host in owed and e.epoch == owed[e.host][0] and owed[e.host][2]:
            yield "resent", e, f"before {len(owed[e.host][2])} changes of the last epoch were sent again"
            owed[e.host][2].clear()


def check_reads(events, changes, bound_ns):
    """read: the bound, and the host's own changes."""
    returned = collections.defaultdict(list)
    for e in events:
        if e.kind == "returned":
            returned[e.host, e.hashes[0]].append((e.ns, e.position))
    tops = {}
    for where, list_ in returned.items():
        top, so_far = 0, []
        for _, position in list_:
            top = max(top, position)
            so_far.append(top)
        tops[where] = ([ns for ns, _ in list_], so_far)
    for e in events:
        if e.kind != "read":
            continue
        begun, judged = map(int, e.more.split(","))
        moment = judged if e.extra else begun
        key = e.hashes[0]
        for position, _, ns in changes.of(key, e.position):
            if near(position, e.position) and ns < moment - bound_ns:
                yield "bound", e, f"void since {position}, for {(moment - ns) // 10**6} ms"
                break
        times, so_far = tops.get((e.host, key), ((), ()))
        before = bisect.bisect_left(times, begun)
        if before and so_far[before - 1] > e.position:
            yield "own", e, f"older than this host's change at {so_far[before - 1]}"


def check(events, bound_ns):
    changes = Changes(events)
    yield from check_page(events, changes)
    yield from check_fills(events, changes)
    yield from check_outbox(events)
    yield from check_reads(events, changes, bound_ns)


# ---- spoiling ----

def replaced(events, old, **new):
    return sorted((e._replace(**new) if e is old else e for e in events), key=lambda event: event.ns)


def find(events, *kinds):
    return [e for e in events if e.kind in kinds]


def spoil_bound(events, bound_ns):
    changes = Changes(events)
    for e in find(events, "read"):
        judged = int(e.more.split(",")[1])
        for position, _, ns in changes.by_key.get(e.hashes[0], ()):
            if e.extra and position <= e.position and near(position, e.position) and ns < judged - bound_ns:
                return replaced(events, e, position=position - 1)
    return None


def spoil_own(events, _):
    first = {}
    for e in events:
        if e.kind == "returned":
            first.setdefault((e.host, e.hashes[0]), e)
        elif e.kind == "read" and (e.host, e.hashes[0]) in first:
            change = first[e.host, e.hashes[0]]
            if int(e.more.split(",")[0]) > change.ns and e.position >= change.position:
                return replaced(events, e, position=change.position - 1)
    return None


def spoil_fences(events, _):
    """A host that never hears of one key of the log."""
    for change in find(events, "confirmed"):
        if change.extra == 1 and change.hashes:
            rest = [e for e in events
                    if not (e.kind == "fence" and e.host != change.host and e.hashes == change.hashes)]
            if len(rest) < len(events):
                return rest
    return None


def spoil_applied(events, _):
    proofs = find(events, "proven")
    for proof in proofs[len(proofs) // 2:]:
        return [e for e in events
                if not (e.kind == "applied" and e.host == proof.host and e.position >= proof.position)]
    return None


def spoil_proven(events, _):
    """A proof that counts from the answer's arrival, or later, instead of from the question."""
    for proof in find(events, "proven"):
        for change in find(events, "confirmed"):
            if change.epoch == proof.epoch and change.position > proof.position and not is_tags(change):
                return replaced(events, proof, extra=change.ns + 1)
    return None


def spoil_adopted(events, _):
    epochs = find(events, "epoch")
    return epochs and [e for e in events if not (e.kind == "floor" and e.position == epochs[-1].position)]


def spoil_filled(events, _):
    changes = Changes(events)
    tickets = {e.extra: e for e in find(events, "ticket")}
    for e in find(events, "filled"):
        for position, epoch, _ in changes.by_key.get(e.hashes[0], ()):
            if epoch == e.epoch and position <= e.position and e.extra in tickets:
                return replaced(events, tickets[e.extra], position=position - 1)
    return None


def spoil_guarded(events, _):
    guards = {e.extra: e for e in find(events, "guarded")}
    for e in find(events, "unguarded"):
        if e.extra in guards and guards[e.extra].epoch == e.epoch:
            return events + [e._replace(kind="ticket", position=guards[e.extra].position, extra=0)]
    return None


def spoil_kept(events, _):
    written = [e for e in find(events, "written") if e.hashes and e.extra == 1]
    return written and events + [written[-1]._replace(ns=events[-1].ns + 1)]


def spoil_resent(events, _):
    """Nothing is ever sent again."""
    rest = [e for e in events if e.kind != "resent"]
    return rest if len(rest) < len(events) else None


SPOILS = {"bound": spoil_bound, "own": spoil_own, "fences": spoil_fences, "applied": spoil_applied,
          "proven": spoil_proven, "adopted": spoil_adopted, "filled": spoil_filled, "guarded": spoil_guarded,
          "kept": spoil_kept, "resent": spoil_resent}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bound-ms", type=int, default=500)
    parser.add_argument("--spoil", action="store_true")
    parser.add_argument("directory")
    options = parser.parse_args()
    bound_ns = options.bound_ms * 10**6
    events = load(options.directory)
    counts = collections.Counter(e.kind for e in events)
    print("trace: " + ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts)))
    wrong = 0
    for rule, e, why in check(events, bound_ns):
        wrong += 1
        if wrong <= 10:
            print(f"trace: rule {rule}: host {e.host}, process {e.pid}, at {e.ns}: {e.kind} {e.position} {why}")
    print(f"trace: {len(events)} events, {wrong} against the rules")
    if wrong or not options.spoil:
        return 1 if wrong else 0
    status = 0
    for rule, spoil in SPOILS.items():
        spoiled = spoil(events, bound_ns)
        if not spoiled:
            print(f"trace: nothing in this run to spoil for the rule {rule}")
            status = max(status, 2)
        elif rule not in {broken for broken, _, _ in check(spoiled, bound_ns)}:
            print(f"trace: spoiled for the rule {rule}, and not found out")
            status = 1
    if status == 0:
        print(f"trace: spoiled in {len(SPOILS)} ways, found out each time")
    return status


if __name__ == "__main__":
    sys.exit(main())

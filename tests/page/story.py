# SPDX-License-Identifier: Apache-2.0
"""A pool that is told, not mounted: holders, a puncher that comes again and again, and the answers that each policy gives."""
import itertools
import json
import queue
import threading
import time

BLOCK = 4096
MIB = 1 << 20
KINDS = ("pin", "unpin", "lease", "unlease", "break", "refused", "deferred", "waiting", "resumed", "timeout", "interrupted",
         "freed", "policy", "quarantine")
FILES = {"/buffer": (2, 1024, 16384), "/kv/shard-0": (3, 20480, 24576), "/kv/shard-1": (4, 46080, 12288),
         "/log/2026-11": (5, 59904, 9000), "/models/weights.bin": (6, 73728, 28000)}  # inode, first block, blocks
SCRATCH = 104448


class Clock:
    """The machine's time, or a faster one."""

    def __init__(self):
        self.real, self.told, self.speed = time.time(), time.time(), 1.0

    def now(self):
        return self.told + (time.time() - self.real) * self.speed

    def run(self, speed):
        self.told, self.real, self.speed = self.now(), time.time(), speed


class Story:
    """What the server tells. `lock` guards all of it. Steps are taken by `advance`, or by a thread (`play`)."""

    def __init__(self):
        self.lock = threading.RLock()
        self.clock = Clock()
        self.may_switch, self.may_see_events, self.stopped = True, True, None
        self.degraded = []
        self.refuse_policies = None  # a sentence, with which every switch is answered
        self.policy = {"pin_policy": "refuse", "on_timeout": "refuse", "wait_timeout": 30.0, "break_timeout": 45.0,
                       "short_timeout": 1.0, "exit_grace": 40.0, "longterm": "allow", "pin_limit": None, "user_limit": 4096,
                       "limbo_limit": 131953664}
        self.blocks = 128861
        self.holders, self.leases, self.limbo, self.waiting = {}, [], [], []
        self.counters = dict.fromkeys(KINDS, 0)
        self.listeners = []
        self.asked = []  # every policy that was asked for
        self.snapshots, self.under_way, self.most_under_way = 0, 0, 0
        self.scratch = 6000  # blocks of a file that grows and is cut again
        self.cells = None  # instead of those of the story
        self.ids = itertools.count(1)
        self.ended = threading.Event()

    # ---- what happens --------------------------------------------------------------------------------------------------

    def emit(self, kind, pid, path="", offset=0, length=0, **more):
        with self.lock:
            self.counters[kind] += 1
            event = {"time": self.clock.now(), "event": kind, "inode": FILES.get(path, (0,))[0], "offset": offset,
                     "length": length, "policy": self.policy["pin_policy"], "pid": pid, **({"path": path} if path else {}), **more}
            for listener in self.listeners:
                listener.put(event)

    def hold(self, pid, command, path, blocks, lease=False, short=0, grace=False, at=0):
        with self.lock:
            inode, first, _ = FILES.get(path, (9, 104000, 0))
            self.holders[pid] = {"pid": pid, "command": command, "path": path, "first": first + at, "at": at, "blocks": blocks,
                                 "long": 1 + (blocks // 4096), "short": short, "grace": grace, "since": self.clock.now(), "files": 1}
            self.emit("pin", pid, path, at * BLOCK, blocks * BLOCK)
            if lease:
                self.leases.append({"id": next(self.ids), "inode": inode, "path": path, "offset": at * BLOCK, "length": blocks * BLOCK,
                                    "exclusive": False, "breaking": False, "deadline": None, "pid": pid, "command": command, "uid": 0})
                self.emit("lease", pid, path, at * BLOCK, blocks * BLOCK)

    def release(self, pid):
        with self.lock:
            holder = self.holders.pop(pid, None)
            if not holder:
                return
            for lease in [one for one in self.leases if one["pid"] == pid]:
                self.leases.remove(lease)
                self.emit("unlease", pid, lease["path"], lease["offset"], lease["length"])
            self.emit("unpin", pid, holder["path"], holder["at"] * BLOCK, holder["blocks"] * BLOCK)
            for piece in [one for one in self.limbo if one["pid"] == pid]:
                self.limbo.remove(piece)
                self.emit("freed", pid, "", piece["first"] * BLOCK, piece["blocks"] * BLOCK)
            for request in list(self.waiting):
                request["waits_for"] = [one for one in request["waits_for"] if one["pid"] != pid]
                if not request["waits_for"]:
                    self.waiting.remove(request)
                    self.emit("resumed", request["pid"], request["path"], request["offset"], request["length"])

    def punch(self, pid, path, at, blocks, request="punch", command="fallocate"):
        """A detach that meets pins: answered as the policy says."""
        with self.lock:
            inode, first, _ = FILES[path]
            met = [h for h in self.holders.values() if h["path"] == path and h["at"] < at + blocks and at < h["at"] + h["blocks"]]
            policy, place = self.policy["pin_policy"], (path, at * BLOCK, blocks * BLOCK)
            if not met:
                return
            if policy == "refuse":
                self.emit("refused", pid, *place)
            elif policy == "defer":
                if not any(p["first"] < first + at + blocks and first + at < p["first"] + p["blocks"] for p in self.limbo):
                    self.limbo.append({"pid": met[0]["pid"], "first": first + at, "blocks": blocks, "since": self.clock.now()})
                self.emit("deferred", pid, *place)
            else:
                seconds = self.policy["wait_timeout" if policy == "wait" else "break_timeout"]
                now = self.clock.now()
                ahead = [one["id"] for one in self.waiting if one["path"] == path]
                self.waiting.append({"id": next(self.ids), "request": request, "inode": inode, "path": path, "offset": at * BLOCK,
                                     "length": blocks * BLOCK, "policy": policy, "pid": pid, "command": command, "uid": 0,
                                     "since": now, "deadline": now + seconds if seconds else None, "behind": ahead,
                                     "waits_for": [{"pid": h["pid"], "command": h["command"], "pins": h["long"],
                                                    "leases": sum(one["pid"] == h["pid"] for one in self.leases)} for h in met]})
                self.emit("waiting", pid, *place)
                for lease in self.leases if policy == "break" else []:
                    if lease["path"] == path and not lease["breaking"]:
                        lease.update(breaking=True, deadline=now + 45)
                        self.emit("break", lease["pid"], path, lease["offset"], lease["length"])

    def expire(self):
        with self.lock:
            for request in [one for one in self.waiting if one["deadline"] and one["deadline"] < self.clock.now()]:
                self.waiting.remove(request)
                self.emit("timeout", request["pid"], request["path"], request["offset"], request["length"])
                self.emit("refused", request["pid"], request["path"], request["offset"], request["length"])

    def set_policy(self, text):
        """The sentence that refuses it, or None."""
        with self.lock:
            self.asked.append(text)
            if self.refuse_policies:
                return self.refuse_policies
            name, _, value = text.partition("=")
            if name == "pin_policy" and value in ("refuse", "defer", "wait", "break"):
                self.policy["pin_policy"] = value
            elif name == "wait_timeout" and (value == "none" or value.rstrip("s").replace(".", "").isdigit()):
                self.policy["wait_timeout"] = None if value == "none" else float(value.rstrip("s"))
            else:
                return f"{text}: not a policy; say for instance pin_policy=defer or wait_timeout=5s"
            self.emit("policy", 4242)
            again, self.waiting = self.waiting, []
            for one in again:  # judged anew
                self.punch(one["pid"], one["path"], one["offset"] // BLOCK, one["length"] // BLOCK, one["request"], one["command"])
            return None

    # ---- what is told --------------------------------------------------------------------------------------------------

    def snapshot(self, wanted):
        with self.lock:
            self.expire()
            held = [h for h in self.holders.values() if not h["grace"]]
            limbo = sum(piece["blocks"] for piece in self.limbo)
            used = sum(blocks for _, _, blocks in FILES.values()) + self.scratch
            pins = {"long": sum(h["long"] for h in self.holders.values()), "short": sum(h["short"] for h in held),
                    "bytes": sum(h["blocks"] for h in self.holders.values()) * BLOCK}
            return {
                "time": self.clock.now(), "may_switch": self.may_switch,
                "status": {"pool": "/dev/dax0.0", "uuid": "5f0c7a52-6c52-4d7b-9d3c-0f4a6f6b7d11", "mountpoint": "/mnt/daxfs",
                           "block_size": BLOCK, "total": self.blocks * BLOCK, "free": (self.blocks - used) * BLOCK,
                           "limbo": limbo * BLOCK, "pins": pins, "leases": len(self.leases), "waiting": len(self.waiting),
                           "policy": dict(self.policy), "granularity": "cache_line", "dax": True, "read_only": False,
                           "stopped": self.stopped, "degraded": self.degraded},
                "holders": [self.told_holder(h) for h in self.holders.values()],
                "waiting": [dict(one) for one in self.waiting], "leases": [dict(one) for one in self.leases][:200],
                "limbo": {"pieces": len(self.limbo), "since": min((p["since"] for p in self.limbo), default=None)},
                "events": dict(self.counters), "map": self.map(wanted)}

    def told_holder(self, holder):
        leases = [one for one in self.leases if one["pid"] == holder["pid"]]
        return {"pid": holder["pid"], "command": holder["command"], "long": holder["long"], "short": holder["short"],
                "bytes": holder["blocks"] * BLOCK, "leases": len(leases), "breaking": sum(one["breaking"] for one in leases),
                "holds_up": sum(any(w["pid"] == holder["pid"] for w in one["waits_for"]) for one in self.waiting),
                "grace": holder["long"] if holder["grace"] else 0, "since": holder["since"], "path": holder["path"],
                "files": holder["files"]}

    def map(self, wanted):
        if self.cells:
            return {"cell_blocks": -(-self.blocks // len(self.cells)), "blocks": self.blocks, "cells": self.cells}
        size = max(1, -(-self.blocks // max(1, wanted)))
        cells = [[0, 0, 0, 0, 0] for _ in range(-(-self.blocks // size))]

        def add(first, blocks, field, pid=0):
            while blocks > 0:
                at = first // size
                step = min(blocks, (at + 1) * size - first)
                cells[at][field] += step
                cells[at][4] = pid or cells[at][4]
                first, blocks = first + step, blocks - step

        for _, first, blocks in FILES.values():
            add(first, blocks, 0)
        add(SCRATCH, self.scratch, 0)
        for holder in self.holders.values():
            add(holder["first"], holder["blocks"], 3 if holder["grace"] else 1, holder["pid"])
        for piece in self.limbo:
            add(piece["first"], piece["blocks"], 2, piece["pid"])
            add(piece["first"], piece["blocks"], 0)
            for at in range(piece["first"] // size, -(-(piece["first"] + piece["blocks"]) // size)):
                used, pinned, limbo, grace, pid = cells[at]
                cells[at] = [max(0, min(used, size) - limbo), max(0, pinned - limbo), limbo, grace, pid]
        return {"cell_blocks": size, "blocks": self.blocks, "cells": cells}

    # ---- the script ----------------------------------------------------------------------------------------------------

    def begin(self):
        self.hold(4711, "daxfs-hold", "/buffer", 12288)
        self.hold(5120, "kv-server", "/kv/shard-0", 20480, lease=True)
        self.hold(6033, "rdma-target", "/models/weights.bin", 8192, at=9000)
        self.hold(6100, "nvme-of", "/log/2026-11", 2048, at=5000, short=2)
        self.hold(3977, "loader", "/kv/shard-1", 3000, grace=True, at=6000)

    def step(self, number):
        """One scripted moment; `number` counts them."""
        beat = number % 12
        self.scratch = 2000 + 900 * (number % 19)
        if beat in (1, 5, 7):
            self.punch(4800 + number % 3, "/buffer", 256 * (number % 40), 512)
        elif beat == 3:
            self.punch(4900, "/kv/shard-0", 2048, 4096, "truncate", "truncate")
        elif beat == 4 and any(one["breaking"] for one in self.leases):
            self.release(5120)
        elif beat == 6 and 5120 not in self.holders:
            self.hold(5120, "kv-server", "/kv/shard-0", 20480, lease=True)
        elif beat == 10:
            self.release(4711)
        elif beat == 11:
            self.hold(4711, "daxfs-hold", "/buffer", 12288)
        elif beat == 8:
            self.release(6033)
        elif beat == 9:
            self.hold(6033, "rdma-target", "/models/weights.bin", 8192 + 512 * (number % 5), at=9000)
        self.expire()

    def play(self, beat=1.5):
        number = 0
        while not self.ended.wait(beat / self.clock.speed):
            number += 1
            self.step(number)


def lines(listener, ended):
    """Events of one reader as the server sends them; a comment now and then shows that the line is alive."""
    while not ended.is_set():
        try:
            yield f"data: {json.dumps(listener.get(timeout=0.5))}\n\n"
        except queue.Empty:
            yield ": \n\n"

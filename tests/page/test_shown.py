# SPDX-License-Identifier: Apache-2.0
"""What appears: numbers, tables, the map, waiting requests, events; also names that are meant to harm, and crowds."""
import random
import time

from opened import Opened
from story import BLOCK, MIB


class Shown(Opened):
    def test_the_head_and_the_gauges_say_what_the_pool_is(self):
        self.open()
        self.assertEqual(self.browser.text("#mountpoint"), "/mnt/daxfs")
        self.assertIn("/dev/dax0.0 · 503 MiB", self.browser.text("#pool"))
        self.assertEqual(self.browser.text("#force"), "refuse")
        self.assertEqual(self.browser.text("[data-gauge=pinned] .value"), "180 MiB")
        self.assertEqual(self.browser.text("[data-gauge=waiting] .value"), "0")
        self.assertEqual(self.browser.text("#no_requests"), "No request waits.")

    def test_the_title_is_the_mount_point(self):
        self.open()
        self.assertEqual(self.browser.ask("document.title"), "/mnt/daxfs – daxfs")

    def test_a_request_that_waits_says_for_whom_and_counts_down(self):
        self.story.policy["pin_policy"] = "wait"
        self.open()
        self.story.punch(4800, "/buffer", 0, 256)
        self.story.punch(4801, "/buffer", 256, 256)
        self.wait("document.querySelectorAll('.request').length === 2")
        first = self.browser.text(".request")
        for part in ("punch", "/buffer", "0 – 1 MiB", "fallocate (4800)", "daxfs-hold (4711)", "4 pins", "left, then refused"):
            self.assertIn(part, first)
        self.assertIn("behind 1 earlier request", self.browser.text(".request:nth-child(2)"))
        left = self.browser.text(".request .left")
        self.wait(f"document.querySelector('.request .left').innerText !== {left!r}", "the time goes on")
        self.story.release(4711)
        self.wait("document.querySelectorAll('.request').length === 0 && !document.querySelector('#no_requests').hidden")

    def test_a_request_without_a_deadline_has_no_time_limit(self):
        self.story.policy.update(pin_policy="wait", wait_timeout=None)
        self.open()
        self.story.punch(4800, "/buffer", 0, 256)
        self.wait("document.querySelector('.request .left')?.innerText === 'no time limit'")

    def test_a_truncate_to_the_end_of_all_numbers_is_said_in_words(self):
        self.story.policy["pin_policy"] = "wait"
        self.story.punch(4800, "/buffer", 256, 256, "truncate")
        self.story.waiting[0]["length"] = (1 << 63) - 1
        self.open()
        self.assertIn("from 1 MiB on", self.browser.text(".request"))

    def test_a_lease_that_is_broken_is_seen_with_the_time_left(self):
        self.story.policy["pin_policy"] = "break"
        self.open()
        self.assertEqual(self.column("leases", 1), ["shared"])
        self.story.punch(4900, "/kv/shard-0", 0, 256)
        self.wait("document.querySelector('#leases tbody').innerText.includes('told, ')")
        self.assertIn("1 breaking", self.browser.text("#holders"))

    def test_limbo_appears_in_gauge_and_legend_and_goes(self):
        self.story.policy["pin_policy"] = "defer"
        self.open()
        self.story.punch(4800, "/buffer", 0, 256)
        self.wait("document.querySelector('[data-gauge=limbo] .value').innerText === '1 MiB'")
        self.assertIn("1 MiB", self.browser.text("#legend li:nth-child(4)"))
        self.story.release(4711)
        self.wait("document.querySelector('[data-gauge=limbo] .value').innerText === '0 B'")

    def test_an_event_is_shown_at_once_and_asks_for_a_snapshot(self):
        self.open()
        began = time.monotonic()
        self.story.hold(7001, "late-comer", "/log/2026-11", 512)
        self.wait("document.querySelector('#holders tbody').innerText.includes('late-comer')")
        self.assertLess(time.monotonic() - began, 3)
        self.wait("document.querySelector('#timeline li')?.innerText.includes('pin')")
        self.wait("document.querySelector('#timeline li')?.innerText.includes('late-comer (7001)')", "the name comes with the snapshot")

    def test_events_make_it_ask_more_often_than_once_a_second(self):
        self.open()
        begin, began = self.story.snapshots, time.monotonic()
        for number in range(1, 9):
            self.story.emit("pin", 4711, "/buffer", 0, BLOCK)
            self.until(lambda at=begin + number: self.story.snapshots >= at, "asked again")
        self.assertLess(time.monotonic() - began, 6, "eight questions: 8 s without events")

    def test_no_two_questions_are_under_way_at_once(self):
        self.server.delay = 0.15
        self.open()
        before = self.story.snapshots
        self.until(lambda: self.story.emit("pin", 4711, "/buffer", 0, BLOCK) or self.story.snapshots > before + 3, "asked again")
        self.assertEqual(self.story.most_under_way, 1)

    def test_a_stopped_filesystem_says_why(self):
        self.story.stopped = "the journal cannot be written: the medium has failed"
        self.open()
        self.assertIn("STOPPED: the journal", self.browser.text("#stopped"))

    def test_what_is_degraded_comes_with_its_way_out(self):
        self.story.degraded = [{"what": "stopped", "text": "said elsewhere", "way_out": "-"},
                               {"what": "ignored_pins", "text": "pins are ignored", "way_out": "set refuse"}]
        self.open()
        self.assertEqual(self.browser.text("#degraded"), "pins are ignored; set refuse")

    def test_names_are_text_and_never_markup(self):
        evil = "<img src=x onerror=alert(1)><b>\u202egpj.exe\n"
        self.story.hold(6666, evil, "/evil", 256)
        self.story.holders[6666]["path"] = "/<script>throw 1</script>"
        self.story.policy["pin_policy"] = "wait"
        self.story.punch(4800, "/buffer", 0, 256, command=evil)
        self.open()
        self.story.emit("pin", 6666, evil, 0, BLOCK)
        self.wait("document.querySelector('#timeline li')?.innerText.includes('<img')")
        self.assertEqual(self.count("main img, main script, td b"), 0)
        self.assertIn("<img src=x onerror=alert(1)><b>\ufffdgpj.exe", self.browser.text("#holders"))

    def test_the_map_tells_a_cell_to_the_pointer_and_to_the_keyboard(self):
        self.open()
        self.browser.ask("document.querySelector('#map').scrollIntoView({block: 'center'})")
        left, top = self.browser.ask("(({left, top}) => [left, top])(document.querySelector('#map').getBoundingClientRect())")
        self.browser.mouse("mouseMoved", left + 3, top + 10)
        self.wait("document.querySelector('#map_says').innerText.includes('of the pool')")
        self.browser.mouse("mouseMoved", 2, 2)
        self.wait("document.querySelector('#map_says').innerText.startsWith('Point at')")
        self.browser.ask("document.querySelector('#map').focus()")
        self.browser.key("ArrowRight")
        self.assertTrue(self.browser.text("#map_says").startswith("0 – "))
        self.browser.key("ArrowDown")
        self.assertFalse(self.browser.text("#map_says").startswith("0 – "))
        for _ in range(20):
            self.browser.key("ArrowDown")
            begin, end = self.browser.text("#map_says").split(" of the pool")[0].split(" – ")
            self.assertNotEqual(begin, end)

    def test_sixteen_thousand_cells_and_three_hundred_holders_stay_fluent(self):
        chance = random.Random(1)
        for pid in range(10000, 10300):
            self.story.hold(pid, f"worker-{pid}", "/models/weights.bin", 64, at=chance.randrange(27000))
        self.story.cells = [[7, chance.randrange(7), chance.randrange(2), 0, chance.choice((4711, 5120, 10007))] for _ in range(16384)]
        self.open(width=1600)
        self.browser.ask("""window.slow = 0; new PerformanceObserver((list) => {
          for (const one of list.getEntries()) slow = Math.max(slow, one.duration); }).observe({type: 'longtask'})""")
        before = self.story.snapshots
        for number in range(4):
            self.story.cells = self.story.cells[1:] + self.story.cells[:1]
            for _ in range(500):
                self.story.emit("pin", 10000 + number, "/models/weights.bin", 0, BLOCK)
            self.until(lambda: self.story.snapshots > before + number + 1, "asked again")
        self.assertEqual(self.count("#holders tbody tr"), 200)
        self.assertIn("105 more", self.browser.text("#holders caption"))
        self.assertLessEqual(self.count("#timeline li"), 200)
        self.assertLess(self.browser.ask("slow"), 1000, "a task that blocks the page, in ms")

    def test_rows_are_kept_while_nothing_changes(self):
        self.open()
        self.browser.ask("window.row = document.querySelector('#holders tbody tr'); window.touched = 0;"
                         "new MutationObserver((all) => { touched += all.length; }).observe(document.querySelector('#leases'),"
                         "{childList: true, subtree: true, characterData: true}); 1")
        before = self.story.snapshots
        self.until(lambda: self.story.snapshots > before + 2, "asked again")
        self.assertEqual(self.browser.ask("[row.isConnected, touched]"), [True, 0])

    def test_the_number_of_cells_goes_with_the_width(self):
        self.open(width=1400)
        self.until(lambda: self.browser.requested, "asked")
        wide = max(int(one.split("cells=")[1]) for one in self.browser.requested if "cells=" in one)
        self.browser.size(390, 844)
        self.browser.requested.clear()
        self.wait("new Promise((done) => setTimeout(() => done(true), 1500))")
        narrow = int([one for one in self.browser.requested if "cells=" in one][-1].split("cells=")[1])
        self.assertLess(narrow, wide / 2)

    def test_nothing_is_asked_of_anybody_else(self):
        self.open()
        ours = self.server.address.split("#")[0]
        self.assertEqual([one for one in self.browser.requested if not one.startswith((ours, "about:"))], [])

    def test_narrow_and_dark_there_is_nothing_to_scroll_sideways(self):
        self.story.policy["pin_policy"] = "wait"
        self.story.punch(4800, "/buffer", 0, 256)
        self.story.hold(7002, "a-command-with-a-very-long-name-and-no-space", "/" + "deep/" * 60, 64)
        for width in (360, 390, 700, 1000):
            self.open(width=width, height=800, dark=True)
            self.assertEqual(self.browser.ask("document.documentElement.scrollWidth"), width)
        self.assertEqual(self.browser.ask("getComputedStyle(document.body).backgroundColor"), "rgb(15, 21, 27)")

    def test_what_comes_and_goes_moves_nothing(self):
        self.story.policy["pin_policy"] = "break"
        self.open()
        places = "[...document.querySelectorAll('.panel, .gauge')].map((node) => { const b = node.getBoundingClientRect(); return [b.top, b.height]; })"
        before = self.browser.ask(places)
        for number in range(8):
            self.story.hold(8000 + number, "more", "/log/2026-11", 64, lease=True)
            self.story.punch(4800 + number, "/kv/shard-0", 64 * number, 64)
        self.wait("document.querySelectorAll('.request').length === 8")
        self.assertEqual(self.browser.ask(places), before)


assert MIB == 256 * BLOCK

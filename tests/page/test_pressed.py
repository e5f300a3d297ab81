# SPDX-License-Identifier: Apache-2.0
"""What is pressed: policies by mouse and keyboard, sorting, choosing, filters, pause, help; and the connection."""
from mock_server import Server
from opened import LIVE, Opened


class Pressed(Opened):
    def policy(self, word):
        self.wait(f"document.querySelector('[data-policy={word}].choice').getAttribute('aria-pressed') === 'true'"
                  f" && document.querySelector('#force').innerText === '{word}'", f"{word} is in force")

    def test_each_policy_by_mouse(self):
        self.open()
        for word in ("defer", "wait", "break", "refuse"):
            self.browser.click(f".choice[data-policy={word}]")
            self.policy(word)
        self.assertEqual(self.story.asked, [f"pin_policy={word}" for word in ("defer", "wait", "break", "refuse")])
        self.wait("document.querySelector('#timeline').innerText.includes('switched the policy to')")

    def test_each_policy_by_key(self):
        self.open()
        for key, word in (("2", "defer"), ("3", "wait"), ("4", "break"), ("1", "refuse")):
            self.browser.key(key)
            self.policy(word)

    def test_a_policy_by_tabulator_and_enter_with_the_focus_seen(self):
        self.open()
        self.browser.ask("document.querySelector('.choice').focus()")
        self.browser.key("Tab")
        self.assertEqual(self.browser.ask("document.activeElement.dataset.policy"), "defer")
        self.assertEqual(self.browser.ask("getComputedStyle(document.activeElement).outlineStyle"), "solid")
        self.browser.key("Enter")
        self.policy("defer")

    def test_the_policy_that_somebody_else_switches_is_shown(self):
        self.open()
        self.story.set_policy("pin_policy=break")
        self.policy("break")

    def test_a_timeout_is_typed_and_a_digit_there_is_no_shortcut(self):
        self.open()
        self.browser.click("#timeout")
        self.browser.key("3")
        self.browser.type("s")
        self.browser.key("Enter")
        self.wait("document.querySelector('#timeout_now').innerText === 'now: 3 s'")
        self.assertEqual(self.story.asked, ["wait_timeout=3s"])
        self.assertEqual(self.browser.ask("document.querySelector('#timeout').value"), "")

    def test_what_the_server_refuses_is_said_and_taken_back_by_the_next(self):
        self.expected_errors = ["400"]
        self.open()
        self.browser.click("#timeout")
        self.browser.type("soon")
        self.browser.click("#timeout_set")
        self.wait("document.querySelector('#policy_error').innerText.includes('Not switched: wait_timeout=soon: not a policy')")
        self.assertEqual(self.browser.ask("document.querySelector('#timeout').value"), "soon")
        self.browser.click(".choice[data-policy=defer]")
        self.policy("defer")
        self.assertEqual(self.browser.text("#policy_error").strip(), "")

    def test_without_the_right_nothing_can_be_switched_and_it_is_said_why(self):
        self.story.may_switch = False
        self.open()
        self.assertEqual(self.count(".choice:disabled"), 4)
        self.assertIn("Only root and the user who mounted", self.browser.text("#may_not"))
        self.browser.click(".choice[data-policy=defer]")
        self.browser.key("3")
        self.assertTrue(self.browser.ask("document.querySelector('#timeout_set').disabled"))
        self.assertEqual(self.story.asked, [])

    def test_ignore_is_there_only_while_it_is_in_force_and_unsafe(self):
        self.open()
        self.assertEqual(self.count("[data-policy=ignore].choice"), 0)
        self.story.policy["pin_policy"] = "ignore"
        self.policy("ignore")
        self.assertIn("unsafe", self.browser.text("[data-policy=ignore].choice").lower())
        self.browser.key("1")
        self.policy("refuse")
        self.assertEqual(self.count("[data-policy=ignore].choice"), 0)

    def test_holders_are_sorted_by_what_is_pressed(self):
        self.open()
        self.assertEqual(self.column("holders", 1), ["5120", "4711", "6033", "3977", "6100"])  # by bytes
        self.browser.click("#holders [data-key=pid] button")
        self.assertEqual(self.column("holders", 1), ["6100", "6033", "5120", "4711", "3977"])
        self.browser.click("#holders [data-key=pid] button")
        self.assertEqual(self.column("holders", 1), ["3977", "4711", "5120", "6033", "6100"])
        self.assertEqual(self.browser.ask("document.querySelector('#holders [data-key=pid]').ariaSort"), "ascending")
        self.browser.click("#holders [data-key=command] button")
        self.assertEqual(self.column("holders", 0), ["daxfs-hold", "kv-server", "loader", "nvme-of", "rdma-target"])

    def test_a_holder_is_chosen_and_let_go(self):
        self.story.policy["pin_policy"] = "wait"
        self.story.punch(4800, "/buffer", 0, 256)
        self.story.punch(4900, "/kv/shard-0", 0, 256)
        self.open()
        self.browser.click("#holders tbody tr:nth-child(2)")  # 4711
        self.wait("document.querySelectorAll('#holders tr.chosen').length === 1")
        self.assertEqual(self.count(".request.chosen"), 1)
        self.assertEqual(self.count(".request.dim"), 1)
        self.assertEqual(self.count("#leases tr.dim"), 1)
        self.browser.key("Escape")
        self.assertEqual(self.count(".chosen, .dim"), 0)
        self.browser.ask("document.querySelector('#holders tbody .who').focus()")
        self.browser.key("Enter")
        self.assertEqual(self.count("#holders tr.chosen"), 1)
        self.browser.click("#unselect")
        self.assertEqual(self.count(".chosen, .dim"), 0)
        self.browser.click(".request .chip")
        self.assertEqual(self.count("#holders tr.chosen"), 1)

    def test_a_holder_that_pins_again_has_its_colour_again(self):
        self.open()
        colours = "Object.fromEntries([...document.querySelectorAll('#holders tbody tr')].map((row) => [row.children[1].innerText, row.querySelector('.swatch').dataset.holder]))"
        before = self.browser.ask(colours)
        self.story.release(4711)
        self.wait("document.querySelectorAll('#holders tbody tr').length === 4")
        self.story.hold(7004, "another", "/log/2026-11", 512)
        self.wait("document.querySelectorAll('#holders tbody tr').length === 5")
        self.story.hold(4711, "daxfs-hold", "/buffer", 4096)
        self.wait("document.querySelectorAll('#holders tbody tr').length === 6")
        after = self.browser.ask(colours)
        self.assertEqual(after["4711"], before["4711"])
        self.assertEqual(len(set(after.values())), 6)

    def test_a_cell_of_the_map_chooses_its_holder(self):
        self.open()
        self.browser.ask("document.querySelector('#map').scrollIntoView({block: 'center'})")
        box = self.browser.ask("(({left, top, height}) => [left, top, height])(document.querySelector('#map').getBoundingClientRect())")
        x, y = box[0] + 40, box[1] + box[2] * 28000 / 128861  # in /kv/shard-0
        for kind in ("mousePressed", "mouseReleased"):
            self.browser.mouse(kind, x, y, button="left", clickCount=1)
        self.wait("document.querySelector('#holders tr.chosen')?.innerText.includes('kv-server')")

    def test_events_are_filtered_by_kind(self):
        self.open()
        self.story.punch(4800, "/buffer", 0, 256)
        for _ in range(450):
            self.story.emit("pin", 4711, "/buffer", 0, 4096)
        self.wait("document.querySelector('.kind[data-group=pins]').innerText.includes('450')")
        self.assertEqual(self.count("#timeline li[data-group=pins]"), 200)
        self.browser.click(".kind[data-group=pins]")
        self.assertEqual(self.count("#timeline li[data-group=pins]"), 0)
        self.assertEqual(self.count("#timeline li[data-group=refused]"), 1)  # not washed away by the pins
        self.browser.click(".kind[data-group=pins]")
        self.assertEqual(self.count("#timeline li[data-group=pins]"), 200)

    def test_paused_events_stand_still_and_come_later(self):
        self.open()
        self.story.emit("pin", 4711, "/buffer", 0, 4096)
        self.wait("document.querySelectorAll('#timeline li').length === 1")
        self.browser.key("p")
        self.story.emit("unpin", 4711, "/buffer", 0, 4096)
        self.wait("document.querySelector('#pause').innerText.includes('1 new')")
        self.assertEqual(self.count("#timeline li"), 1)
        self.browser.click(".kind[data-group=leases]")  # a filter works meanwhile, and shows nothing new
        self.assertEqual(self.count("#timeline li"), 1)
        self.browser.click("#pause")
        self.wait("document.querySelectorAll('#timeline li').length === 2")

    def test_lost_events_are_told(self):
        self.open()
        self.story.emit("pin", 4711, "/buffer", 0, 4096, lost=1234)
        self.wait("document.querySelector('#timeline').innerText.includes('1,234 events came too fast')")

    def test_help_opens_and_closes(self):
        self.open()
        self.browser.key("?")
        self.assertTrue(self.browser.ask("document.querySelector('#help').open"))
        self.browser.key("2")  # no shortcut in here
        self.browser.key("Escape")
        self.wait("!document.querySelector('#help').open")
        self.browser.click("#help_open")
        self.browser.click("#help_close")
        self.wait("!document.querySelector('#help').open")
        self.assertEqual(self.story.asked, [])


class Connected(Opened):
    def test_the_token_leaves_the_address_and_outlives_a_reload(self):
        self.open()
        self.assertNotIn("token", self.browser.ask("location.href"))
        self.browser.call("Page.reload")
        self.wait(LIVE)

    def test_without_a_token_it_is_said_what_to_do(self):
        self.expected_errors = ["401"]
        self.browser.open(self.server.address.replace(self.server.token, "wrong"))
        self.wait("document.querySelector('#gone').innerText.includes('Open the whole address')")
        self.assertEqual(self.story.snapshots, 0)
        self.browser.ask(f"location.hash = '#token={self.server.token}'")  # pasted into the same window
        self.wait(LIVE)
        self.assertTrue(self.browser.ask("document.querySelector('#gone').hidden"))

    def test_a_server_that_goes_and_comes_back(self):
        self.expected_errors = ["ERR_", "Failed to load"]
        self.open()
        port, token = self.server.server_address[1], self.server.token
        self.server.stop()
        self.wait("document.body.classList.contains('stale') && document.querySelector('#gone').innerText.includes('does not answer')")
        self.assertEqual(self.browser.text("#mountpoint"), "/mnt/daxfs")  # the last picture is kept
        self.assertGreater(self.count("#holders tbody tr"), 0)
        self.until(lambda: not self.story.listeners, "the old line is closed")
        self.server = Server(self.story, port, token).start()
        self.wait(LIVE)
        self.assertFalse(self.browser.ask("document.body.classList.contains('stale')"))
        self.listening()
        self.story.emit("refused", 4800, "/buffer", 0, 4096)
        self.wait("document.querySelector('#timeline').innerText.includes('refused')", "events come again")

    def test_without_the_right_to_see_events_the_page_asks_alone(self):
        self.expected_errors = ["403"]
        self.story.may_see_events = False
        self.open()
        self.wait("document.querySelector('#no_events').innerText.includes('You may not see events')")
        self.story.hold(7003, "late-comer", "/log/2026-11", 512)
        self.wait("document.querySelector('#holders').innerText.includes('late-comer')")

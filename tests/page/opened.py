# SPDX-License-Identifier: Apache-2.0
"""The page, opened on a story of its own: a base for the tests."""
import time
import unittest

from browser import Browser
from mock_server import Server
from story import Story

LIVE = "document.querySelector('#link').dataset.state === 'live'"


class Opened(unittest.TestCase):
    """One Chromium for a class; a server and a fresh page for each test. No test may leave an error in the console."""

    @classmethod
    def setUpClass(cls):
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def setUp(self):
        self.expected_errors = []
        self.browser.errors.clear()
        self.story = Story()
        self.story.begin()
        self.server = Server(self.story).start()
        self.addCleanup(lambda: self.server.stop())

    def tearDown(self):
        self.browser.ask("1")  # what has been written to the console has arrived then
        seen = list(self.browser.errors)
        self.browser.call("Page.navigate", url="about:blank")  # it must not ask a server that has gone
        self.browser.errors.clear()
        left = [one for one in seen if not any(word in one for word in self.expected_errors)]
        self.assertEqual(left, [], "the console has errors")

    def open(self, **how):
        self.browser.requested.clear()
        self.browser.open(self.server.address, **how)
        self.wait(LIVE, "the page is live")
        self.wait("document.querySelectorAll('#holders tbody tr').length > 0 || document.querySelector('#holders').hidden", "holders")
        self.listening()

    def listening(self):
        """Until the page reads events, if it may."""
        if self.story.may_see_events:
            self.until(lambda: self.story.listeners, "the page listens")

    def until(self, true, what):
        deadline = time.monotonic() + 20
        while not true():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.02)

    def wait(self, script, what=None):
        return self.browser.wait(script, what=what)

    def column(self, table, number):
        return self.browser.ask(f"[...document.querySelectorAll('#{table} tbody tr')].map((row) => row.children[{number}].innerText.trim())")

    def count(self, selector):
        return self.browser.ask(f"document.querySelectorAll({selector!r}).length")

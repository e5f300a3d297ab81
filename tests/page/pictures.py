# SPDX-License-Identifier: Apache-2.0
"""pictures.py FOLDER: screenshots of the page, light and dark, wide and narrow, after five minutes of the story."""
import pathlib
import shutil
import subprocess
import sys
import threading
import time

from browser import Browser
from mock_server import Server
from opened import LIVE
from story import Story


def told():
    """The story at twenty times its speed, under one policy after the other; then a moment under `break` at its own."""
    story = Story()
    story.begin()
    server = Server(story).start()
    threading.Thread(target=story.play, daemon=True).start()
    return story, server


def moment(story):
    story.clock.run(22)
    for word in ("refuse", "defer", "wait", "break", "defer"):
        story.set_policy(f"pin_policy={word}")
        time.sleep(2.9)
    story.ended.set()
    story.clock.run(1)
    time.sleep(1.0)
    story.hold(4711, "daxfs-hold", "/buffer", 12288)
    if 5120 not in story.holders:
        story.hold(5120, "kv-server", "/kv/shard-0", 20480, lease=True)
    if 6033 not in story.holders:
        story.hold(6033, "rdma-target", "/models/weights.bin", 8192, at=9000)
    story.punch(4801, "/buffer", 2048, 3072)
    story.set_policy("pin_policy=wait")
    story.punch(4802, "/buffer", 8192, 256)
    time.sleep(4)
    story.policy["pin_policy"] = "break"
    story.emit("policy", 4242)
    story.punch(4900, "/kv/shard-0", 2048, 4096, "truncate", "truncate")
    time.sleep(1.5)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    chromium = Browser()
    try:
        for dark in (False, True):
            story, server = told()
            chromium.open(server.address, 1280, 900, dark)
            chromium.wait(LIVE)
            moment(story)
            colours = "dark" if dark else "light"
            chromium.screenshot(folder / f"live-{colours}.png")
            chromium.size(390, 844)
            time.sleep(1.5)
            chromium.screenshot(folder / f"live-{colours}-narrow.png", full=False)
            server.stop()
    finally:
        chromium.close()
    if shutil.which("pngquant"):  # a third of the size
        subprocess.run(["pngquant", "--ext", ".png", "--force", "--strip", "--quality", "80-98", *folder.glob("live-*.png")], check=True)


if __name__ == "__main__":
    main()

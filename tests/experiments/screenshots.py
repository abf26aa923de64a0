"""The README's two pictures of RabbitMQ's management page, from a headless Chromium.

It starts a RabbitMQ node of its own and lets the real scripts bring the queues into the
state that is shown. tests/run pictures installs Chromium and its driver first.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator

from PIL import Image
from selenium import webdriver

from rig.broker import Broker, free_ports, wait_until
from rig.programs import run
from rig.scripts import TESTS, consumer, producer

README_PICTURES = TESTS / "experiments" / "pictures"
WIDTH, HEIGHT = 1100, 2000  # of the window, in pixels; a picture is as high as it must
MARGIN = 12
CONFIG = """\
cluster_name = orders
management.tcp.ip = 127.0.0.1
management.tcp.port = {}
"""


class ManagedBroker(Broker):
    """A node that has the management page."""

    def __init__(self, folder: Path) -> None:
        port = free_ports(1)[0]
        super().__init__(folder, CONFIG.format(port))
        (folder / "plugins").write_text("[rabbitmq_management].\n")
        self.page = f"http://127.0.0.1:{port}/"


@contextlib.contextmanager
def managed_broker(folder: Path) -> Iterator[ManagedBroker]:
    """Give such a node that runs; end it at the end."""
    broker = ManagedBroker(folder)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


class Browser:
    """A Chromium that looks at the management page of a node."""

    def __init__(self, driver: Any, page: str) -> None:
        self.driver, self.page = driver, page

    def log_in(self) -> None:
        """Open the page and log in."""
        self.driver.get(self.page)
        for field in ("username", "password"):
            self.wait_for(f"//input[@name='{field}']").send_keys("guest")
        self.wait_for("//input[@type='submit']").click()
        self.wait_for("//li[@id='logout']")

    def wait_for(self, xpath: str) -> Any:
        """Return the element, once it can be seen."""

        def shown() -> Any:
            found = self.driver.find_elements("xpath", xpath)
            return next((element for element in found if element.is_displayed()), None)

        return wait_until(shown, xpath)

    def open_queue(self, name: str) -> None:
        """Open the page of a queue."""
        self.driver.get(f"{self.page}#/queues/%2F/{name}")
        self.wait_for(f"//h1/b[text()='{name}']")

    def wait_for_counts(self, **counts: int) -> None:
        """Wait until the page shows so many messages; it is some seconds behind."""
        for state, count in counts.items():
            row = f"//table[@class='legend']//tr[normalize-space(th)='{state}']"
            self.wait_for(f"{row}/td[normalize-space()='{count}']")

    def take(self, path: Path, xpath: str) -> None:
        """Save what is on the page from its top down to the end of the element."""
        place = self.wait_for(xpath).rect
        with Image.open(io.BytesIO(self.driver.get_screenshot_as_png())) as picture:
            bottom = round(place["y"] + place["height"]) + MARGIN
            # A page has few colours. A palette of them makes the file much smaller.
            colours = picture.convert("RGB").crop((0, 0, WIDTH, bottom)).quantize(128)
            colours.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size // 1024} KB", flush=True)


@contextlib.contextmanager
def browser(page: str, folder: Path) -> Iterator[Browser]:
    """Give a browser that has logged in; end it at the end. Its files: `folder`."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    # Chromium's sandbox needs rights that root's programs in a container do not have.
    # It opens no page here but that of our own node.
    for option in ("headless=new", "no-sandbox", "force-device-scale-factor=1"):
        options.add_argument(f"--{option}")
    options.add_argument(f"--window-size={WIDTH},{HEIGHT}")
    environment = {**os.environ, "TMPDIR": str(folder)}
    service = webdriver.ChromeService(shutil.which("chromedriver"), env=environment)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        found = Browser(driver, page)
        found.log_in()
        yield found
    finally:
        driver.quit()


def picture_of_orders(broker: ManagedBroker, look: Browser, path: Path) -> None:
    """Show four orders that are ready, and one that a consumer works on."""
    slow = consumer(broker, "--processing-time", 600)
    with slow as worker, producer(broker) as sender:
        assert sender.wait() == 0, sender
        worker.wait_for("Received")
        look.open_queue("orders")
        look.wait_for_counts(Ready=4, Unacked=1, Total=5)
        time.sleep(20)  # so that the curves can be seen
        look.take(path, "//div[@id='chart-lengths-q']")


def picture_of_dead_letter(broker: ManagedBroker, look: Browser, path: Path) -> None:
    """Show a message that is no order, and why it is where it is."""
    fast = consumer(broker, "--processing-time", 0)
    with broker.connect() as connection, fast as worker:
        connection.channel().basic_publish("", "orders", b"hello")
        worker.wait_for("Rejected", "stderr")
    look.open_queue("orders.dead")
    look.wait_for_counts(Ready=1)
    look.wait_for("//h2[text()='Overview']").click()
    look.wait_for("//h2[text()='Get messages']").click()
    look.wait_for("//input[@value='Get Message(s)']").click()
    look.wait_for("//div[@id='msg-wrapper']//pre[text()='hello']")
    time.sleep(1)  # until it has slid down
    look.take(path, "//div[@id='msg-wrapper']")


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser(prog="tests/run pictures", description=__doc__)
    where = "where to put them; default: those of the README are replaced"
    parser.add_argument("--folder", type=Path, default=README_PICTURES, help=where)
    pictures = parser.parse_args().folder
    pictures.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        new = tempfile.TemporaryDirectory
        folder = Path(stack.enter_context(new(prefix="orders-pictures-")))
        broker = stack.enter_context(managed_broker(folder / "node"))
        look = stack.enter_context(browser(broker.page, folder))
        picture_of_orders(broker, look, pictures / "queue.png")
        picture_of_dead_letter(broker, look, pictures / "dead-letter.png")


if __name__ == "__main__":
    run(main)

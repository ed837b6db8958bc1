"""The server of `bao review` in a thread, and a page of it in a Chromium."""

import contextlib
import threading
import time
from collections.abc import Iterator

import uvicorn
from browser import executable
from playwright.sync_api import Browser, Page, sync_playwright

from baoseg.review.server import application
from baoseg.review.session import Session
from baoseg.review.tagging import Tagging

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")


@contextlib.contextmanager
def served(work: Session | Tagging, *, limit: float = 20) -> Iterator[str]:
    """The address of a server on a free port, which ends with the block."""
    server = uvicorn.Server(uvicorn.Config(application(work), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + limit
        while not server.started:
            if time.monotonic() > end or not thread.is_alive():
                raise TimeoutError("the server does not start")
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(limit)


@contextlib.contextmanager
def playwright_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS))
        yield browser
        browser.close()


@contextlib.contextmanager
def tab(browser: Browser, address: str, *, width: int = 1200, height: int = 800, limit: float = 10) -> Iterator[Page]:
    """A tab with a profile of its own in which the page has loaded. No script may fail, and nothing may be blocked."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(1000 * limit)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto(address)
    yield page
    page.context.close()
    unexpected = [text for text in complaints if "the server responded with a status of" not in text]
    assert not unexpected, unexpected

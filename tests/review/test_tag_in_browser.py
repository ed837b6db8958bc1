"""Labels thirty images in a real browser, starts a run, and looks at the width of both pages."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import executable
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from served import playwright_browser, served, tab

from baoseg.core.run_folder import RunFolder
from baoseg.data.folder import Folder
from baoseg.review import starting
from baoseg.review.session import Session
from baoseg.review.tagging import Tagging

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="needs a Chromium, which is not installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright_browser() as browser:
        yield browser


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(30):
        Image.new("RGB", (64, 48), (8 * number, 90, 200 - 6 * number)).save(photos / f"p{number:02d}.jpg")
    return photos


def labels(folder: Path) -> dict[str, tuple[str, ...]]:
    opened = Folder(folder)
    return {name: opened.classes.decode(opened.labels(index)) for index, name in enumerate(opened.names)}


def card(page: Page, index: int):
    return page.locator(f".card[data-index='{index}']")


def test_thirty_images_are_labelled_by_keys_and_a_run_starts(
    browser: Browser, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"import time\nprint('epoch 1/2', flush=True)\ntime.sleep(0.5)\nprint({starting.DONE!r}, flush=True)"
    monkeypatch.setattr(starting, "WORKER", program)
    work = Tagging(folder)
    with served(work) as address, tab(browser, address) as page:
        expect(page.locator(".card")).to_have_count(30)
        for name in ("dog", "cat"):
            page.locator("#new-class").fill(name)
            page.keyboard.press("Enter")
            expect(page.locator(f"[data-class={name}]")).to_be_visible()
        page.locator("#new-class").blur()
        card(page, 0).click()
        card(page, 9).click(modifiers=["Shift"])
        page.keyboard.press("1")
        expect(page.locator("#progress")).to_have_text("10 of 30 tagged")
        card(page, 8).click()
        card(page, 19).click(modifiers=["Shift"])
        page.keyboard.press("2")
        expect(page.locator("#progress")).to_have_text("20 of 30 tagged")
        card(page, 20).click()
        for index in range(22, 30, 2):
            card(page, index).click(modifiers=["Control"])
        page.keyboard.press("0")
        expect(page.locator("#progress")).to_have_text("25 of 30 tagged")
        page.keyboard.press("Escape")
        for index in range(21, 30, 2):
            card(page, index).focus()
            page.keyboard.press("Enter")
            page.keyboard.press("1")
            expect(card(page, index).locator("small")).to_have_text("dog")
        card(page, 9).click()
        page.keyboard.press("1")  # takes it away again
        expect(card(page, 9).locator("small")).to_have_text("cat")
    expected = {f"p{index:02d}": ("dog",) for index in (*range(8), *range(21, 30, 2))}
    expected |= {f"p{index:02d}": ("cat",) for index in range(9, 20)} | {"p08": ("dog", "cat")}
    expected |= {f"p{index:02d}": () for index in range(20, 30, 2)}
    assert labels(folder) == expected
    again = Tagging(folder)
    with served(again) as address, tab(browser, address) as page:
        expect(page.locator("#progress")).to_have_text("30 of 30 tagged")
        expect(card(page, 8).locator("small")).to_have_text("dog, cat")
        expect(card(page, 20).locator("small")).to_have_text("nothing here")
        page.get_by_role("button", name="Train on these labels").click()
        expect(page.locator("#log")).to_contain_text("epoch 1/2")
        expect(page.locator("#message")).to_contain_text(f"bao review {folder / 'review' / 'run'}")
    assert not again.training.running()


def test_what_went_wrong_is_said_in_the_page(browser: Browser, folder: Path) -> None:
    work = Tagging(folder, classes=["dog"])
    with served(work) as address, tab(browser, address) as page:
        page.get_by_role("button", name="Train on these labels").click()
        expect(page.locator("#message")).to_contain_text("give labels to some images first")
        page.locator("#new-class").fill("DOG")
        page.keyboard.press("Enter")
        expect(page.locator("#message")).to_contain_text("there is the class dog")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(
    browser: Browser, folder: Path, tiny_run: RunFolder, tmp_path: Path, width: int
) -> None:
    run = RunFolder(shutil.copytree(tiny_run.root, tmp_path / "run"))
    for work, ready in ((Tagging(folder, classes=["dog", "fire hydrant"]), ".card img"), (Session(run), "h1")):
        with served(work) as address, tab(browser, address, width=width, height=700) as page:
            page.locator(ready).first.wait_for()
            wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert wide[0] <= wide[1] == width
            for button in page.locator("button:visible").all():
                box = button.bounding_box()
                assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width

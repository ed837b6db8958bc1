"""Reviews masks in a real browser, with mouse and keys, and looks at the files."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import executable
from playwright.sync_api import Browser, Page, expect
from served import playwright_browser, served, tab

from baoseg.core.run_folder import RunFolder
from baoseg.data.images import read_mask
from baoseg.data.reviewed import Chosen, Decision, Reviewed
from baoseg.review import tiles
from baoseg.review.session import Session

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="needs a Chromium, which is not installed"),
]
SIDE = 64  # pixels of the images of the tiny run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright_browser() as browser:
        yield browser


@pytest.fixture
def run(tiny_run: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(tiny_run.root, tmp_path / "run"))


@pytest.fixture
def session(run: RunFolder) -> Session:
    session = Session(run)
    assert len(list(session.rate())) == 5
    return session


@pytest.fixture
def page(browser: Browser, session: Session) -> Iterator[Page]:
    with served(session) as address, tab(browser, address) as page:
        opened(page, session, 0)
        yield page


def opened(page: Page, session: Session, place: int) -> str:
    """Wait until the image at a place of the order is open. Gives its name."""
    name = session.names[session.order()[place]]
    expect(page.locator("h1")).to_have_text(name)
    expect(page.locator("[aria-current=true]")).to_contain_text(name)
    return name


def made(session: Session, name: str) -> np.ndarray:
    return session.results.read(session.names.index(name)).mask.copy()


def kept(session: Session, name: str) -> np.ndarray:
    """The reviewed mask on disk."""
    return read_mask(Reviewed(session.run.root / "reviewed").mask(name)).numpy()


def where(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a point of the image, in its pixels, lies in the window, as long as nothing is zoomed."""
    box = page.locator("#view").bounding_box()
    assert box is not None
    scale = 0.98 * min(box["width"], box["height"]) / SIDE
    return (
        box["x"] + box["width"] / 2 + (x - SIDE / 2) * scale,
        box["y"] + box["height"] / 2 + (y - SIDE / 2) * scale,
    )


def drag(page: Page, *points: tuple[float, float]) -> None:
    page.mouse.move(*where(page, *points[0]))
    page.mouse.down()
    for point in points:
        page.mouse.move(*where(page, *point), steps=4)
    page.mouse.up()


def log(session: Session) -> list[tuple[str, str, str, int]]:
    with (session.run.root / "reviewed" / "log.csv").open(encoding="utf-8", newline="") as file:
        return [(row["name"], row["decision"], row["chosen"], int(row["pixels"])) for row in csv.DictReader(file)]


def distance(first: tuple[float, float], last: tuple[float, float]) -> np.ndarray:
    """Of the centre of each pixel from the line between two points."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    (x, y), (dx, dy) = first, (last[0] - first[0], last[1] - first[1])
    along = np.clip(((columns - x) * dx + (rows - y) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    return np.hypot(columns - x - along * dx, rows - y - along * dy)


def test_accept_reject_and_go_on_after_the_page_was_closed(browser: Browser, session: Session) -> None:
    with served(session) as address, tab(browser, address) as page:
        first = opened(page, session, 0)
        page.keyboard.press("a")
        second = opened(page, session, 1)
        page.keyboard.press("Space")
        opened(page, session, 2)
        page.keyboard.press("ArrowLeft")
        opened(page, session, 1)
        page.keyboard.press("r")
        third = opened(page, session, 2)
        expect(page.locator("#progress")).to_contain_text("2 of 5 reviewed")
    again = Session(session.run)  # as after the end of the process
    assert len(list(again.rate())) == 5
    assert again.order() == session.order()
    with served(again) as address, tab(browser, address) as page:
        assert opened(page, again, 2) == third
        page.keyboard.press("a")
        opened(page, again, 3)
    assert log(session) == [
        (first, "accepted", "doubt", 0),
        (second, "rejected", "doubt", 0),
        (third, "accepted", "doubt", 0),
    ]
    assert (kept(session, first) == made(session, first)).all()
    assert not again.reviewed.mask(second).exists()


def test_a_stroke_of_the_brush_is_in_the_file_pixel_for_pixel(page: Page, session: Session) -> None:
    name = session.names[session.order()[0]]
    before = made(session, name)
    page.keyboard.press("b")
    page.locator("#classes [data-label='4']").click()
    page.get_by_label("Size of the brush").fill("9")
    drag(page, (10, 12), (50, 20))
    page.keyboard.press("e")
    drag(page, (30, 40), (30, 60))
    page.keyboard.press("a")
    opened(page, session, 1)
    drawn, expected = kept(session, name), before.copy()
    for first, last, label in (((10, 12), (50, 20), 4), ((30, 40), (30, 60), 0)):
        far = distance(first, last)
        expected[far <= 4.5] = label
        sure = np.abs(far - 4.5) > 0.75  # pixels on the border of a stroke depend on where the mouse stopped
        assert (drawn[sure & (far < 4.5)] == label).all()
    beyond = (distance((10, 12), (50, 20)) > 5.25) & (distance((30, 40), (30, 60)) > 5.25)
    assert (drawn[beyond] == before[beyond]).all()
    ((_, decision, chosen, pixels),) = log(session)
    assert (decision, chosen, pixels) == ("corrected", "doubt", int((drawn != before).sum())) and pixels > 100


def test_fill_polygon_and_region(page: Page, session: Session) -> None:
    name = session.names[session.order()[0]]
    index = session.order()[0]
    mask = made(session, name)
    page.keyboard.press("f")
    page.locator("#classes [data-label='3']").click()
    page.mouse.click(*where(page, 2.5, 2.5))
    same = (mask == mask[2, 2]).astype(np.uint8)
    parts = cv2.connectedComponents(same, connectivity=4)[1]
    mask[(parts == parts[2, 2]) & (same > 0)] = 3
    page.keyboard.press("g")
    page.locator("#classes [data-label='5']").click()
    page.mouse.click(*where(page, 40.5, 30.5))
    coded = cv2.imdecode(np.frombuffer(session.regions(index, 0), np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    regions = coded[..., 0] + 256 * coded[..., 1] + 65536 * coded[..., 2]
    mask[regions == regions[30, 40]] = 5
    expect(page.locator("#message")).to_be_hidden()
    page.keyboard.press("p")
    page.locator("#classes [data-label='2']").click()
    for corner in ((10, 10), (30, 10), (30, 50), (10, 50)):
        page.mouse.click(*where(page, *corner))
    page.keyboard.press("Enter")
    page.keyboard.press("a")
    opened(page, session, 1)
    drawn = kept(session, name)
    assert (drawn[11:49, 11:29] == 2).all()
    mask[9:51, 9:31] = drawn[9:51, 9:31]
    assert (drawn == mask).all()


def test_undo_and_redo_to_the_pixel(page: Page, session: Session) -> None:
    name = session.names[session.order()[0]]
    page.keyboard.press("b")
    page.locator("#classes [data-label='4']").click()
    drag(page, (10, 12), (50, 20))
    drag(page, (10, 40), (50, 40))
    for key in ("Control+z", "Control+z", "Control+y"):
        page.keyboard.press(key)
    page.keyboard.press("a")
    opened(page, session, 1)
    drawn, before = kept(session, name), made(session, name)
    assert (drawn[36:45] == before[36:45]).all() and (drawn[13, 14:40] == 4).all()


def test_what_was_drawn_is_saved_when_another_image_is_opened(page: Page, session: Session) -> None:
    name = session.names[session.order()[0]]
    page.locator("#classes [data-label='4']").click()
    drag(page, (10, 12), (50, 20))
    page.locator("#list button").nth(3).click()
    opened(page, session, 3)
    assert (kept(session, name)[13, 14:40] == 4).all()
    page.locator("#list button").nth(0).click()
    opened(page, session, 0)
    page.keyboard.press("a")  # as it is now: the correction stays
    opened(page, session, 1)
    assert [decision for _, decision, _, _ in log(session)] == ["corrected", "corrected"]


def test_zoom_and_pan_move_the_image_and_not_the_strokes(page: Page, session: Session) -> None:
    name = session.names[session.order()[0]]
    before = made(session, name)
    centre = where(page, 32, 32)
    page.mouse.move(*centre)
    page.mouse.wheel(0, -400)
    page.mouse.down(button="right")
    page.mouse.move(centre[0] + 40, centre[1], steps=4)
    page.mouse.up(button="right")
    page.locator("#classes [data-label='4']").click()
    page.get_by_label("Size of the brush").fill("1")
    page.mouse.click(centre[0] + 41, centre[1] + 1)  # the point that was in the middle
    page.keyboard.press("a")
    opened(page, session, 1)
    changed = np.argwhere(kept(session, name) != before) if before[32, 32] != 4 else np.array([[32, 32]])
    assert changed.tolist() == [[32, 32]]


def test_two_tabs_cannot_overwrite_one_another(browser: Browser, session: Session) -> None:
    with served(session) as address, tab(browser, address) as page:
        name = opened(page, session, 0)
        page.locator("#classes [data-label='4']").click()
        drag(page, (10, 12), (50, 20))
        index = session.order()[0]
        theirs = made(session, name)
        theirs[:3] = 2
        content = cv2.imencode(".png", theirs)[1].tobytes()
        session.decide(index, Decision.CORRECTED, version=0, content=content)
        page.keyboard.press("a")
        expect(page.locator("#message")).to_contain_text("was decided on in another window meanwhile")
        assert (kept(session, name) == theirs).all()
        page.get_by_role("button", name="Load it again").click()
        expect(page.locator("#message")).to_be_hidden()
        drag(page, (10, 12), (50, 20))
        page.keyboard.press("a")
        opened(page, session, 1)
        drawn = kept(session, name)
        assert (drawn[:3] == 2).all() and (drawn[13, 14:40] == 4).all()


def test_a_full_disk_is_said_in_the_page_and_the_stroke_stays(
    page: Page, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = session.names[session.order()[0]]
    from baoseg.core import files

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    page.locator("#classes [data-label='4']").click()
    drag(page, (10, 12), (50, 20))
    with monkeypatch.context() as patch:
        patch.setattr(files.tempfile, "mkstemp", full)
        page.keyboard.press("a")
        expect(page.locator("#message")).to_contain_text("no space left on the disk")
    assert not session.reviewed.mask(name).exists() and session.reviewed.version(name) == 0
    page.keyboard.press("a")
    opened(page, session, 1)
    assert (kept(session, name)[13, 14:40] == 4).all()


def test_the_random_sample_says_so_in_the_log(browser: Browser, run: RunFolder) -> None:
    session = Session(run, chosen=Chosen.RANDOM)
    with served(session) as address, tab(browser, address) as page:
        name = opened(page, session, 0)
        expect(page.locator("#progress")).to_contain_text("random sample")
        page.keyboard.press("a")
        opened(page, session, 1)
    assert log(session) == [(name, "accepted", "random", 0)]


def test_keys_work_after_a_slider_and_a_choice_were_used(page: Page, session: Session) -> None:
    page.get_by_label("Opacity of the mask").click()
    page.locator("#layer").select_option("0")
    page.keyboard.press("a")
    opened(page, session, 1)


def test_a_large_image_is_corrected_tile_by_tile(
    browser: Browser, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 40)
    with served(session) as address, tab(browser, address) as page:
        name = opened(page, session, 0)
        expected = made(session, name)
        expect(page.locator(".tiles")).to_contain_text("tile 1 of 4")
        page.get_by_label("Tile 4").click()
        expect(page.locator(".tiles")).to_contain_text("tile 4 of 4")
        page.locator("#classes [data-label='4']").click()
        page.get_by_label("Size of the brush").fill("200")
        page.locator("#view").click()
        page.get_by_label("Tile before").click()  # saves
        expect(page.locator(".tiles")).to_contain_text("tile 3 of 4")
        expected[40:, 40:] = 4
        assert (kept(session, name) == expected).all()
        page.locator("#classes [data-label='3']").click()
        page.locator("#view").click()
        page.keyboard.press("a")
        opened(page, session, 1)
        expected[40:, :40] = 3
        assert (kept(session, name) == expected).all()

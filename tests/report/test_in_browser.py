"""Clicks through a report in a real browser."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from browser import Page, chromium, executable
from reports import EVIL, Scenes, seed_of, write_report

from baoseg.data.images import voc_palette
from baoseg.seeds.masks import to_mask

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="needs a Chromium, which is not installed"),
]
SCENES = Scenes(4, ("dog", EVIL))
IDLE = "document.getElementById('gallery').getAttribute('aria-busy') === 'false'"


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        page.resize(1000, 800)
        yield page


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, _ = write_report(tmp_path_factory.mktemp("report"), SCENES)
    return run.report


@pytest.fixture
def page(browser: Page, path: Path) -> Page:
    browser.open(path)
    browser.wait(IDLE)
    return browser


def pixels(page: Page, method: int, tile: int) -> torch.Tensor:
    """RGB [h w 3] of a canvas: column 0 is the reference; each column has two tiles."""
    values = page.run(
        f"(() => {{ const canvas = document.querySelectorAll('#tiles > div')[{method}]"
        f".querySelectorAll('canvas')[{tile}];"
        "return [canvas.width, canvas.height, "
        "...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]; })()"
    )
    width, height, *rgba = values
    return torch.tensor(rgba, dtype=torch.uint8).view(height, width, 4)[:, :, :3]


def text(page: Page, selector: str) -> str:
    return page.run(f"document.querySelector({selector!r}).textContent")


def coloured(mask: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(voc_palette())[mask.long()]


def at(threshold: float, index: int) -> torch.Tensor:
    """The mask that the page makes of its maps, which it holds in 8 bit."""
    seed = seed_of(SCENES, index, decision="fixed")
    rounded = replace(seed, scores=(255 * seed.scores.half().float()).round() / 255)
    return coloured(to_mask(rounded, threshold=threshold))


def test_pages_with_buttons_and_keys(page: Page) -> None:
    assert text(page, "#counter") == "1 / 4"
    first = pixels(page, 0, 0)
    page.click("#next")
    page.wait(f"{IDLE} && document.getElementById('counter').textContent === '2 / 4'")
    assert text(page, "#name") == "scene_1"
    assert text(page, "#labels") == f"labelled {EVIL}"
    assert (pixels(page, 0, 0) != first).any()
    page.press("ArrowRight")
    page.wait(f"{IDLE} && document.getElementById('name').textContent === 'scene_2'")
    page.press("ArrowLeft")
    page.click("#previous")
    page.click("#previous")  # round the corner
    page.wait(f"{IDLE} && document.getElementById('counter').textContent === '4 / 4'")


def test_layers_show_masks_maps_and_truth(page: Page) -> None:
    learned = seed_of(SCENES, 0, decision="threshold_free")
    page.click("[data-layer=mask]")
    page.wait(IDLE)
    assert page.run("document.querySelector('[data-layer=mask]').getAttribute('aria-pressed')") == "true"
    assert (pixels(page, 2, 0) == coloured(to_mask(learned))).all()
    assert (pixels(page, 0, 1) == coloured(SCENES.truth(0))).all()
    page.click("[data-layer=image]")
    page.wait(IDLE)
    assert (pixels(page, 1, 0) == pixels(page, 0, 0)).all()
    page.click("[data-layer=truth]")
    page.wait(IDLE)
    assert (pixels(page, 1, 0) == pixels(page, 0, 1)).all()
    page.click("[data-layer=class]")
    page.wait(IDLE)
    glow = pixels(page, 1, 0).sum(dim=-1)
    assert glow[24, 28] > 2 * glow[45, 60]  # bright at the middle of the map, dark at the rim
    page.click("[data-layer=background]")
    page.wait(IDLE)
    glow = pixels(page, 2, 0).sum(dim=-1)
    assert glow[45, 60] > 2 * glow[20, 20]
    assert (pixels(page, 1, 0) == pixels(page, 0, 0)).all()  # learned no background: the image, and a word on it
    assert "no background map" in text(page, "#tiles > div:nth-child(2) figcaption")


def test_dragging_the_threshold_makes_the_mask_of_that_threshold(page: Page) -> None:
    page.click("[data-layer=mask]")
    page.wait(IDLE)
    assert text(page, "#level") == "0.30"
    without = pixels(page, 2, 0)
    for share in (0.15, 0.8):
        page.drag("#threshold", share)
        level = float(text(page, "#level"))
        assert abs(level - share) < 0.05
        page.wait(f"document.getElementById('tiles').textContent.includes('cut at {level:.2f}')")
        assert (pixels(page, 1, 1) == at(level, 0)).all()
        assert (pixels(page, 2, 0) == without).all()  # what was learned without a threshold stays
    assert re.search(r"transcam \d", text(page, "#sweep"))


def test_oracle_is_one_click_away(page: Page) -> None:
    page.click("#jumps .oracle")
    assert f"oracle {text(page, '#level')}" in text(page, "#jumps .oracle")


def test_page_is_silent_and_alone(page: Page) -> None:
    assert page.complaints == []
    assert all(address.startswith(("file:", "data:")) for address in page.requests)
    assert page.run("document.images.length") == 0  # the class name that is HTML stayed text


def test_fits_a_telephone_in_the_dark(page: Page) -> None:
    page.resize(360, 700, dark=True)
    try:
        assert page.run("document.documentElement.scrollWidth") <= 360
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 21)"
    finally:
        page.resize(1000, 800)


SIX = ("cam", "transcam", "bnr", "bas", "bao", "cam+bas")
BAS, BAO, SUM = (1 + SIX.index(name) for name in ("bas", "bao", "cam+bas"))  # columns; the reference is 0


@pytest.fixture
def six(browser: Page, tmp_path: Path) -> Page:
    run, _ = write_report(tmp_path, SCENES, SIX, measured=True)
    browser.open(run.report)
    browser.wait(IDLE)
    return browser


def test_an_image_specific_threshold_is_the_images_own_until_the_slider_moves(six: Page) -> None:
    six.click("[data-layer=mask]")
    six.wait(IDLE)
    assert text(six, "#level") == "0.30"
    assert "own threshold" in text(six, f"#tiles > div:nth-child({BAS + 1}) figcaption")
    for index, own in enumerate((0.35, 0.45)):
        assert f"own cut {own:.2f}" in text(six, f"#tiles > div:nth-child({BAS + 1})")
        assert (pixels(six, BAS, 0) == pixels(six, BAS, 1)).all()  # the written mask, and the one made here
        assert (pixels(six, BAS, 1) == at(own, index)).all()
        assert (pixels(six, SUM, 1) == at(0.3, index)).all()
        six.click("#next")
        six.wait(f"{IDLE} && document.getElementById('counter').textContent === '{index + 2} / 4'")
    assert text(six, "#sweep").endswith("own threshold for bas.")
    six.drag("#threshold", 0.8)
    level = float(text(six, "#level"))
    for method in (BAS, BAO, SUM):
        assert (pixels(six, method, 1) == at(level, 2)).all()
    assert re.search(r"bas \d", text(six, "#sweep"))
    six.click("#jumps button:nth-child(2)")
    assert "own cut 0.55" in text(six, f"#tiles > div:nth-child({BAS + 1})")
    assert text(six, "#level") == "0.30"
    assert six.complaints == []


def test_where_every_method_has_its_own_threshold_the_slider_stands_there(browser: Page, tmp_path: Path) -> None:
    run, _ = write_report(tmp_path, SCENES, ["bas"])
    browser.open(run.report)
    browser.wait(IDLE)
    assert text(browser, "#level") == "0.35"
    browser.click("#next")
    browser.wait(f"{IDLE} && document.getElementById('level').textContent === '0.45'")
    assert browser.run("document.getElementById('threshold').valueAsNumber") == 0.45


@pytest.mark.parametrize(("width", "columns"), [(1366, 5), (360, 1)])
def test_six_methods_are_readable_on_a_laptop_and_a_telephone(six: Page, width: int, columns: int) -> None:
    six.resize(width, 768)
    try:
        assert six.run("document.documentElement.scrollWidth") <= width
        tops = six.run("[...document.querySelectorAll('#tiles > div')].map((box) => box.offsetTop)")
        assert len(tops) == 7
        assert tops.count(tops[0]) == columns
        assert six.run("Math.min(...[...document.querySelectorAll('#tiles canvas')].map((c) => c.clientWidth))") >= 130
    finally:
        six.resize(1000, 800)


def test_works_without_ground_truth(browser: Page, tmp_path: Path) -> None:
    run, _ = write_report(tmp_path, Scenes(1, ("dog",), masks=False))
    browser.open(run.report)
    browser.wait(IDLE)
    assert browser.run("document.querySelector('[data-layer=truth]')") is None
    assert browser.run("document.querySelectorAll('#tiles figure')[1].hidden")
    browser.drag("#threshold", 1.0)
    assert text(browser, "#level") == "1.00"
    assert browser.complaints == []

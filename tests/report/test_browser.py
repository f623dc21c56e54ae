"""The HTML page in a browser: what each choice shows, by mouse and by keyboard."""

import dataclasses
import re

import numpy as np
import own_loop
import pytest

from symrun.bench.tables import FULL_SCALE, make_run
from symrun.launch import compose
from symrun.report import html_page, report
from symrun.runs.tables import unit_curves

HOSTILE = "</script><img src=x onerror=alert(1)>&lt;{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def address(own_loops, tmp_path_factory):
    """The page of a run that two laws predict in part."""
    return _address(tmp_path_factory, [own_loops["mixed"]])


@pytest.fixture(scope="module")
def several(own_loops, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html_page, "draw", lambda *_: [])  # most of the time that a page takes
        return _address(tmp_path_factory, list(own_loops.values()))


def _address(tmp_path_factory, runs):
    return report(runs, tmp_path_factory.mktemp("page") / "page.html").as_uri()


def readout(page):
    """Unit -> the other cells of its row."""
    rows = [row.split("\t") for row in page.locator("#readout tbody tr").all_inner_texts()]
    return {int(unit): cells for unit, *cells in rows}


def number(text):
    return float(text.replace("−", "-").replace(",", ""))


def column(page, number):
    return page.locator(
        f"#laws-table tbody tr:visible > :nth-child({number + 1})"
    ).all_inner_texts()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_serious_is_wrong_with_it(opened, several, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(several, width, color_scheme=scheme) as page:
        found = axe.run(page).response["violations"]
        serious = [one["id"] for one in found if one["impact"] in ("serious", "critical")]
        assert serious == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        levels = [int(tag[1]) for tag in page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3')].map((one) => one.tagName)")]  # fmt: skip
        assert levels[0] == 1 and max(np.diff(levels)) <= 1


@pytest.mark.parametrize("width", [1280, 390])
def test_choices_by_mouse_and_by_keyboard(opened, address, own_loops, width, wait):
    with opened(address, width) as page:
        # The mouse over the curves, then arrow keys on the slider
        first = page.locator("#step").inner_text()
        page.locator("#curves .u-over").hover(position={"x": 60, "y": 60})
        hovered = page.locator("#step").inner_text()
        assert hovered != first
        page.locator("#record").focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert page.locator("#step").inner_text() == f"update {own_loop.EVERY}"
        assert page.locator("#live").inner_text().startswith(f"update {own_loop.EVERY}. Unit ")

        # What it says is what the tables hold
        curves = unit_curves(own_loops["mixed"], "scale", "conv1")
        for unit, cells in readout(page).items():
            held = [curves.values[name][1, unit] for name in ("measured", "flow", "magnitude")]
            off = held[0] - held[1]
            expected = [held[0], held[1], off, abs(off) / held[2]]
            assert [number(cell) for cell in cells[:4]] == pytest.approx(expected, rel=0.06)
            assert number(cells[0]) == pytest.approx(held[0], rel=1e-6)

        # A unit more by a click, one less by the space bar
        boxes = page.locator("#units input")
        shown = len(readout(page))
        page.locator("#units input:not(:checked)").first.click()
        assert len(readout(page)) == shown + 1
        boxes.first.focus()
        page.keyboard.press("Space")
        assert len(readout(page)) == shown
        assert page.evaluate("document.activeElement.dataset.unit") == "0"

        # An identity is never called a prediction
        assert "predicted" in page.locator("#predicted-head").inner_text()
        page.locator("#law").select_option("exact")
        assert page.locator("#predicted-head").inner_text() == "the identity"
        assert "predicted" not in page.locator("#explorer").inner_text().lower()

        # A group without a prediction, by keyboard alone
        page.locator("#symmetry").focus()
        page.keyboard.press("ArrowDown")
        assert page.locator("#symmetry").input_value() == "rescale"
        assert page.locator("#law option").all_inner_texts() == ["exact, an identity"]

        # A page that is loaded anew keeps the choices
        page.locator("#units input:checked").first.click()
        kept = sorted(readout(page))
        units = page.evaluate(
            "[...document.querySelectorAll('#units :checked')].map((b) => b.dataset.unit).join('.')"
        )
        wait(page, f"location.hash.includes('units={units}&')")
        page.reload()
        assert page.locator("#symmetry").input_value() == "rescale"
        assert sorted(readout(page)) == kept


@pytest.mark.parametrize(
    "choices",
    [
        "run=abc&group=-1&record=abc&units=abc.-1.0.5&sort=length.ascending",
        "run=99&group=99&record=-5&units=99.0.0&sort=0.backwards",
        "symmetry=none&law=none&record=1.5&units=.&sort=99.ascending",
        "record=1e9",
    ],
)
def test_an_address_that_makes_no_sense_still_shows_the_run(opened, address, choices):
    with opened(f"{address}#{choices}") as page:
        assert len(readout(page)) >= 1
        assert page.locator("#step").inner_text().startswith("update ")
        assert page.locator("#curves canvas").count() == 1
        slider = page.locator("#record")
        assert 0 <= int(slider.input_value()) <= int(slider.get_attribute("max"))


def test_another_run_by_keyboard(opened, several):
    with opened(several) as page:
        assert "predicted by flow" in page.locator("#measured").inner_text()
        page.locator("#run").focus()
        page.keyboard.press("ArrowDown")
        assert (
            page.locator("#measured").inner_text()
            == "Measured (solid) and the identity exact (dashed)"
        )
        assert page.locator("#law option").all_inner_texts() == ["exact, an identity"]
        assert "no law predicts it" in page.locator("#summary").inner_text()


def test_a_run_may_have_more_symmetries_than_the_first(opened, own_loops, monkeypatch, tmp_path):
    monkeypatch.setattr(own_loop, "GROUPS", own_loop.GROUPS[:2])
    monkeypatch.setattr(html_page, "draw", lambda *_: [])
    less = own_loop.own_loop_run(tmp_path / "less", "sgd")
    path = report([less, own_loops["sgd"]], tmp_path / "page.html")
    with opened(path.as_uri()) as page:
        heads = page.locator("#first figure:visible h3")
        assert heads.all_inner_texts() == ["Scale"]
        page.locator("#run").select_option("1")
        assert heads.all_inner_texts() == ["Scale", "Rescale", "Translation"]
        assert page.locator("#first canvas:visible").count() == 3


@pytest.mark.parametrize("width", [1280, 390])
def test_the_table_of_laws_is_sorted_and_searched(opened, several, width, wait):
    with opened(several, width) as page:
        head = page.locator("#laws-table thead th").nth(5)
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        values = [number(text) for text in column(page, 5) if text != "-"]
        assert values == sorted(values) and len(values) > 10
        assert column(page, 5)[-1] == "-"
        head.locator("button").focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert [number(text) for text in column(page, 5) if text != "-"] == values[::-1]
        page.keyboard.press("Shift+Tab")
        page.locator("[data-finds]").focus()
        page.keyboard.type("scale flow")
        assert {*column(page, 2)} == {"flow"} and {*column(page, 1)} <= {"scale", "rescale"}
        count = len(column(page, 2))
        assert page.locator("#laws-table-count").inner_text() == f"{count} rows"
        wait(page, "location.hash.includes('find=scale+flow') && location.hash.includes('sort=5.')")
        page.reload()
        assert len(column(page, 2)) == count
        assert head.get_attribute("aria-sort") == "descending"


def test_colours_are_chosen_by_keyboard_and_kept(opened, address):
    with opened(address, color_scheme="light") as page:
        colour = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(colour)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.locator("#theme").focus()
        page.keyboard.press("Enter")
        dark = page.evaluate(colour)
        assert dark != light and page.locator("#theme").get_attribute("aria-pressed") == "true"
        page.reload()
        assert page.evaluate(colour) == dark
        page.locator("#theme").click()
        assert page.evaluate(colour) == light


def test_without_scripts_there_are_pictures_and_numbers(opened, address):
    with opened(address, 390, java_script_enabled=False) as page:
        assert not page.locator("#explorer").is_visible()
        assert page.locator("noscript").first.inner_text().startswith("Scripts are off")
        assert page.evaluate("[...document.images].every((one) => one.naturalWidth > 500)")
        picture = page.locator("#figures img").first
        assert picture.is_visible() and re.search(r"\d\.\de-\d\d", picture.get_attribute("alt"))
        assert page.locator("#laws-table tbody tr").count() > 5
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator("#first .chart:visible").count() == 0
        assert page.locator("#first figcaption:visible").count() == 3


def test_without_scripts_an_identity_is_no_prediction(opened, own_loops, monkeypatch, tmp_path):
    monkeypatch.setattr(html_page, "draw", lambda *_: [])
    path = report([own_loops["adamw"]], tmp_path / "page.html")
    with opened(path.as_uri(), java_script_enabled=False) as page:
        head = page.locator("#measured").inner_text()
        assert head == "Measured (solid) and the identity exact (dashed)"
        assert "predicted" not in page.locator("#explorer").inner_text().lower()


def test_long_names_make_no_page_wider(opened, own_loops, tmp_path, monkeypatch):
    monkeypatch.setattr(html_page, "draw", lambda *_: [])
    folders = [tmp_path / f"{'a_long_name' * 9}{number}" for number in range(2)]
    runs = [own_loop.own_loop_run(folder, "mixed") for folder in folders]
    for given in (runs, runs[:1]):
        path = report(given, tmp_path / "page.html")
        for scripts in (True, False):
            with opened(path.as_uri(), 390, java_script_enabled=scripts) as page:
                assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_downloads_hold_the_tables(opened, address, own_loops):
    with opened(address) as page:
        with page.expect_download() as download:
            page.get_by_role("link", name=re.compile("progress.csv")).click()
        lines = download.value.path().read_text().splitlines()
        assert download.value.suggested_filename == "mixed_progress.csv"
        assert lines[0].startswith("step,epoch,loss") and len(lines) > 5


def test_names_may_hold_anything(opened, monkeypatch, tmp_path):
    groups = [
        dataclasses.replace(group, group=f"{HOSTILE} {group.group}") for group in own_loop.GROUPS
    ]
    monkeypatch.setattr(own_loop, "GROUPS", tuple(groups))
    names = ["'\"><svg onload=alert(2)>`a`", "``[x](https:evil.com)` \\`"]
    monkeypatch.setattr(html_page, "draw", lambda *_: [])
    found = [own_loop.own_loop_run(tmp_path / name, "sgd") for name in names]
    path = report(found, tmp_path / "page.html")
    with opened(path.as_uri()) as page:
        assert page.locator("#group option").first.inner_text() == f"{HOSTILE} conv1"
        assert f"{HOSTILE} conv2" in page.locator("#layers").inner_text()
        assert page.locator("#layers img, svg").count() == 0
        assert page.locator("a[href*=evil]").count() == 0
        cells = page.locator("#summary table").first.locator("tbody th code").all_inner_texts()
        assert cells == names
        heads = page.locator("#setup table").first.locator("thead th").all_inner_texts()
        assert heads[1:] == names
        assert len(readout(page)) > 1


def test_a_full_scale_page_is_small_and_fast(opened, tmp_path, wait):
    config = compose(["model=vgg16_bn", *FULL_SCALE, "track.every=400"])
    path = report([make_run(tmp_path / "full", config, 33)], tmp_path / "page.html")
    assert path.stat().st_size < 5e6
    with opened(path.as_uri()) as page:
        paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
        wait(page, paint)
        assert page.evaluate(paint) < 2000
        assert page.locator("#first canvas").count() == 3
        assert "12 of 64" in page.locator("#stated").inner_text()

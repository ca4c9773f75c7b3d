"""The report in a real headless Chromium: it runs only its own scripts, asks the network for nothing, and everything
on it can be seen and reached by keyboard, on a desk, on a phone and on paper."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from flows.report.data import Pick
from flows.report.page import render
from tests.flows.report_values import conversation, report_data

pytestmark = pytest.mark.slow

PLANTED = '<script>window.hit=1;alert(1)</script><img src=x onerror="window.hit=1"></script><!--\u2028\'"--> ${7*7}'
SOURCE = f"forum {PLANTED}"
ROWS = 60
PHONE, DESK = {"width": 375, "height": 740}, {"width": 1200, "height": 900}
FOCUSED = "() => document.activeElement.id || document.activeElement.hash || document.activeElement.tagName"


def missing(what):
    """In CI there must be a browser; elsewhere the reason is told."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{what}; CI must run the report in a browser")
    pytest.skip(what)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed (pip install -e '.[dev]')")
    program = os.environ.get("CHROMIUM") or next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if program is None:
        missing("no chromium found; install it, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page whose every text from the data is hostile, with enough rows for three pages of the list."""
    folder = tmp_path_factory.mktemp("report")
    data = report_data(folder, source=SOURCE)
    ids = [f"row-{k}-{PLANTED}" for k in range(ROWS)]
    picks = [
        Pick(ids[k], SOURCE if k % 2 else "maths & more", f"target {PLANTED}", "math", 2.0, 0.86, [(ids[k - 1], 0.61)])
        for k in range(ROWS)
    ]
    drawn = [replace(pick, target=None, task=None, utility=None, share=None) for pick in picks[: ROWS // 2]]
    arms = [replace(arm, picks=own) for arm, own in zip(data.arms, (picks, drawn), strict=True)]
    texts = {
        name: conversation(name, SOURCE, f"question {k} {PLANTED}", f"answer {PLANTED} " + "long " * 200, PLANTED)
        for k, name in enumerate(ids)
    }
    page = folder / "report.html"
    page.write_text(render(replace(data, arms=arms, conversations=texts)), encoding="utf-8")
    return page


@pytest.fixture
def opened(browser, report):
    """(page, what went wrong in it) at a given size; every request but the file's own is noted and stopped."""
    contexts = []

    def at(size=DESK, **options):
        context = browser.new_context(viewport=size, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        wrong = []
        page.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: wrong.append(request.url) if request.url != report.as_uri() else None)
        page.goto(report.as_uri())
        return page, wrong

    yield at
    for context in contexts:
        context.close()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_planted_runs_and_nothing_is_fetched(opened, size):
    page, wrong = opened(size)
    page.locator("#browser-next").click()
    page.get_by_role("button", name="Show the whole conversation").first.click()
    page.wait_for_timeout(200)
    assert wrong == []
    assert page.evaluate("window.hit") is None
    assert page.locator("img").count() == 0 and page.locator("script").count() == 3


def test_planted_text_is_shown_as_text(opened):
    page, _ = opened()
    first = page.locator(".pick").first
    assert PLANTED in first.locator("code").first.text_content()
    assert PLANTED in first.locator(".text").first.text_content()
    # a source's name in tables and figures too
    assert page.get_by_text(SOURCE, exact=True).count() >= 3


def test_the_content_policy_stops_a_script_that_is_not_ours(opened):
    page, wrong = opened()
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hit=1'}))"
    )
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    assert sum("Content Security Policy" in text for text in wrong) >= 2


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_every_figure_can_be_seen(opened, size):
    page, _ = opened(size)
    figures = page.locator("figure svg").all()
    assert len(figures) >= 12
    for figure in figures:
        box = figure.bounding_box()
        assert figure.is_visible() and box["width"] > 100 and box["height"] > 60
        assert figure.evaluate("svg => svg.querySelectorAll('path, image').length") > 3


def test_text_in_figures_is_readable_on_a_phone(opened):
    page, _ = opened(PHONE)
    heights = page.evaluate(
        "[...document.querySelectorAll('figure svg text')].map((text) => text.getBoundingClientRect().height)"
    )
    assert np.median(heights) >= 9


def test_a_phone_scrolls_down_only(opened):
    page, _ = opened(PHONE)
    page.locator("summary").click()
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    wide = page.locator(".box").evaluate_all("all => all.filter((box) => box.scrollWidth > box.clientWidth + 1)")
    assert wide  # what is wider scrolls in its own box, and a keyboard reaches it
    assert page.locator(".box").evaluate_all(
        "all => all.every((box) => (box.scrollWidth > box.clientWidth + 1) === (box.tabIndex === 0))"
    )
    assert page.locator(".box").evaluate_all("all => all.every((box) => box.getAttribute('aria-label'))")


def test_tab_reaches_navigation_search_filters_and_pages(opened):
    page, _ = opened()
    reached = []
    for _ in range(300):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
        if reached[-1] == "browser-next":
            break
    assert reached[0] == "#content"  # the skip link comes first
    contents = page.locator("nav a").evaluate_all("all => all.map((link) => link.hash)")
    assert len(contents) >= 8 and set(contents) <= set(reached)
    controls = [f"browser-{name}" for name in ("search", "method", "source", "task", "also", "previous", "next")]
    assert [name for name in reached if name in controls] == controls


def test_the_focus_is_seen(opened):
    page, _ = opened()
    page.keyboard.press("Tab")
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.locator("#browser-search").focus()
    assert page.locator("#browser-search").evaluate("element => getComputedStyle(element).outlineStyle") == "solid"


def test_the_skip_link_leads_past_the_navigation(opened):
    page, _ = opened()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate(FOCUSED) == "content"


def test_search_and_filters_narrow_the_list(opened):
    page, _ = opened()
    status = page.locator("#browser-status")
    assert status.text_content() == f"1 to 25 of {ROWS} picks"
    page.locator("#browser-search").press_sequentially("ROW-7- answer")
    assert status.text_content() == "1 to 1 of 1 picks"
    assert page.locator(".pick mark").count() > 0
    page.locator("#browser-search").fill("nowhere to be found")
    assert "No pick matches" in status.text_content() and page.locator(".pick").count() == 0
    page.get_by_role("button", name="Clear").click()
    page.locator("#browser-source").select_option(label=SOURCE)
    assert status.text_content() == f"1 to 25 of {ROWS // 2} picks"
    page.locator("#browser-also").select_option(label="no other method")
    assert status.text_content() == f"1 to {ROWS // 4} of {ROWS // 4} picks"
    page.get_by_role("button", name="Clear").click()
    page.locator("#browser-method").select_option(label="random")
    assert status.text_content() == f"1 to 25 of {ROWS // 2} picks"
    assert "no target was looked at" in page.locator(".pick .reason").first.text_content()
    page.locator("#browser-task").select_option(label="math")
    assert page.locator(".pick").count() == 0


def test_clear_goes_back_to_the_list_as_it_was_opened(opened):
    page, _ = opened()
    page.locator("#browser-method").select_option(label="all methods")
    assert page.locator("#browser-status").text_content() == f"1 to 25 of {ROWS * 3 // 2} picks"
    page.get_by_role("button", name="Clear").click()
    assert page.locator("#browser-status").text_content() == f"1 to 25 of {ROWS} picks"


def test_pages_turn_by_keyboard_and_keep_the_focus(opened):
    page, _ = opened()
    assert page.locator("#browser-previous").get_attribute("aria-disabled") == "true"
    page.locator("#browser-next").focus()
    for _ in range(4):
        page.keyboard.press("Enter")
    assert page.evaluate(FOCUSED) == "browser-next"
    assert page.locator("#browser-page").text_content() == "Page 3 of 3"
    assert page.locator("#browser-status").text_content() == f"51 to {ROWS} of {ROWS} picks"
    assert page.locator("#browser-next").get_attribute("aria-disabled") == "true"
    assert page.locator(".pick").first.locator(".rank").text_content() == "bids #51"


def test_the_rest_of_a_conversation_and_the_nearest_row_can_be_seen(opened):
    page, _ = opened()
    first = page.locator(".pick").nth(1)
    short = len(first.locator(".turns").text_content())
    button = first.get_by_role("button", name="Show the whole conversation")
    button.click()
    assert len(first.locator(".turns").text_content()) > short + 500
    assert first.get_by_role("button", name="Show less").get_attribute("aria-expanded") == "true"
    near = first.locator(".link").text_content()
    first.locator(".link").click()
    assert near in page.locator(".pick").first.text_content()


def test_paper_has_no_controls_but_the_first_picks(opened):
    page, _ = opened()
    assert not page.locator(".first-picks").first.is_visible()
    page.emulate_media(media="print")
    for hidden in ("#browser", "nav", ".skip"):
        assert not page.locator(hidden).is_visible(), hidden
    assert page.locator(".first-picks").first.is_visible()
    assert all(figure.is_visible() for figure in page.locator("figure svg").all())
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_the_first_picks_and_all_figures_stay(opened):
    page, wrong = opened(java_script_enabled=False)
    assert page.locator(".first-picks").first.is_visible() and not page.locator("#browser").is_visible()
    assert page.get_by_text("needs JavaScript").is_visible()
    assert wrong == []


def test_headings_go_down_by_one_level_at_a_time(opened):
    page, _ = opened()
    levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map((heading) => Number(heading.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.locator("th:not([scope])").count() == 0
    ids = page.locator("[id]").evaluate_all("all => all.filter((e) => !e.closest('svg')).map((element) => element.id)")
    assert len(ids) == len(set(ids))

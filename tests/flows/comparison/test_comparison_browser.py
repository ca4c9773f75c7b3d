"""The comparison's page in a real headless Chromium: nothing planted runs, nothing is fetched, and a phone scrolls down
only."""

from __future__ import annotations

from itertools import pairwise

import pytest

from flows.comparison.differences import comparison_of
from flows.comparison.page import render
from flows.comparison.read import read_runs
from tests.flows.comparison.small_runs import finish, item_values, write_data
from tests.flows.test_report_browser import DESK, PHONE, PLANTED, browser  # noqa: F401  # a fixture, used by its name

pytestmark = pytest.mark.slow

SOURCES = (f"forum {PLANTED}", "maths & more")
TASKS = (f"task {PLANTED}", "code")


def planted_items(config):
    losses = item_values(config, gain=0.2, capabilities=TASKS)
    return losses + item_values(config, metric="acc", task=f"set {PLANTED}", capabilities=TASKS)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Three runs with names to spare, whose sources, tasks and model's name are hostile."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "model <img src=x onerror=alert(1)>").mkdir()
    data = write_data(folder / "data", sources=SOURCES)
    runs = [
        finish(
            folder / "store",
            data | {"model": folder / "model <img src=x onerror=alert(1)>"},
            name=f"a-rather-long-name-of-run-{k}",
            influence=k,
            tasks=TASKS,
            source=SOURCES[0],
            methods=["bids", "less", "random"],
            items=planted_items,
            finetune={"optimizer": {"epochs": 1 + k}},
        )
        for k in range(3)
    ]
    page = folder / "comparison.html"
    page.write_text(render(comparison_of(read_runs(runs))), encoding="utf-8")
    return page


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def opened(request, comparison):
    """(page, what went wrong in it, its size); every request but the file's own is noted."""
    context = request.getfixturevalue("browser").new_context(viewport=request.param, reduced_motion="reduce")
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append("dialog"), dialog.dismiss()))
    page.on("request", lambda asked: wrong.append(asked.url) if asked.url != comparison.as_uri() else None)
    page.goto(comparison.as_uri())
    yield page, wrong, request.param
    context.close()


def test_the_page_is_whole_safe_and_readable(opened):
    page, wrong, size = opened
    for summary in page.locator("summary").all():
        summary.click()
    page.wait_for_timeout(300)
    assert wrong == [] and page.evaluate("window.hit") is None
    assert page.locator("img").count() == 0 and page.locator("script").count() == 1
    assert page.get_by_text(SOURCES[0], exact=True).count() >= 3
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    boxes = page.locator(".box")
    assert boxes.evaluate_all(
        "all => all.every((box) => (box.scrollWidth > box.clientWidth + 1) === (box.tabIndex === 0))"
    )
    assert boxes.evaluate_all("all => all.every((box) => box.getAttribute('aria-label'))")
    figures = page.locator("figure svg").all()
    assert len(figures) == 4
    for figure in figures:
        box = figure.bounding_box()
        assert figure.is_visible() and box["width"] > 100 and box["height"] > 60


def test_headings_links_and_paper(opened):
    page, _, _ = opened
    levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map((heading) => Number(heading.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.locator("th:not([scope])").count() == 0
    contents = page.locator("nav a").evaluate_all("all => all.map((link) => link.hash.slice(1))")
    assert len(contents) == 7 and all(page.locator(f"[id='{name}']").count() == 1 for name in contents)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")

"""A live run in a real browser: from click to ROC, refresh, stop, queue, kill and resume, bad input, share link."""

from __future__ import annotations

import re
import signal

import pytest

from s2l.worlds.people import LAB_NAMES

pytestmark = pytest.mark.browser
RUN = 600_000  # milliseconds for what takes some seconds on a machine of one's own: other work may share it


@pytest.fixture(scope="module", autouse=True)
def expect(chromium):
    from playwright.sync_api import expect as e

    return e


def tab(page, number: int):
    page.get_by_role("tab", name=re.compile(f"^{number} ")).click()


def choose(page, person: int, size: str = "quick"):
    """Pick a person and the smallest preset."""
    tab(page, 1)
    page.locator(f'#people [data-name="{LAB_NAMES[person]}"]').click()
    page.locator("#preset").get_by_label(re.compile(size)).check()


def somebody_else(chromium):
    context = chromium.new_context()
    context.set_default_timeout(RUN)
    return context


def state(page):
    return page.locator("#job-state")


def start_long(page, person: int):
    """A run that goes on for minutes."""
    choose(page, person)
    tab(page, 3)
    page.locator("#max_train_steps input").fill("5000")
    page.locator("#run").click()
    page.wait_for_url(re.compile(r"run=[\w-]{20,}"))


def test_a_run_from_click_to_roc(page, chromium, expect):
    choose(page, 0)
    page.locator("#next-sp-set").click()
    expect(page.locator("#set_size input")).to_have_value("8")
    page.locator("#next-finetune").click()
    expect(page.locator("#method-card")).to_contain_text("parameters are trained")
    page.locator("#run").click()
    expect(state(page)).to_have_text(re.compile("Waiting|Running"))
    expect(page).to_have_url(re.compile(r"run=[\w-]{20,}"))
    expect(page.locator("#live-pictures img").first).to_be_visible(timeout=RUN)
    expect(state(page)).to_have_text("Finished", timeout=RUN)
    expect(page.locator("#live-samples img").first).to_be_visible()
    page.locator("#see-results").click()
    page.locator("#quiz-skip").click()
    expect(page.locator("#headline")).to_contain_text("A quick run is too small for conclusions")
    page.locator("#scores [data-fold=verdicts] > summary").click()
    expect(page.locator("#scores [data-fold=verdicts]")).to_contain_text("SecMI attack")
    expect(page.locator("#scores [data-fold=verdicts]")).to_contain_text("95 % interval")
    expect(page.locator("#roc .only-light img").first).to_be_visible()
    # At first the attack that the question was about.
    expect(page.locator("#roc .only-light img").first).to_have_attribute("alt", re.compile("ROC curve of Loss"))
    page.locator("#attack").get_by_label("SecMI").check()
    expect(page.locator("#roc .only-light img").first).to_have_attribute("alt", re.compile("ROC curve of SecMI"))
    page.locator("#next-extraction").click()
    page.locator("#quiz-skip-extraction").click()
    expect(page.locator("#extraction figcaption").first).to_contain_text("before: l2")
    page.locator("#next-compare").click()
    expect(page.locator("#sides")).to_contain_text("SecMI")  # the example and this run, side by side
    page.locator("#next-defend").click()
    page.locator("#next-report").click()
    expect(page.locator("#command")).to_contain_text("python3 start.py run --domain")
    with page.expect_download() as download:
        page.locator("#result-json").click()
    assert download.value.suggested_filename.endswith("-lora-quick-result.json")
    link = page.locator("#share-link textarea, #share-link input").input_value()
    # Once more: the cache answers at once, and still shows the curve and the samples.
    tab(page, 3)
    page.locator("#run").click()
    expect(state(page)).to_have_text("Finished")
    expect(page.locator("#live-loss svg")).to_be_visible()
    expect(page.locator("#live-samples img").first).to_be_visible()
    # Somebody else with the link sees this run, after a prediction.
    stranger = somebody_else(chromium)
    theirs = stranger.new_page()
    theirs.goto(link)
    theirs.locator("#quiz-skip").click()
    expect(theirs.locator("#headline")).to_contain_text(LAB_NAMES[0])
    stranger.close()


def test_a_refresh_in_mid_run_reattaches_and_stop_stops(page, server, context, expect):
    start_long(page, 1)
    expect(page.locator("#status")).to_contain_text("Fine-tuning:", timeout=RUN)
    page.reload()
    expect(state(page)).to_have_text("Running")
    expect(page.locator("#status")).to_contain_text(LAB_NAMES[1])
    expect(page.locator("#max_train_steps input")).to_have_value("5000")
    expect(page.locator("#live-loss svg")).to_be_visible(timeout=RUN)
    # The same visitor without the address: the browser remembers.
    other = context.new_page()
    other.goto(server.url)
    expect(state(other)).to_have_text("Running")
    other.close()
    page.locator("#cancel").click()
    expect(state(page)).to_have_text("Stopped")
    expect(page.locator("#resume")).to_be_visible()
    page.locator("#resume").click()
    expect(state(page)).to_have_text(re.compile("Waiting|Running"))
    page.locator("#cancel").click()
    expect(state(page)).to_have_text("Stopped")


def test_a_second_visitor_is_queued_and_cannot_stop_the_first(page, server, chromium, expect):
    start_long(page, 2)
    expect(state(page)).to_have_text("Running", timeout=RUN)
    stranger = somebody_else(chromium)
    second = stranger.new_page()
    second.goto(page.url)  # the first visitor's address: may look, may not touch
    expect(state(second)).to_have_text("Running")
    expect(second.locator("#cancel")).to_be_hidden()
    second.goto(server.url)
    choose(second, 3)
    tab(second, 3)
    second.locator("#run").click()
    expect(second.locator("#queue-position")).to_contain_text("1 run is ahead of this one")
    second.locator("#cancel").click()
    expect(state(second)).to_have_text("Stopped")
    stranger.close()
    page.locator("#cancel").click()
    expect(state(page)).to_have_text("Stopped")


def test_a_killed_server_leaves_a_job_that_resumes(page, server, expect):
    start_long(page, 3)
    expect(page.locator("#status")).to_contain_text("Fine-tuning:", timeout=RUN)
    address = page.url
    page.goto("about:blank")
    server.stop(signal.SIGKILL)
    server.start()
    page.goto(address)
    expect(state(page)).to_have_text("Interrupted")
    expect(page.locator("#status")).to_contain_text("restarted")
    page.locator("#resume").click()
    expect(state(page)).to_have_text("Running", timeout=RUN)
    page.locator("#cancel").click()
    expect(state(page)).to_have_text("Stopped", timeout=RUN)


def test_bad_input_is_one_sentence_and_nothing_is_lost(page, expect):
    tab(page, 1)
    page.locator("#prompt textarea").fill("")
    tab(page, 3)
    page.locator("#run").click()
    expect(page.locator("#run-error")).to_contain_text("the prompt is empty")
    tab(page, 1)
    page.locator("#prompt textarea").fill(f"a photo of {LAB_NAMES[0]}")
    tab(page, 2)
    page.locator("#set_size input").fill("0")
    tab(page, 3)
    page.locator("#run").click()
    expect(page.locator("#run-error")).to_contain_text("Set size: should be greater than or equal to 1")
    tab(page, 2)
    page.locator("#set_size input").fill("999999")
    tab(page, 3)
    page.locator("#run").click()
    expect(page.locator("#run-error")).to_contain_text("at most 2,000")
    expect(page.locator("#status")).to_contain_text("Nothing is running")
    tab(page, 2)
    expect(page.locator("#set_size input")).to_have_value("999999")


def test_other_attacks_are_chosen_where_the_attacks_are(page, server, expect):
    page.goto(server.url + "?tab=attack")
    page.locator("#choose-attacks").get_by_role("button", name=re.compile("other attacks")).click()
    page.locator("#attacks").get_by_role("checkbox", name="SimA", exact=True).check()
    page.locator("#run-attacks").click()
    expect(page).to_have_url(re.compile("tab=finetune"))
    expect(state(page)).to_have_text(re.compile("Waiting|Running|Finished"))
    page.locator("#cancel").click()

"""The lesson on the shipped showcase: predict, reveal, threshold, gallery, links, class mode, dark, small, keyboard."""

from __future__ import annotations

import re

import pytest

from s2l.ui.tabs import TABS
from s2l.worlds.people import LAB_NAMES

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", autouse=True)
def expect(chromium):
    from playwright.sync_api import expect as e

    return e


def unfold(page, box: str, name: str) -> None:
    """Open one of the folded parts below a figure."""
    page.locator(f"{box} [data-fold={name}] > summary").click()


@pytest.mark.parametrize(
    ("tab", "skip", "said", "figure", "pane"),
    [
        ("attack", "#quiz-skip", "#headline", "#roc .only-light img", "#ranked .pane"),
        ("extraction", "#quiz-skip-extraction", "#extraction-headline", "#extraction .card", "#extraction .pane"),
    ],
)
def test_the_conclusion_and_its_figure_are_seen_without_scrolling(
    context, server, expect, tab, skip, said, figure, pane
):
    page = context.new_page()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{server.url}?tab={tab}")
    page.locator(skip).click()
    expect(page.locator(figure).first).to_be_visible()
    page.evaluate("window.scrollTo(0, 0)")
    for seen in (said, figure):
        box = page.locator(seen).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 800, seen
    assert page.evaluate("document.documentElement.scrollHeight") < 2000
    assert page.locator(pane).evaluate("e => e.scrollHeight > e.clientHeight"), "all photos at once"
    page.locator(f"{pane} button").first.focus()
    for _ in range(60):
        page.keyboard.press("ArrowDown")
    assert page.locator(pane).evaluate("e => e.scrollTop > 0"), "the keyboard does not reach what is below"


def test_predict_reveal_and_the_threshold(page, server, expect):
    page.goto(server.url + "?tab=attack")
    expect(page.locator("#quiz-photo")).to_contain_text("1 of 3")
    expect(page.locator("#roc")).to_have_count(0)  # nothing is told before the prediction
    for number in (1, 2, 3):
        expect(page.locator("#quiz-photo")).to_contain_text(f"{number} of 3")
        page.locator("#quiz-photo button").nth(number).click()
        expect(page.locator("#quiz-photo .answered")).to_have_count(number)  # the photos stay, with the answer
        expect(page.locator("#quiz-photo .answered .hit").first).to_contain_text("training photo")
    expect(page.locator("#quiz-photo")).to_contain_text("You")
    page.reload()  # the answers are kept
    expect(page.locator("#quiz-photo")).to_contain_text("You")
    page.locator("#quiz-auc input[type=number]").fill("0.9")
    page.locator("#quiz-reveal").click()
    expect(page.locator("#quiz-said")).to_contain_text("Your guess of the AUC after the shake")
    expect(page.locator("#quiz-said")).to_contain_text("Pure guessing")
    expect(page.locator("#quiz-said")).to_contain_text("in all possible rounds")
    expect(page.locator("#roc .dot")).to_be_visible()
    place = "e => [e.offsetLeft, e.offsetTop]"  # within the figure: the page may scroll
    before = page.locator("#roc .dot").evaluate(place)
    page.locator("#accused input[type=number]").fill("120")
    page.locator("#accused input[type=number]").press("Enter")
    expect(page.locator("#point")).to_contain_text("120 accused")
    page.wait_for_timeout(600)
    after = page.locator("#roc .dot").evaluate(place)
    assert after[0] > before[0] and after[1] < before[1]
    faded = "e => getComputedStyle(e).opacity"
    assert page.locator("#ranked button img").nth(119).evaluate(faded) == "1"
    assert float(page.locator("#ranked button img").nth(120).evaluate(faded)) < 1
    page.locator("#ranked button").nth(3).focus()
    page.keyboard.press("Enter")  # with the keyboard alone
    expect(page.locator("#photo-detail")).to_contain_text("of the held-out photos")
    unfold(page, "#scores", "numbers")
    expect(page.locator("#scores table").filter(visible=True)).to_contain_text("balanced accuracy")
    page.locator("#attack").get_by_label("SecMI").check()
    expect(page.locator("#roc .only-light img").first).to_have_attribute("alt", re.compile("ROC curve of SecMI"))
    expect(page.locator("#scores table").filter(visible=True)).to_contain_text("SecMI")  # still open


def test_extraction_is_predicted_filtered_and_looked_at(page, server, expect):
    page.goto(server.url + "?tab=extraction")
    expect(page.locator("#extraction")).to_have_count(0)
    expect(page.locator("#quiz-extracted input")).to_have_value("")  # a slider would stand on somebody's guess
    page.locator("#quiz-reveal-extraction").click()
    expect(page.get_by_text("enter your guess first")).to_be_visible()
    page.locator("#quiz-extracted input").fill("3")
    page.locator("#quiz-reveal-extraction").click()
    expect(page.locator("#quiz-said-extraction")).to_contain_text("Counted")
    n = page.locator("#extraction button").count()
    page.locator("#show").get_by_label("repeated 5 times").check()
    expect(page.locator("#extraction button")).to_have_count(7)
    assert n > 7
    page.locator("#extraction button").first.click()
    expect(page.locator("#extraction-detail svg")).to_be_visible()
    unfold(page, "#distances", "distances")
    expect(page.locator("#distances .only-light img").first).to_be_visible()


def test_how_it_works_follows_the_person_on_the_screen(page, expect):
    faces = page.locator("#leak .faces button")
    for face in (faces.nth(1), faces.first):
        name = face.get_attribute("data-person")
        face.click()
        expect(page.locator("#story")).to_contain_text(f"photos of {name}")
    page.locator("#story").get_by_role("button", name="Open step 2").click()  # a box of the pipeline opens
    expect(page).to_have_url(re.compile("tab=sp-set"))


def test_the_address_holds_what_the_first_screen_shows(page, server, expect):
    page.locator("#leak [data-person]").nth(1).click()
    name = page.locator("#leak [data-person][aria-pressed=true]")
    expect(name).to_have_attribute(
        "data-person", page.locator("#leak [data-person]").nth(1).get_attribute("data-person")
    )
    page.locator("#leak [data-attack=secmi]").click()
    page.locator("#leak [data-go]", has_text="un-shaken").click()
    page.locator("#leak [data-accused]").fill("33")
    said, chosen = page.locator("#leak [data-conclusion]").inner_text(), name.get_attribute("data-person")
    expect(page).to_have_url(re.compile(r"see=[^&]+(~|%7E)secmi(~|%7E)1(~|%7E)33"))
    page.reload()  # or somebody else, with the link
    expect(name).to_have_attribute("data-person", chosen)
    expect(page.locator("#leak [data-conclusion]")).to_have_text(said)
    expect(page.locator("#leak [data-point]")).to_contain_text("33 accused")
    for wrong in ("Nobody~secmi~1~33", f"{chosen}~magic~9~-5", "~~~", "<b>x</b>"):
        page.goto(f"{server.url}?see={wrong}")
        expect(page.locator("#leak [data-point]")).to_contain_text("20 accused")


def test_every_tab_is_in_the_bar_of_a_laptop(context, server, expect):
    page = context.new_page()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(server.url)
    expect(page.locator("#leak")).to_be_visible()
    page.wait_for_timeout(500)
    seen = [tab.inner_text() for tab in page.locator("#tabs [role=tab]").all() if tab.is_visible()]
    assert seen == [entry.title for entry in TABS]


def test_a_screen_reader_hears_words_when_a_tab_is_drawn(page):
    page.get_by_role("tab", name=re.compile("^2 ")).click()
    said = "[...document.querySelectorAll('[role=status]')].map((e) => e.textContent.trim())"
    page.wait_for_function(f"{said}.includes('Done')")  # for a second only
    assert "common.complete" not in page.evaluate(said)


def test_every_tab_follows_the_next_button(page, server, expect):
    page.goto(server.url + "?class=1")
    expect(page.locator("#story")).to_be_visible()
    for button, tab in (("next-target", "target"), ("next-sp-set", "sp-set"), ("next-finetune", "finetune")):
        page.locator(f"#{button}").click()
        expect(page).to_have_url(re.compile(f"tab={tab}"))
    expect(page).to_have_url(re.compile("class=1"))
    expect(page.locator("#method-card")).to_contain_text("parameters are trained")
    expect(page.locator("#finetune-advanced")).to_be_hidden()  # class mode
    page.goto(server.url + "?tab=compare")
    expect(page.locator("#tables")).to_contain_text("DreamBooth + LoRA")
    page.locator("#next-defend").click()
    page.locator("#next-report").click()
    expect(page.locator("#command")).to_contain_text("python3 start.py run")
    expect(page.locator("#share-link textarea, #share-link input")).to_have_value(
        re.compile(r"^http.*\?run=showcase&tab=attack$")
    )
    page.goto(server.url + "?tab=report&class=1")  # a lesson's link opens a lesson
    expect(page.locator("#share-link textarea, #share-link input")).to_have_value(re.compile("run=showcase.*class=1$"))
    page.reload()
    expect(page.locator("#command")).to_contain_text("python3 start.py run")
    with page.expect_download() as download:
        page.locator("#result-json").click()
    assert download.value.suggested_filename == "mira-solwyn-lora-demo-result.json"


def test_the_sp_set_is_shown_and_downloaded(page, server, expect):
    page.goto(server.url + "?tab=sp-set")
    expect(page.locator("#sp-pictures img").first).to_be_visible()
    expect(page.locator("#preview")).to_contain_text("a photo of")
    with page.expect_download() as download:
        page.locator("#sp-zip").click()
    assert download.value.suggested_filename == "mira-solwyn-lora-demo-sp-set.zip"
    page.get_by_role("tab", name=re.compile("^1 ")).click()
    page.locator(f'#people [data-name="{LAB_NAMES[1]}"]').click()
    page.locator("#next-sp-set").click()
    expect(page.locator("#sp-pictures")).to_contain_text(f"no pictures of {LAB_NAMES[1]} yet")
    expect(page.locator("#sp-pictures img").first).to_be_hidden()  # somebody else's: folded


def test_back_goes_to_the_tab_before(page, server, expect):
    for button, tab in (("next-target", "target"), ("next-sp-set", "sp-set")):
        page.locator(f"#{button}").click()
        expect(page).to_have_url(re.compile(f"tab={tab}$"))
    page.go_back()
    expect(page).to_have_url(re.compile("tab=target$"))
    expect(page.locator("#people")).to_be_visible()
    page.go_back()
    expect(page.locator("#leak")).to_be_visible()
    page.go_forward()
    expect(page.locator("#people")).to_be_visible()


def test_a_table_is_whole_on_a_small_screen(context, server, expect):
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{server.url}?tab=report")
    unfold(page, "#report-headline", "numbers")
    cell = page.locator("#report-headline td[data-label^=change]").first
    expect(cell).to_be_visible()
    box = cell.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert cell.evaluate("e => getComputedStyle(e, '::before').content").startswith('"change')


@pytest.mark.parametrize(
    ("tab", "box"), [("attack", "#scores [data-fold=overlap]"), ("extraction", "#distances"), ("report", "#loss")]
)
def test_a_figure_fits_a_telephone_and_hides_no_panel(context, server, expect, tab, box):
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{server.url}?tab={tab}")
    skip = page.locator("#quiz-skip, #quiz-skip-extraction").filter(visible=True).first
    if tab != "report":
        skip.click()
    page.locator(f"{box} summary").first.click()
    figure = page.locator(f"{box} .only-light img").first
    expect(figure).to_be_visible()
    size = figure.evaluate("i => i.decode().then(() => [i.naturalWidth / i.naturalHeight, i.getBoundingClientRect()])")
    assert size[0] < 1.2, "not the narrow figure"
    assert size[1]["left"] >= 0 and size[1]["right"] <= 390
    assert figure.evaluate("i => i.closest('.drawing').scrollWidth <= i.closest('.drawing').clientWidth")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(context, server, expect, width):
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 844})
    for tab in ("story", "target", "sp-set", "finetune", "attack", "extraction", "compare", "defend", "report"):
        page.goto(f"{server.url}?__theme=dark&tab={tab}")
        expect(page.locator("#tabs button[role=tab][aria-selected=true]").first).to_be_attached()
        for skip in ("#quiz-skip", "#quiz-skip-extraction"):
            if tab in ("attack", "extraction") and page.locator(skip).is_visible():
                page.locator(skip).click()
        page.wait_for_timeout(1500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
    colour = page.locator("#tabs").evaluate("element => getComputedStyle(element).color")
    assert sum(map(int, re.findall(r"\d+", colour)[:3])) > 500, f"dark theme, but the text is {colour}"


def test_every_picture_says_what_it_shows(page, server, expect):
    for tab in ("story", "target", "attack", "extraction"):
        page.goto(f"{server.url}?tab={tab}")
        expect(page.locator(".s2l img").first).to_be_visible()
        page.wait_for_timeout(500)
        silent = page.evaluate(
            "[...document.querySelectorAll('img')].filter(i => !i.alt && !i.closest('[role=img], button')).length"
        )
        assert silent == 0, tab
        unnamed = page.evaluate(
            "[...document.querySelectorAll('.s2l button')].filter(b => !b.innerText && !b.ariaLabel"
            " && !b.querySelector('img[alt]')).length"
        )
        assert unnamed == 0, tab


def test_private_files_are_not_served(page, server):
    for path in ("jobs/jobs.sqlite3", "jobs/secret", "uploads", "stages"):
        for route in ("gradio_api/file=", "file="):
            answer = page.request.get(f"{server.url}{route}{server.environment['S2L_CACHE']}/{path}")
            assert answer.status in (403, 404), path
    for path in ("../../../etc/passwd", "/etc/passwd", "app.py", "s2l/assets/labs/fresh/lab.json"):
        assert page.request.get(f"{server.url}gradio_api/file={path}").status in (403, 404), path


def test_the_api_is_small_and_answers_with_a_sentence(page, server):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    info = page.request.get(f"{server.url}gradio_api/info").json()
    names = {"/people", "/start_run", "/job_status", "/stop_run", "/operating_point", "/secure_finetune"}
    assert set(info["named_endpoints"]) == names and not info["unnamed_endpoints"]
    client = Client(server.url, verbose=False)
    point = client.predict("showcase", "loss", "after", 20, api_name="/operating_point")
    assert point["accused"] == 20 == point["members_found"] + point["wrongly_accused"]
    wrong = [
        (("Nobody", "quick", "lora"), "/start_run", "unknown person"),
        (("x" * 5000, "quick", "lora"), "/start_run", "at most 200"),
        (("../../etc", "quick", "lora"), "/start_run", "unknown person"),
        ((7, "quick", "lora"), "/start_run", "a text"),
        ((client.predict(api_name="/people")[0], "huge", "lora"), "/start_run", "unknown size"),
        ((client.predict(api_name="/people")[0], "quick", "magic"), "/start_run", "magic"),
        (("nope",), "/job_status", "no job"),
        (("nope", "v"), "/stop_run", "somebody else"),
        (("showcase", "loss", "after", 10**9), "/operating_point", "from 0 to"),
        (("showcase", "loss", "after", 1.5), "/operating_point", "whole number"),
        (("showcase", "magic", "after", 1), "/operating_point", "unknown attack"),
        (("../x", "loss", "after", 1), "/operating_point", "no finished run"),
    ]
    for arguments, name, said in wrong:
        with pytest.raises((AppError, ValueError), match=said):
            client.predict(*arguments, api_name=name)

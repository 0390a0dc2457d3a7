"""A hostile visitor: what the attack on the running page found, tried over HTTP against a server of its own."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s2l.config import LAB, RunConfig, merged
from s2l.errors import UserError
from s2l.jobs import Jobs
from s2l.jobs.limits import check_texts
from s2l.labs import find_lab
from s2l.model.checkpoints import locate
from s2l.store import Store
from tests.browser.conftest import ROOT
from tests.visitor import Visitor, served

SCRIPT = b"<html><script>localStorage</script></html>"
HOSTILE = {
    "page.html": SCRIPT, "page.xhtml": SCRIPT, "page.js": b"alert(1)", "page.svg": b"<svg onload='alert(1)'/>",
    "page.png": SCRIPT, "page.jpg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "page.txt": b"x",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_checkpoint, foreign_checkpoint):
    """One server for this file: random weights, hub models allowed, prompts of one's own not."""
    folder = tmp_path_factory.mktemp("server")
    server = served(folder, tiny_checkpoint, S2L_ALLOW_HUB_MODELS="1", S2L_MODEL=str(foreign_checkpoint))
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
def visitor(server, request):
    return Visitor(server, request.node.name[:60])


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def named(path: str, **more) -> dict:
    return {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}} | more


# --- stored script ---------------------------------------------------------------------------------------------------


@pytest.mark.brings(
    "Visitors",
    "HTML, SVG, JavaScript or any other file sent to the upload",
    "refused; nothing of it stays",
)
@pytest.mark.parametrize("name", HOSTILE)
def test_only_pictures_are_taken_and_nothing_else_stays(visitor, name):
    answer = visitor.upload(**{"good.png": png(), name: HOSTILE[name]})
    assert answer.status_code == 415 and "only pictures are accepted" in answer.json()["detail"]
    left = [path for path in visitor.cache.rglob("*") if path.is_file() and path.read_bytes() == HOSTILE[name]]
    assert not left and not list((visitor.cache / "public" / "visitors").iterdir())


@pytest.mark.brings("Visitors", "An upload", "never served back")
def test_an_upload_is_never_served(visitor):
    picture = png(1) + SCRIPT  # a picture to those who look at its beginning
    (path,) = visitor.upload(**{"page.html": picture}).json()
    assert Path(path).read_bytes() == picture and Path(path).suffix == ".png"
    incoming = visitor.cache / "public"
    copies = [p for p in incoming.rglob("*") if p.is_file() and p.read_bytes() == picture]
    assert copies == [Path(path)]  # gradio's own is gone
    for of in (path, f"{visitor.cache}/public/results/../{Path(path).relative_to(incoming)}"):
        for route in (
            "gradio_api/file=",
            "file=",
            "gradio_api/file/",
            "gradio_api/proxy=",
            "gradio_api/file=http://x/",
        ):
            answer = visitor.client.get(f"{route}{of}")
            assert answer.status_code in (403, 404) and SCRIPT not in answer.content, route
    Path(path).unlink()


def published(visitor: Visitor) -> Path:
    folder = visitor.cache / "public" / "results" / "0123456789abcdef0123456789abcdef"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_bytes(SCRIPT)
    return folder / "report.html"


@pytest.mark.brings(
    "Visitors",
    "A file that the app publishes",
    "sent as its own type, `nosniff`, under a policy that runs nothing",
)
def test_a_published_file_is_a_download_that_runs_nothing(visitor):
    report = published(visitor)
    for headers in ({}, {"Range": "bytes=0-5"}):
        answer = visitor.client.get(f"gradio_api/file={report}", headers=headers)
        assert answer.status_code == 200 and answer.content == SCRIPT
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["content-security-policy"].startswith("sandbox;")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_files_of_a_run_are_there_to_download(visitor):
    button = next(c["id"] for c in visitor.page["components"] if c["props"].get("elem_id") == "sp-zip")
    drawing = next(d for d in visitor.page["dependencies"] if button in d["outputs"] and d["targets"][0][1] == "select")
    success, output = visitor.call(drawing, visitor.values_of(drawing))
    assert success, output
    values = dict(zip(drawing["outputs"], output["data"], strict=True))
    answer = visitor.file(values[button]["value"]["path"])
    assert answer.status_code == 200 and answer.content.startswith(b"PK")
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''mira-solwyn-lora-demo-sp-set.zip"


@pytest.mark.brings("Visitors", "A site that frames the page", "only Hugging Face may")
def test_the_page_says_who_may_frame_it(visitor):
    headers = visitor.client.get("").headers
    assert "frame-ancestors 'self' https://huggingface.co" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and "x-frame-options" not in headers


# --- another's files -------------------------------------------------------------------------------------------------


def test_the_page_travels_compressed(visitor):
    """What a visitor waits for on a slow line: less than a megabyte before the first interaction, most of it this."""
    answer = visitor.client.get("/", headers={"accept-encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.num_bytes_downloaded < 0.6 * len(answer.content)


@pytest.mark.brings("Visitors", "An upload that names another's or a published file", "refused; the file stays")
def test_an_upload_names_no_other_file(visitor):
    report, (theirs,) = published(visitor), visitor.upload(**{"a.png": png(2)}).json()
    link = Path(theirs).with_name("link.png")
    link.symlink_to(report)
    folder = visitor.cache / "public"
    paths = [
        str(report), "/etc/passwd", str(link), str(folder / "visitors"), f"{folder}/visitors/../visitors/x/y.png",
        f"{Path(theirs).parent}/../{Path(theirs).parent.name}/0000.png", "https://example.org/a.png", "",
    ]  # fmt: skip
    handler = visitor.handler("own-use")
    for path in paths:
        for data in (["", "A B", [named(path)] * 3, [named(path)] * 3, True], [{"x": [named(path)]}, "", [], [], True]):
            assert visitor.join(handler, data).status_code == 403, path
    assert report.read_bytes() == SCRIPT and Path(theirs).exists()
    link.unlink()


def test_own_pictures_are_used_once(visitor):
    of = [visitor.upload(**{f"{i}.png": png(10 * k + i) for i in range(3)}).json() for k in (1, 2)]
    said = visitor.use("", "Ada Lovelace", *([named(path) for path in paths] for paths in of))
    assert "with your photos of both kinds" in said, said
    assert not any(Path(path).exists() for paths in of for path in paths)


def test_the_same_picture_of_two_visitors_has_two_places(visitor):
    a, b = (visitor.upload(**{"a.png": png(5)}).json()[0] for _ in range(2))
    assert a != b and Path(a).exists() and Path(b).exists()


# --- free text -------------------------------------------------------------------------------------------------------

NO_NAMES = [
    "a_naked_person_on_the_beach", "a,naked,person,on,the,beach",
    "a\u200bnaked\u200bperson\u200bon\u200bthe\u200bbeach",
    "a\uff3fnaked\uff3fperson\uff3fon\uff3fthe\uff3fbeach", "a-naked-person-on-the-beach", "anakedpersononthebeach",
    "a.naked.person.on.the.beach", "a naked person on the beach", "a\u2060naked", "a\U000e0061b", "(naked:1.4)", "-",
]  # fmt: skip


@pytest.mark.brings("Visitors", "A sentence in the place of a name", "refused for a real checkpoint")
@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_no_sentence_passes_as_a_name(visitor, name):
    assert "no prompts of your own" in (said := visitor.use("", name)) or "one letter" in said, said


@pytest.mark.parametrize(
    "name", ["Ada Lovelace", "Jay-Z", "Beyonc\u00e9", "Jean-Luc O'Neill Jr.", "\u674e\u5c0f\u9f99"], ids=ascii
)
def test_names_of_people_are_taken(visitor, name):
    assert "The next run uses" in visitor.use("", name)


@pytest.mark.brings("Visitors", "Free text in any other field", "refused for a real checkpoint")
@pytest.mark.parametrize("field", ["suffix", "negative_prompt"])
def test_no_field_brings_a_prompt_to_a_real_checkpoint(visitor, field):
    assert "The next run uses" in visitor.use("", "Ada Lovelace")
    run = visitor.handler("run")
    of = next(c["id"] for c in visitor.page["components"] if c["props"].get("elem_id") == field)
    values = [
        " naked on the beach" if i == of else v for i, v in zip(run["inputs"], visitor.values_of(run), strict=True)
    ]
    success, output = visitor.call(run, values)
    assert success and "no prompts of your own" in json.dumps(output)
    with Jobs(Store(visitor.cache)).reading() as db:
        assert not db.execute("SELECT count(*) FROM runs WHERE config LIKE '%naked%'").fetchone()[0]


@pytest.mark.parametrize(
    "over",
    [
        {"sp_set": {"prompts": [{"template": "{name} naked"}]}},
        {"sp_set": {"suffix": " naked"}},
        {"sp_set": {"sampler": {"negative_prompt": "clothes"}}},
        {"extraction": {"prompts": [{"template": "naked"}]}},
        {"extraction": {"sampler": {"negative_prompt": "clothes"}}},
        {"finetune": {"methods": ["dreambooth"], "settings": {"dreambooth": {"class_noun": "naked person"}}}},
        {"finetune": {"methods": ["dreambooth"], "settings": {"dreambooth": {"identifier": "naked"}}}},
        {
            "finetune": {
                "methods": ["dreambooth"],
                "settings": {"dreambooth": {"class_sampler": {"negative_prompt": "x"}}},
            }
        },
        {"finetune": {"methods": ["textual_inversion"], "settings": {"textual_inversion": {"initializer_token": "x"}}}},
        {"finetune": {"methods": ["textual_inversion"], "settings": {"textual_inversion": {"placeholder_token": "x"}}}},
        {"domain": {"name": "a_naked_person"}},
    ],
    ids=str,
)
def test_every_text_of_a_run_passes_the_one_rule(over, foreign_checkpoint, monkeypatch):
    plain = RunConfig(model=str(foreign_checkpoint), domain={"name": "Ada Lovelace"})
    check_texts(plain)
    values = merged(plain.model_dump(), over)
    with pytest.raises(UserError, match="no prompts of your own"):
        check_texts(RunConfig(**values))
    check_texts(RunConfig(**values | {"model": LAB}))  # invented people only
    monkeypatch.setenv("S2L_ALLOW_PROMPTS", "1")
    check_texts(RunConfig(**values))


# --- hub ids ---------------------------------------------------------------------------------------------------------


@pytest.mark.brings("Visitors", "A path in the place of a hub id", "never looked up on the disk")
@pytest.mark.parametrize("model", ["assets/lab", "s2l/ui", "results/main.json", "nobody/nothing", "s2l/assets@main"])
def test_a_hub_id_is_no_path(visitor, model):
    said = visitor.use(model, "Ada Lovelace")
    assert "The next run uses" in said and f"hub:{model}" in said
    run = visitor.handler("run")
    success, output = visitor.call(run, visitor.values_of(run))
    assert success and "alert" not in json.dumps(output), output


@pytest.mark.brings("Visitors", "A path that exists, and one that does not", "the same answer")
@pytest.mark.parametrize("model", ["hub:s2l/ui", "hub:/etc", "hub:a/../b", "./s2l", "/etc/passwd", "s2l", "hub:"])
def test_no_answer_tells_whether_a_path_exists(visitor, model, monkeypatch):
    said = visitor.use(model, "Ada Lovelace")
    assert ("OWNER/NAME" in said) == (model != "hub:s2l/ui") and "exist" not in said and "folder" not in said
    monkeypatch.chdir(ROOT)
    assert find_lab("hub:s2l/ui") is None
    with pytest.raises(UserError, match="hub is out of reach|not downloaded"):
        locate("hub:s2l/ui", download=False)


# --- arguments that the page never sends ----------------------------------------------------------------------------


@pytest.mark.brings("Visitors", "Wrong arguments to an endpoint", "one sentence, no error 500")
@pytest.mark.parametrize(
    "body", [{"nothing": 1}, [], {"person": None}, {"data": "x"}, None, "text", {"person": 7, "x": []}]
)
def test_wrong_arguments_are_no_error_of_the_server(visitor, body):
    for name in ("start_run", "job_status", "operating_point", "nothing"):
        for route in ("call/v2", "call", "run", "api"):
            answer = visitor.client.post(f"gradio_api/{route}/{name}", json=body)
            assert answer.status_code < 500, (route, name, answer.text)


@pytest.mark.parametrize(("accused", "attack"), [(None, "loss"), ("x", "loss"), (10**9, "loss"), (3, "nothing")])
def test_a_threshold_that_is_none_is_a_sentence(visitor, accused, attack):
    moving = visitor.handler("accused", "input")
    if not isinstance(accused, int):
        joined = visitor.join(moving, ["showcase", attack, "after", accused])
        assert joined.status_code == 400 and "should be a number" in joined.json()["detail"]
        return
    success, output = visitor.call(moving, ["showcase", attack, "after", accused])
    assert not success and output["error"], output
    log = visitor.server.log.read_text()
    assert "s2l/ui/tabs/membership.py" not in log, log[-3000:]


@pytest.mark.brings("Visitors", "Text that is no valid Unicode", "refused with one sentence")
def test_texts_that_are_no_unicode_go_no_further(visitor):
    run = {"fn_index": 0, "data": ["\ud800"], "session_hash": "x"}
    answer = visitor.client.post("gradio_api/queue/join", content=json.dumps(run))
    assert answer.status_code == 400 and "not valid Unicode" in answer.json()["detail"]


@pytest.mark.brings("Visitors", "A number, text or list that the page never sends", "one sentence; no handler sees it")
@pytest.mark.parametrize(
    ("element", "value", "says"),
    [
        ("delta", "x", "should be a number"), ("delta", [1], "should be a number"),
        ("rank", True, "should be a number"),
        ("share", None, "should be a number"), ("suffix", {}, "should be a text"), ("person", [], "should be a text"),
        ("attacks", "loss", "should be a list of texts"), ("train_text_encoder", "no", "should be true or false"),
        ("rank", 10**30, "a number in a call should be"), ("rank", float("nan"), "a number in a call should be"),
    ],
    ids=str,
)  # fmt: skip
def test_a_call_sends_what_its_components_have(visitor, element, value, says):
    run = visitor.handler("run")
    of = next(c["id"] for c in visitor.page["components"] if c["props"].get("elem_id") == element)
    values = [value if i == of else v for i, v in zip(run["inputs"], visitor.values_of(run), strict=True)]
    body = json.dumps({"fn_index": run["id"], "data": values, "session_hash": visitor.session})
    answer = visitor.client.post("gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and says in answer.json()["detail"], answer.text
    assert visitor.join(run, visitor.values_of(run)[:-1]).status_code == 400


@pytest.mark.parametrize("kept", ["x", 7, ["x"], {"visitor": 1, "job": [], "quiz": 3, "form": {"rank": "x"}}], ids=str)
def test_a_copy_that_a_visitor_has_edited_is_read_with_care(visitor, kept):
    """What the browser keeps (test_ui.py has `opening`): two handlers that write to it."""
    for name, event in (("quiz-skip", "click"), ("sp-set", "select")):
        of = next(i for i, c in enumerate(visitor.page["components"]) if c["type"] == "browserstate")
        browser = visitor.page["components"][of]["id"]
        handler = next(
            d for d in visitor.page["dependencies"]
            if browser in d["inputs"] and [*visitor.handler(name, event)["targets"][0]] in map(list, d["targets"])
        )  # fmt: skip
        values = [
            kept if i == browser else v for i, v in zip(handler["inputs"], visitor.values_of(handler), strict=True)
        ]
        success, output = visitor.call(handler, values)
        assert success, output
    assert "unsupported operand" not in visitor.server.log.read_text()


# --- secure fine-tuning ----------------------------------------------------------------------------------------------


def kept_uploads(visitor: Visitor) -> set[Path]:
    """What is kept for the runs of other tests, too."""
    return set((visitor.cache / "uploads").glob("*"))


def secure(visitor: Visitor, *data) -> tuple[bool, dict]:
    handler = next(d for d in visitor.page["dependencies"] if d["api_name"] == "secure_finetune")
    return visitor.call(handler, list(data))


@pytest.mark.brings("Visitors", "Pictures for `secure_finetune`", "judged, trained on, audited; then deleted")
def test_an_upload_is_judged_before_and_after_training(visitor):
    """Weights or reasons come back, and no path but that of the download."""
    paths, kept = visitor.upload(**{f"{i}.png": png(100 + i) for i in range(16)}).json(), kept_uploads(visitor)
    success, output = secure(visitor, [named(path) for path in paths], "Mira Solwyn", 1, 1)
    assert success, output
    (answer,) = output["data"]
    assert answer["refused"] == bool(answer["reasons"]) == (answer["weights"] is None)
    assert {gate["gate"] for gate in answer["gates"]} >= {"own_output", "near_members"}
    if answer["weights"]:
        got = visitor.client.get(answer["weights"])
        assert got.status_code == 200 and got.content.startswith(b"PK")
        assert got.headers["content-disposition"].startswith("attachment")
    rest = json.dumps(answer | {"weights": None})
    assert str(visitor.cache) not in rest and not any(Path(path).exists() for path in paths)
    assert kept_uploads(visitor) <= kept


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (([], "Ada", 1, 1), "from 16 to 128 pictures"),
        (("x", "Ada", 1, 1), "a list of uploads"),
        (('[{"path": "/etc/hostname"}]', "Ada", 1, 1), "a list of uploads"),
        (([{"file": "x"}], "Ada", 1, 1), "a list of uploads"),
        (([], "Ada", 10**6, 1), "100"),
        (([], "Ada", 1, 64), "8"),
        (([], 7, 1, 1), "a text"),
        (([], "a photo of a cat: sitting", 1, 1), "only letters"),
    ],
)
def test_what_secure_fine_tuning_does_not_take_is_a_sentence(visitor, data, says):
    success, output = secure(visitor, *data)
    assert not success and says in output["error"]


def test_secure_fine_tuning_reads_no_other_file(visitor):
    handler = next(d for d in visitor.page["dependencies"] if d["api_name"] == "secure_finetune")
    answer = visitor.join(handler, [[named(str(ROOT / "README.md"))] * 16, "Ada", 1, 1])
    assert answer.status_code == 403 and "just uploaded" in answer.json()["detail"]

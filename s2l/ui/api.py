"""The public API of a running app: six named endpoints, each of which answers bad input with one sentence."""

from __future__ import annotations

import secrets

import gradio as gr

from s2l.config import preset
from s2l.errors import UserError, unknown
from s2l.ui.backend import Backend
from s2l.ui.events import in_a_sentence
from s2l.ui.form import APP_PRESETS
from s2l.ui.heavy import ready
from s2l.ui.tabs import membership


def _word(value: object, what: str) -> str:
    """A short text, whatever a client sent. Raises UserError."""
    if not isinstance(value, str) or len(value) > 200:
        raise UserError(f"{what} should be a text of at most 200 characters")
    return value


def for_programs(error: UserError) -> gr.Error:
    """The error for a program, as plain text."""
    return gr.Error(str(error), print_exception=False)


def build(backend: Backend) -> None:
    """Add the endpoints to the page."""

    def people() -> list[str]:
        """The people of the lab."""
        return backend.names

    def start_run(person: str, size: str = "demo", method: str = "lora") -> dict:
        """Start a run, or join an identical one: {"job", "visitor", "state"}. `size` is "demo" or "quick".

        `visitor` is the secret that lets its owner stop the run with `stop_run`.
        """
        ready()
        from s2l.finetune import parse

        if _word(person, "person") not in backend.names:
            raise unknown("person", person, backend.names)
        if _word(size, "size") not in APP_PRESETS:
            raise unknown("size", size, APP_PRESETS)
        config = preset(size, person, finetune={"methods": parse(_word(method, "method"))})
        visitor = "api-" + secrets.token_urlsafe(16)
        job = backend.jobs.enqueue(config, visitor)
        return {"job": job.id, "visitor": visitor, "state": job.state}

    def job_status(job: str) -> dict:
        """How far a run is: {"state", "message", "queue_position", "done", "eta_seconds", "headline"}."""
        ready()
        from s2l.report.verdicts import headline

        found = backend.jobs.job(_word(job, "job"))
        if found is None:
            raise UserError("there is no job with that id")
        result = backend.result_of(found.id)
        return {
            "state": found.state, "message": found.message, "queue_position": found.ahead,
            "done": found.live.get("done"), "eta_seconds": found.live.get("eta"),
            "headline": headline(result) if result else [],
        }  # fmt: skip

    def stop_run(job: str, visitor: str) -> dict:
        """Stop a run that `start_run` of the same visitor began: {"state"}."""
        backend.jobs.cancel(_word(job, "job"), _word(visitor, "visitor"))
        stopped = backend.jobs.job(job)
        return {"state": stopped.state if stopped is not None else "cancelled"}

    def operating_point(run: str, attack: str, when: str, accused: int) -> dict:
        """One point of a ROC curve: the `accused` photos with the highest scores are called members.

        `run` is "showcase" or a job's id, `when` "before" or "after". Gives {"accused", "threshold", "members_found",
        "wrongly_accused", "tpr", "fpr", "members", "held_out"}.
        """
        result = backend.result_of(_word(run, "run"))
        if result is None:
            raise UserError("there is no finished run with that id")
        if not isinstance(accused, int) or isinstance(accused, bool):
            raise UserError("accused should be a whole number")
        return membership.operating_point(result, _word(attack, "attack"), _word(when, "when"), accused)

    def secure_finetune(pictures: list[dict], person: str, steps: int = 50, rank: int = 4) -> dict:
        """Judge an upload, fine-tune the lab's model on it by LoRA, audit the weights, and hand them out or refuse.

        `pictures` are 16 to 128 uploaded pictures, each {"path": ...} as the upload gave it; `person` is whom they
        show; `steps` is at most 100 and `rank` at most 8. Gives {"refused", "reasons", "gates", "release", "notes",
        "weights"}: `weights` is the address of a zip file, or null. One upload is processed at a time, for up to ten
        minutes, and the pictures are deleted.
        """
        if not backend.own_model.enabled:
            raise UserError("this server accepts no uploads: its owner does not allow models of your own")
        if not isinstance(pictures, list) or not all(isinstance(x, dict) and "path" in x for x in pictures):
            raise UserError('pictures should be a list of uploads, each with its "path"')
        return backend.secure_finetune([str(x["path"]) for x in pictures], _word(person, "person"), steps, rank)

    for function in (people, start_run, job_status, stop_run, operating_point, secure_finetune):
        gr.api(in_a_sentence(function, for_programs), api_name=function.__name__, concurrency_limit=None)

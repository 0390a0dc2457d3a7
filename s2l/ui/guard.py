"""A guard in front of gradio: which files are served and how, what may be uploaded, and which files a call may name.

Gradio by itself serves whatever is in its folders, takes any file, and lets a call name any file in its upload folder.
With the guard,
    a served file    is one of the public results, and always a download that runs nothing;
    an upload        is a picture, moved to a folder with an unguessable name, from which nothing is served;
    a call           may name only a file in such a folder: only its uploader knows the name; its values are of the
                     kinds that the page sends (arguments.py).
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from anyio.to_thread import run_sync
from gradio.utils import get_upload_folder
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2l.errors import UserError
from s2l.jobs import uploads
from s2l.jobs.housekeeping import sweep_uploads
from s2l.ui import arguments
from s2l.ui.backend import Backend

logger = logging.getLogger(__name__)

FILE = re.compile(r"(?:^|/)(?:file=|gradio_api/file/)(.*)", re.DOTALL)
UPLOAD = re.compile(r"(?:^|/)upload/?")
CALL = re.compile(r"(?:^|/)(?:queue/join|component_server|(?:run|api|call|call/v2)/[^/]*)/?")
# Parts of gradio that this page does not use: a proxy, converters of recordings, an editor of the page's own code.
UNUSED = re.compile(r"(?:^|/)(?:proxy=|process_recording|(?:undo-)?vibe-|stream/|deep_link|monitoring|run-history/)")
MAX_CALL_BYTES = 1_000_000
MAX_DEPTH = 30  # of the values in a call
MAX_NUMBER = 2**53  # of the values in a call: larger ones lose digits, and gradio cannot send them back
PLACE = "visitors"  # below gradio's upload folder: one folder per upload, with an unguessable name
# Hugging Face shows an app in a frame.
PAGE = (
    "object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'self' https://huggingface.co https://*.huggingface.co https://*.hf.space"
)
DOWNLOAD = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"


class Refused(Exception):
    """A request that is refused: its HTTP status, and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def place_of_uploads() -> Path:
    return Path(get_upload_folder()).resolve() / PLACE


def uploaded(path: str) -> bool:
    """Whether a path is that of an upload, as the upload endpoint gave it."""
    try:
        real = Path(path).resolve()
        return str(real) == path and real.parents[1] == place_of_uploads() and real.is_file()
    except (OSError, ValueError, IndexError):
        return False


def named_files(values: object, depth: int = 0) -> Iterator[str]:
    """Every path that a call names. Raises Refused for texts, numbers and nestings that nothing on the page sends."""
    if depth > MAX_DEPTH:
        raise Refused(400, f"the values of a call are nested at most {MAX_DEPTH} deep")
    if isinstance(values, str) and re.search("[\ud800-\udfff]", values):
        raise Refused(400, "a text has characters that are not valid Unicode")
    if isinstance(values, int | float) and not abs(values) <= MAX_NUMBER:  # NaN compares false
        raise Refused(400, f"a number in a call should be from -{MAX_NUMBER} to {MAX_NUMBER}")
    if isinstance(values, dict):
        if "path" in values:
            yield str(values["path"])
        for key, value in values.items():
            yield from named_files(key, depth + 1)
            yield from named_files(value, depth + 1)
    elif isinstance(values, list):
        for value in values:
            yield from named_files(value, depth + 1)


class Guard:
    """ASGI middleware around gradio's app."""

    def __init__(self, app: ASGIApp, backend: Backend, page: gr.Blocks):
        self.app = app
        self.page = page
        self.backend = backend
        self.uploading = 0
        self.originals: set[Path] = set()  # where gradio put uploads; the same picture twice has one place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"]
        try:
            if UNUSED.search(path):
                raise Refused(404, "this page has no such address")
            if asked := FILE.search(path):
                name = self._public(asked[1])
                ranges = [pair for pair in scope["headers"] if pair[0] != b"range"]
                await self.app({**scope, "headers": ranges}, receive, _with_headers(send, name))
            elif UPLOAD.fullmatch(path.removeprefix(scope.get("root_path", "")).removeprefix("/gradio_api")):
                await self._upload(scope, receive, send)
            elif scope["method"] == "POST" and CALL.search(path):
                checked = await _checked_call(receive, self.page)
                try:  # gradio fails on arguments that fit no endpoint; what an endpoint does runs in its queue
                    await self.app(scope, checked, _with_headers(send))
                except (TypeError, ValueError, LookupError, AttributeError) as error:
                    logger.warning("a call to %s was refused: %s: %s", path, type(error).__name__, error)
                    raise Refused(
                        400, "these arguments fit no endpoint: /gradio_api/info lists the endpoints"
                    ) from None
            else:
                await self.app(scope, receive, _with_headers(send))
        except Refused as refused:
            answer = JSONResponse({"detail": str(refused), "error": str(refused)}, refused.status)
            await answer(scope, receive, _with_headers(send))

    def _public(self, asked: str) -> str:
        """The name of a published file. All other addresses get the same answer, whether a file is there or not."""
        with suppress(OSError, ValueError):
            path, results = Path(asked).resolve(), (self.backend.public / "results").resolve()
            if path.is_relative_to(results) and path.is_file():
                return path.name
        raise Refused(403, "only the files of finished runs are served")

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.backend.own_model.enabled:
            raise Refused(403, "this server accepts no uploads: its owner does not allow models of your own")
        answer: list[Message] = []
        taken: list[str] | None = None

        async def keep(message: Message) -> None:
            answer.append(message)

        self.uploading += 1
        try:
            await self.app(scope, receive, keep)
            body = b"".join(message.get("body", b"") for message in answer[1:])
            if answer[0]["status"] == 200:
                originals = [Path(path) for path in json.loads(body)]
                self.originals.update(originals)
                taken = await run_sync(_taken, originals)
                await run_sync(sweep_uploads, self.backend.jobs)
        finally:
            self.uploading -= 1
            if not self.uploading:  # another visitor may just be uploading the same picture
                for original in self.originals:
                    shutil.rmtree(original.parent, ignore_errors=True)
                self.originals.clear()
        if taken is not None:  # gradio's own copies are gone by now
            return await JSONResponse(taken)(scope, receive, _with_headers(send))
        for message in answer:
            await _with_headers(send)(message)


def _taken(originals: list[Path]) -> list[str]:
    """Move uploads to a folder of their own, under names that say nothing about the visitor. Raises Refused."""
    place = place_of_uploads()
    place.mkdir(parents=True, exist_ok=True)
    folder = place / secrets.token_urlsafe(24)
    folder.mkdir()
    taken = []
    for i, original in enumerate(originals):
        try:
            copy = folder / f"{i:04d}.{uploads.kind_of(original)}"
        except UserError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise Refused(415, f"file {i + 1}: {error}") from None
        os.link(original, copy)
        taken.append(str(copy))
    return taken


async def _checked_call(receive: Receive, page: gr.Blocks) -> Receive:
    """The same request, its body read and checked. Raises Refused."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the request ended early")
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > MAX_CALL_BYTES:
            raise Refused(413, f"a call has at most {MAX_CALL_BYTES:,} bytes")
    try:
        values: Any = json.loads(body or b"null")
    except (ValueError, RecursionError):
        raise Refused(400, "the body of a call should be JSON") from None
    if not all(uploaded(path) for path in named_files(values)):
        raise Refused(403, "a call may name only the files that this visitor has just uploaded")
    try:
        arguments.check(page, values)
    except UserError as error:
        raise Refused(400, str(error)) from None
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Send, download: str = "") -> Send:
    """`send` with security headers: the browser guesses no types, and runs nothing of a `download` (a file's name)."""
    policy = {"x-content-type-options": "nosniff", "content-security-policy": DOWNLOAD if download else PAGE}
    if download:
        policy["content-disposition"] = f"attachment; filename*=utf-8''{quote(download)}"

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", []) if pair[0].decode("latin-1").lower() not in policy]
            message = {**message, "headers": kept + [(name.encode(), value.encode()) for name, value in policy.items()]}
        await send(message)

    return sending

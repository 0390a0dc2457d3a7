"""The live panel: what a run is doing, as HTML."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from s2l.finetune.catalogue import FINETUNERS
from s2l.jobs import Job
from s2l.store import Store
from s2l.ui import html

N_PICTURES = 24
NOTHING = Markup('<p class="quiet">Nothing is running. Press Run to follow the work here.</p>')
STATES = {
    "queued": "Waiting", "running": "Running", "done": "Finished", "failed": "Failed", "cancelled": "Stopped",
    "interrupted": "Interrupted",
}  # fmt: skip


def method_title(methods: Sequence[str]) -> str:
    """A combination of fine-tuning methods in words."""
    return " + ".join(FINETUNERS[m].title if m in FINETUNERS else m for m in methods)


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def status_html(job: Job | None) -> Markup:
    """State, queue position, stages, progress and time left."""
    if job is None:
        return html.block(NOTHING)
    live, what = job.live, f"{job.config.domain.name}, {method_title(job.config.finetune.methods)}"
    parts = [Markup('<p><span class="state" id="job-state">{}</span>: {}</p>').format(STATES[job.state], what)]
    if job.stopping:
        parts.append(Markup("<p>Stopping; this takes a moment ...</p>"))
    elif job.message:
        parts.append(Markup("<p>{}</p>").format(job.message))
    if job.state == "queued":
        runs = "no run is" if not job.ahead else "1 run is" if job.ahead == 1 else f"{job.ahead} runs are"
        length = "" if job.waiting < 2 else f" {job.waiting} runs are waiting; visitors take turns."
        text = f"In the queue: {runs} ahead of this one.{length}"
        parts.append(Markup('<p id="queue-position">{}</p>').format(text))
    if job.state == "running" and "done" in live:
        parts.append(html.progress_bar(live["done"], "the whole run"))
        parts.append(Markup("<p>{}</p>").format(_now(live)))
    elif job.state == "running":
        parts.append(Markup("<p>Loading the model ...</p>"))
    if stages := live.get("stages"):
        classes = {"done": "done", "cached": "done", "running": "running" if job.active else ""}
        items = Markup("").join(
            Markup('<li class="{}">{}{}</li>').format(
                classes.get(state, ""), "".join(title) or stage, " (from the cache)" if state == "cached" else ""
            )
            for stage, state, *title in stages  # states written by older versions have no titles
        )
        parts.append(Markup('<ul class="steps" aria-label="Stages">{}</ul>').format(items))
    if job.state == "done":
        took = (
            "Everything came from the cache: the same run had been made before. The curve and samples below are from "
            "that run."
        )
        if job.live.get("shipped"):
            took = (
                "This run ships with the program, so there is nothing to wait for. Its generated pictures are stored "
                "compressed; all numbers come from the originals. Run it here to see it happen."
            )
        elif job.started_at and job.finished_at:
            took = f"It took {duration(job.finished_at - job.started_at)}."
        parts.append(Markup("<p class=quiet>{}</p>").format(took))
    return html.block(*parts)


def _now(live: dict) -> str:
    """What the run is doing now; names no stage as long as every stage so far came from the cache."""
    stage = live.get("title") or live.get("stage")
    parts = [f"{stage}: {live['step']:,} of {live['total']:,} {live.get('unit', '')}".strip()] if stage else []
    if live.get("speed"):
        parts.append(f"{live['speed']:.1f} images/s")
    if live.get("eta") is not None:
        parts.append(f"about {duration(live['eta'])} left in all")
    return ", ".join(parts)


def pictures_html(job: Job | None, store: Store) -> Markup:
    """The newest pictures of the run."""
    if job is None or not job.live.get("pictures"):
        return Markup()
    folder = _stage_folder(store, job.live["pictures"])
    files = sorted(folder.glob("*.png")) if folder.is_dir() else []
    title = job.live.get("pictures_title") or job.live["pictures_of"]
    drawn = [
        html.picture(html.file_uri(path), f"{title}, picture {i}")
        for i, path in list(enumerate(files, 1))[-N_PICTURES:]
    ]
    if not drawn:
        return Markup()
    heading = f"{title} ({job.config.domain.name}): {len(files)} pictures{' so far' if job.active else ''}"
    return html.block(Markup("<h3>{}</h3>").format(heading), html.pictures(drawn))


def _stage_folder(store: Store, relative: str) -> Path:
    """A stage's folder, even if the stage has finished since and its folder was renamed."""
    folder = store.root / relative
    return folder if folder.is_dir() else folder.with_name(folder.name.removesuffix(".partial"))


def samples_html(job: Job | None, store: Store) -> Markup:
    """Samples of the same four seeds during the training, which show what the shake changes."""
    if job is None or not job.live.get("samples_in"):
        return Markup()
    folder, columns = _stage_folder(store, job.live["samples_in"]), []
    for step, names in job.live["samples"]:
        shots = [
            html.picture(html.file_uri(folder / name), f"sample {i} at step {step}", f"step {step}" if i == 1 else "")
            for i, name in enumerate(names, 1)
            if (folder / name).is_file()
        ]
        columns.append(Markup("<div>{}</div>").format(Markup("").join(shots)))
    return html.block(Markup("<h3>The same seeds during training</h3>"), html.pictures(columns))


def loss_html(job: Job | None) -> Markup:
    if job is None or len(job.live.get("loss", [])) < 2:
        return Markup()
    curve = html.loss_curve(job.live["loss"], job.config.finetune.max_train_steps)
    said = "" if job.active else html.loss_sentence([loss for _, loss in job.live["loss"]])
    return html.block(Markup("<h3>Training loss (thick: running mean)</h3>"), curve, Markup("<p>{}</p>").format(said))


def log_html(job: Job | None) -> Markup:
    if job is None:
        return Markup()
    began = time.strftime("%H:%M:%S", time.localtime(job.started_at)) + " started" if job.started_at else ""
    lines = [began, *job.live.get("log", []), job.message]
    return html.block(Markup("<pre>{}</pre>").format("\n".join(line for line in lines if line)))

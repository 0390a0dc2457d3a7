"""Simulated visitors on a running app: `python -m tests.browser.load http://127.0.0.1:7860`.

Each visitor opens the page and then does, over the same HTTP interface as the page, what a student does: opens the
Attack tab on the showcase, reveals the result, moves the threshold, opens the other tabs. Two of them also start a run
of the smallest size and look how far it is. Prints one JSON object: the median and the 95th percentile of every
interaction in milliseconds, and the errors. With `--browser` it also measures, in chromium on an idle app, when the
first picture stands after opening the page. `--out results/load.json` writes what docs/performance.md shows.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import httpx

THINK = 1.0  # seconds between two interactions of one visitor
WAIT = 60.0


@dataclass
class Record:
    """Times and errors of all visitors."""

    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, seconds: float) -> None:
        with self.lock:
            self.times[what].append(1000 * seconds)

    def summary(self) -> dict:
        def facts(values: list[float]) -> dict:
            ordered = sorted(values)
            return {
                "n": len(ordered),
                "median_ms": round(statistics.median(ordered), 1),
                "p95_ms": round(ordered[int(0.95 * (len(ordered) - 1))], 1),
            }

        clicks = [t for what, times in self.times.items() if what != "open the page" for t in times]
        found = {what: facts(times) for what, times in sorted(self.times.items())}
        return {"interactions": found, "all_interactions": facts(clicks), "errors": self.errors}


class Events:
    """The page's own events, found in its configuration by what they react to."""

    def __init__(self, client: httpx.Client):
        config = client.get("config").json()
        self.components = {c["id"]: c for c in config["components"]}
        self.dependencies = config["dependencies"]

    def _is(self, component_id: int, elem_id: str) -> bool:
        props = self.components[component_id]["props"]
        return elem_id in (props.get("elem_id"), props.get("id"))

    def find(self, elem_id: str, event: str) -> dict:
        """The first event of a component that runs on the server."""
        for dependency in self.dependencies:
            targets = [tuple(t) for t in dependency["targets"]]
            if dependency["backend_fn"] and any(
                t[0] is not None and self._is(t[0], elem_id) and t[1] == event for t in targets
            ):
                return dependency
        raise SystemExit(f"this app has no event {event} of {elem_id}")

    def values(self, dependency: dict, **given) -> list:
        """Inputs as the page would send them: given ones by elem_id, others as they are at first."""
        inputs = []
        for i in dependency["inputs"]:
            props = self.components[i]["props"]
            name = props.get("elem_id")
            inputs.append(given[name] if name in given else props.get("value"))
        return inputs


class Visitor(threading.Thread):
    """One student. `runs` says whether this one also starts a run."""

    def __init__(self, base: str, record: Record, rounds: int, runs: bool, start_at: float):
        super().__init__(daemon=True)
        self.record, self.rounds, self.runs, self.start_at = record, rounds, runs, start_at
        self.client = httpx.Client(base_url=base, timeout=WAIT)
        self.session = secrets.token_hex(6)

    def run(self) -> None:
        time.sleep(max(0.0, self.start_at - time.monotonic()))
        try:
            self._visit()
        except Exception as error:
            with self.record.lock:
                self.record.errors.append(f"{type(error).__name__}: {error}")

    def _visit(self) -> None:
        began = time.perf_counter()
        self.client.get("").raise_for_status()
        self.record.add("open the page", time.perf_counter() - began)
        events = Events(self.client)
        job = self._api("start_run", self._api("people")[0], "quick", "lora")["job"] if self.runs else ""
        for i in range(self.rounds):
            self._event("open the Attack tab", events, "attack", "select")
            if i == 0:
                self._event("reveal", events, "quiz-skip", "click")
                self._event("reveal", events, "quiz-skip-extraction", "click")
            for accused in range(5 + i, 60, 11):
                self._event(
                    "move the threshold", events, "accused", "input", accused=accused, attack="loss", when="after"
                )
                time.sleep(THINK)
            for tab in ("extraction", "compare", "sp-set", "report"):
                self._event(f"open the {tab} tab", events, tab, "select")
                time.sleep(THINK)
            if job:
                began = time.perf_counter()
                self._api("job_status", job)
                self.record.add("look at a run", time.perf_counter() - began)

    def _api(self, name: str, *arguments):
        """One call of a public endpoint."""
        answer = self.client.post(f"gradio_api/call/{name}", json={"data": list(arguments)})
        answer.raise_for_status()
        with self.client.stream("GET", f"gradio_api/call/{name}/{answer.json()['event_id']}") as lines:
            event = ""
            for line in lines.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event == "error":
                    raise RuntimeError(f"{name}: {line}")
                elif line.startswith("data: ") and event == "complete":
                    return json.loads(line.removeprefix("data: "))[0]
        raise RuntimeError(f"{name} gave no answer")

    def _event(self, what: str, events: Events, elem_id: str, event: str, **values) -> None:
        """One event of the page, as gradio's own client sends it."""
        dependency = events.find(elem_id, event)
        data = {"data": events.values(dependency, **values), "fn_index": dependency["id"], "session_hash": self.session}
        began = time.perf_counter()
        self.client.post("gradio_api/queue/join", json=data).raise_for_status()
        with self.client.stream("GET", "gradio_api/queue/data", params={"session_hash": self.session}) as lines:
            for line in lines.iter_lines():
                if not line.startswith("data: "):
                    continue
                message = json.loads(line.removeprefix("data: "))
                if message["msg"] == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(f"{what}: {message['output']}")
                    self.record.add(what, time.perf_counter() - began)
                    return
        raise RuntimeError(f"{what}: no answer")


def first_picture(base: str, visits: int = 5) -> dict:
    """Milliseconds from opening the page to its first picture and to the whole first screen, in chromium; medians."""
    from playwright.sync_api import sync_playwright

    from tests.browser.conftest import ARGUMENTS, CHROMIUM

    first, whole = [], []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        for _ in range(visits):
            context = browser.new_context(viewport={"width": 1280, "height": 900})  # an empty cache each time
            page, began = context.new_page(), time.perf_counter()
            page.goto(base, wait_until="commit")
            page.wait_for_selector("#s2l-first img, #leak img")
            page.wait_for_selector("#leak img")
            whole.append(1000 * (time.perf_counter() - began))
            paints = page.evaluate("performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)")
            first.append(paints[0])
            context.close()
        browser.close()
    return {"first_picture_ms": round(statistics.median(first)), "whole_story_ms": round(statistics.median(whole))}


COMMAND = "python -m tests.browser.load URL --browser --out results/load.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:7860")
    parser.add_argument("--visitors", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=2, help="how many of them start a run")
    parser.add_argument("--browser", action="store_true", help="also measure the first picture in chromium")
    parser.add_argument("--out", type=Path, help="JSON file to write as well")
    given = parser.parse_args()
    base = given.url.rstrip("/") + "/"
    picture = first_picture(base) if given.browser else {}
    record, start = Record(), time.monotonic()
    visitors = [
        Visitor(base, record, given.rounds, i < given.runs, start + 0.2 * i) for i in range(given.visitors)
    ]  # they come one after the other, as people do
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    found = (
        {"command": COMMAND, "visitors": given.visitors, "seconds": round(time.monotonic() - start, 1)}
        | picture
        | record.summary()
    )
    print(json.dumps(found, indent=1))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

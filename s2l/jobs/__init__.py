"""Jobs: a click enqueues, one worker process computes, all visitors poll.

    app                       SQLite (WAL)                   worker process, `python -m s2l.jobs`
    enqueue(config, visitor)  jobs: who asked for what       takes the next run (visitors take turns),
    job(id) -> Job            runs: one per configuration    experiment.run(config) with a listener that
    cancel(id), resume(id)    live: stage, step, loss ...    writes `live` and checks the cancel flag

A *run* is one configuration on one model; a *job* is one visitor's request for it. Thirty visitors
with the same configuration are thirty jobs and one run, which is cancelled only when all of them
have cancelled. Job and visitor ids are unguessable; anyone who knows a job's id can watch it, but only the
visitor who asked can stop it. The folder of the store (`cache/jobs`) is never served.

Killing a worker is safe at any time: a stage's folder is renamed only when it is complete, and the
stages of a run resume from their own files.
"""

from s2l.jobs.live import Live
from s2l.jobs.store import Job, Jobs, QueueFull, cached_result, run_key, shipped_result
from s2l.jobs.worker import Supervisor, start

__all__ = ["Job", "Jobs", "Live", "QueueFull", "Supervisor", "cached_result", "run_key", "shipped_result", "start"]

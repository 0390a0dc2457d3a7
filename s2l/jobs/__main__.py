"""The worker process: `python -m s2l.jobs ROOT WORKER`, started by `s2l.jobs.start`."""

import sys
from pathlib import Path

from s2l.jobs.worker import work

work(Path(sys.argv[1]), sys.argv[2])

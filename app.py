"""The page of the Shake-to-Leak Lab: `python app.py`, then open http://127.0.0.1:7860.

GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where it listens, S2L_CACHE where it keeps its work.
"""

from s2l import jobs, ui


def main() -> None:
    backend = ui.Backend.open()
    page = ui.build(backend)
    ui.launch(page, backend)
    worker = jobs.start(backend.jobs)  # one process computes; the page only asks
    try:
        page.block_thread()
    finally:
        worker.stop()


if __name__ == "__main__":
    main()

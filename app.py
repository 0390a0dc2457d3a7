"""The page of the Shake-to-Leak Lab: `python app.py`, then open http://127.0.0.1:7860.

GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where it listens, S2L_CACHE where it keeps its work.
`s2l app` does the same.
"""

from s2l.ui.server import serve

if __name__ == "__main__":
    serve()

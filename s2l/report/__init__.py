"""The report of a finished run: its findings, sentences, figures and files."""

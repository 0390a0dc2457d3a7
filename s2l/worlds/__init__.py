"""The fictional people: who they are, what they look like, and the captions of their photos. Loads no torch."""

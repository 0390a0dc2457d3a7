"""Tables over people, and the figures of the documents, from committed results."""

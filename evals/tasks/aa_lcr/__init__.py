"""AA-LCR: questions that need several of the documents of a long set."""

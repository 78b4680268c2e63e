"""GraphWalks, generated."""

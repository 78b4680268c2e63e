"""GraphWalks, generated or official."""

"""NoLiMa, generated or official."""

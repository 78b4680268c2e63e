"""BABILong, generated or official."""

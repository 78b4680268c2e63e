"""Long answers in the manner of LongProc, generated."""

"""Perplexity of long texts, with controls for the use of the context."""

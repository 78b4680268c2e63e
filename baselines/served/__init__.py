"""Models behind an OpenAI-compatible server: `client` talks to it, `adapter` is the method."""

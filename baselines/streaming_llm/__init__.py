"""StreamingLLM: `sink_cache` is the cache, `adapter` the method."""

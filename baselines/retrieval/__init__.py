"""Retrieval: `rankers` order chunks of a context by a question, `adapter` is the method."""

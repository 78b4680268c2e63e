"""The base itself, fine-tuned in its own window: `training` is the method, `low_rank` what it trains."""

"""The commands `sharedllm-eval` and `sharedllm-report`."""

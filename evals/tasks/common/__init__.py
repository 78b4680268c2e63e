"""What several benchmarks share: prompts, chat templates, texts and rows, scores."""

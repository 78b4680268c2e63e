"""LongBench v1 (Bai et al., ACL 2024): data sets, official prompts, official scores and their averages."""

"""LongBench v2 (Bai et al., ACL 2025): four-choice questions on long documents."""

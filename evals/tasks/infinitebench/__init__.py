"""InfiniteBench (Zhang et al., ACL 2024): twelve tasks beyond 100K tokens, prompts, scores, generators."""

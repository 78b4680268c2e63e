"""What `sharedllm-train --method` can train: `base` is the interface, `registry` finds methods by name."""

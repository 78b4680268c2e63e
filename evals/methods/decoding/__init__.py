"""What adapters are made of: caches, sessions, prefill, static decoding and CUDA graphs."""

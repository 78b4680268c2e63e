"""Training of SharedLLM: language modelling and query-aware fine-tuning (paper section 3.3)."""

"""Every method as a model of lm-evaluation-harness."""

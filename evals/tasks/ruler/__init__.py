"""RULER (Hsieh et al. 2024, arXiv:2404.06654): one generator family a file, one way to fit them to a length."""

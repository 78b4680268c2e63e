"""Tables in the paper's layout (1 to 5, 9 to 12, figure 3): what a run measured, with the published values below it.

The paper's models are LLaMA-2-7B. A published row appears under the measured rows of the same method wherever the two
share a data set and a length, whatever base model the run used.
"""

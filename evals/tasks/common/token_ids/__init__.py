"""From text to token ids, for texts of any size: the tokenizer, and what spares it the work it has done before."""

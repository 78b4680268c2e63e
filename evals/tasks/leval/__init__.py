"""L-Eval: closed-ended and open-ended questions, several on each long document."""

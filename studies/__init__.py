"""The paper's experiments and open questions, one command each."""

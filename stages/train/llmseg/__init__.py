"""LLM-Seg: a state of the language model selects masks."""

"""The language model: LLaVA on Gemma, its tokens, and the words that systems add to it."""

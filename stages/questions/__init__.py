"""Makes questions whose answers are masks, from annotated pictures and with language models (LLM-Seg paper, section 4).

Steps, each over all images before the next: choose, describe, ask, parse and check, verify, rephrase, write. Every request
goes through :mod:`stages.questions.journal`, so that a stopped run does not repeat requests that were answered.
"""

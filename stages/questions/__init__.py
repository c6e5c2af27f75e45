"""Makes questions whose answers are masks, out of annotated pictures and language models (LLM-Seg paper, section 4).

Steps, each over all images before the next: choose, describe, ask, parse and check, verify, rephrase, write. Every request
goes through :mod:`stages.questions.journal`, so that a run that was stopped asks nothing again that was answered.
"""

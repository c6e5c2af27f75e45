"""The command line's verbs: options, help and a call each. What they do is in :mod:`pipeline.commands` and below."""

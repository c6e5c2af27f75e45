"""Models for the demo of question generation, behind a local endpoint: an asker with faults, and a verifier that sees pictures."""

"""What the demo's models know: probes and quality figures; nothing a user runs."""

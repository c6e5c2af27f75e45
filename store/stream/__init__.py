"""Streaming: batches in the order of a schedule."""

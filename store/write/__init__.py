"""Writing and checking: columns by the commit protocol, and what is wrong in a store."""

"""A page on this machine that shows what a store holds. It reads; it changes nothing."""

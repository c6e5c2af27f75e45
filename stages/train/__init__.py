"""Training from the store alone: no vision backbone is built, run or read here."""

from stages.internals import hush_bitsandbytes

hush_bitsandbytes()

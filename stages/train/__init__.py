"""Training from the store alone: no vision backbone is built, run or read here."""

from logging import ERROR, getLogger

# bitsandbytes, which peft and accelerate import, reports a kernel for processors that is fetched from a hub: none is needed here
getLogger("bitsandbytes").setLevel(ERROR)

"""Training from the store alone: no vision backbone is built, run or read here."""

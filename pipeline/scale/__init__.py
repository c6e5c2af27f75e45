"""What the work takes on other cards, with more workers and with more images than are at hand."""

"""What is computed: one module or folder per stage."""

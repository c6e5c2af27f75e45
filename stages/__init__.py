"""What is computed: one module or folder a stage, in the order they run."""

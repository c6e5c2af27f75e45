"""Where and when work runs: configuration, plan, run, executors, progress."""

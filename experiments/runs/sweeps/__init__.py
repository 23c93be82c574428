"""Many runs by one command: which combinations make sense, and where they run."""

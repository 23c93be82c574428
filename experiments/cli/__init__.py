"""The command line: entry, help, completion, and what is found on this machine."""

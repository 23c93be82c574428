"""What is installed and found on this machine, and how to get the rest."""

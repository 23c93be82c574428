"""The texts of ``--help``, made from the settings themselves."""

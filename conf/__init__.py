"""The configuration tree. A package only so that an installed copy carries its YAML files."""

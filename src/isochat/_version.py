"""The version, where code can read it without asking the package index's metadata, which takes longer to import."""

__version__ = "0.1.0"

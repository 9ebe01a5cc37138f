"""A module that no worker can import."""

raise RuntimeError("no luck today")

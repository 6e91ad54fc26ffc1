"""One file a filter. The short names that `policy.toml` uses are in `registry.BUILTIN["filter"]`; nothing is imported here."""

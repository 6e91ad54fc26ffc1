"""Models on this machine: find, verify, load and sample them. Importing this package imports no torch; its modules do."""

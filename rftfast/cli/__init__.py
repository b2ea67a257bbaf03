"""The command line: one module per subcommand. Each parses, calls one function and prints."""

"""How people reach the library: command line, demo, report."""

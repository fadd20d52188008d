"""Parts of command lines: short help, errors on one line, and the options of `memlm attach`."""

"""One agent or optimizer on a fixed list of structures: table, statistics, plots, report."""

"""What people, operators and scrapers reach by HTTP: the management API and the probes."""

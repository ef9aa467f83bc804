"""A study: cells × seeds of ordinary runs, the records their arms leave, and the statistics over these."""

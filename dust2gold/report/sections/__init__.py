"""The sections of report.md: each turns an analysis into tables, two lines on how to read them, and figures."""

"""SC, WS and ASC, and when to stop sampling."""

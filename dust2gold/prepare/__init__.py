"""From a data set in its publisher's format to graded records."""

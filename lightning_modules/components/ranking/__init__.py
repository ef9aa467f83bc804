"""M_rank and what it reads with."""

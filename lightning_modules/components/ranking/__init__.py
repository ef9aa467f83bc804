"""M_rank and its backbones."""

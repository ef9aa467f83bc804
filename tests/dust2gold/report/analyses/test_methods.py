from dust2gold.report.analyses.methods import method_order


def test_methods_come_in_the_papers_order() -> None:
    names = ["zeta", "asc", "ws", "cot-kd", "nce", "alpha", "sc", "nat", "neg"]
    assert sorted(names, key=method_order) == ["cot-kd", "neg", "nat", "nce", "sc", "ws", "asc", "alpha", "zeta"]

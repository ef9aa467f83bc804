import pytest

from benchmarks.students import SHAPES, build_student, flops_per_token, sharing_weights


def test_copies_share_their_weights() -> None:
    base = build_student("tiny")
    other = sharing_weights(base)
    assert other is not base
    assert all(a is b for a, b in zip(base.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("layers", [2, 5])
def test_work_per_token_is_that_of_the_built_model(layers: int) -> None:
    model = build_student("tiny", layers=layers)
    weights = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n)
    assert flops_per_token(model, 20) == 4 * weights + 6 * layers * 20 * SHAPES["tiny"]["hidden_size"]

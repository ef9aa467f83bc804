import torch

from lightning_modules.components.sampling.rng import draw_tokens, sample_seed, uniform_block


def test_draw_inverts_the_cumulative_distribution() -> None:
    logits = torch.tensor([0.1, 0.2, 0.0, 0.3, 0.4, 0.0]).log()
    uniforms = torch.tensor([0.0, 0.0999, 0.1001, 0.2999, 0.3001, 0.5999, 0.6001, 1 - 2**-53], dtype=torch.float64)
    drawn = draw_tokens(logits.expand(len(uniforms), -1), uniforms, 1.0)
    assert drawn.tolist() == [0, 0, 1, 1, 3, 3, 4, 4]
    # 0.4 + 0.3 reaches 0.7: tokens 3 and 4 stay, with 3/7 and 4/7.
    assert draw_tokens(logits.expand(len(uniforms), -1), uniforms, 1.0, 0.69).tolist() == [3, 3, 3, 3, 3, 4, 4, 4]


def test_a_tiny_temperature_is_greedy_and_top_p_keeps_one() -> None:
    logits = torch.tensor([[3.0, 9.0, 8.9], [1.0, 0.0, 0.5]])
    uniforms = torch.tensor([0.99, 0.01], dtype=torch.float64)
    assert draw_tokens(logits, uniforms, 1e-30).tolist() == [1, 0]
    assert draw_tokens(logits, uniforms, 1.0, 1e-9).tolist() == [1, 0]


def test_seeds_and_uniforms_are_golden() -> None:
    # A change here means that an interrupted run cannot be resumed: its samples would come out differently.
    assert sample_seed(0, "math-train/17", 0) == 1803516745245152762
    assert sample_seed(0, "math-train/17", 1) == 4602414976012271202
    assert sample_seed(7, "é", 15) == 8365029515137607511
    block = uniform_block([1803516745245152762, 5], 40)
    assert block[0, :3].tolist() == [0.5624101784737261, 0.9192037350342178, 0.5556229945728619]
    assert torch.equal(uniform_block([5], 3)[0], block[1, :3])
    assert block.min() >= 0
    assert block.max() < 1

import argparse

import pytest

from dust2gold.commands.arguments import names, positive


def test_names_stand_between_commas() -> None:
    assert names(" neg, nat,,") == ("neg", "nat")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", "", "²"])
def test_positive_whole_numbers(text: str) -> None:
    assert positive("12") == 12
    with pytest.raises(argparse.ArgumentTypeError, match="whole number of 1 or more"):
        positive(text)

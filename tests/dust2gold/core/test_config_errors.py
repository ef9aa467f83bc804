"""jsonargparse's messages in two lines; what users see of their mistakes is in tests/test_bad_input.py."""

from dust2gold.core.config_errors import explained


def test_what_jsonargparse_says_otherwise_stays_readable() -> None:
    error = explained("something nobody foresaw.\nand more", ["fit"])
    assert str(error) == "something nobody foresaw\n  see dust2gold fit --help"

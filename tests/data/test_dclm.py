import pytest

from memlm import recipes
from memlm.data.dclm import is_dclm


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (recipes.DCLM, True),
        ("s3://corpus/dclm", True),
        ("s3://corpus/DCLM-baseline/global-shard_01_of_10", True),
        ("{world}/corpus", False),
        ("s3://corpus/wiki", False),
    ],
)
def test_copies_of_dclm_are_recognised_by_their_address(path, expected):
    assert is_dclm(path) == expected

import pytest

from memlm.data.dclm import is_dclm
from memlm.recipes import paper


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (paper.DCLM, True),
        ("s3://corpus/dclm", True),
        ("s3://corpus/DCLM-baseline/global-shard_01_of_10", True),
        ("{world}/corpus", False),
        ("s3://corpus/wiki", False),
    ],
)
def test_copies_of_dclm_are_recognised_by_their_address(path, expected):
    assert is_dclm(path) == expected

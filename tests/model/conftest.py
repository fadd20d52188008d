import pytest

from tests.support.families import save_bases


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Saved tiny bases, by family."""
    return save_bases(tmp_path_factory.mktemp("bases"))

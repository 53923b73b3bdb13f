"""The sum, which a change of a generator must not make small unseen; read after the others."""

from pathlib import Path

import pytest

LEAST = 1000


def test_how_many_were_refused(request, tally):
    here = Path(__file__)
    chosen = {item.path for item in request.session.items}
    if not set(here.parent.glob("test_*.py")) <= chosen or request.config.option.keyword:
        pytest.skip("not all generators were run")
    assert tally["refused"] >= LEAST, tally
    print(dict(tally))

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tandem.specs import ClusterSpec


def test_a_password_stands_in_no_file() -> None:
    assert ClusterSpec(database="postgresql://tandem@db/records").database is not None
    with pytest.raises(ValidationError, match=r"~/.pgpass or PGPASSWORD") as refused:
        ClusterSpec(database="postgresql://tandem:secret@db/records")
    assert "no password in a file" in str(refused.value)

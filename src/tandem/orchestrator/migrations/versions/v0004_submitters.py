"""Who submitted a job, for which project, and from which state of the code."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From the version before: the project stands in the specs."""
    op.add_column("jobs", sa.Column("project", sa.String(40), nullable=False, server_default="default"))
    op.add_column("jobs", sa.Column("submitted_by", sa.String(64), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("origin", sa.Text(), nullable=False, server_default="{}"))
    jobs = sa.table("jobs", sa.column("id"), sa.column("spec"), sa.column("project"))
    connection = op.get_bind()
    for identifier, spec in connection.execute(sa.select(jobs.c.id, jobs.c.spec)).all():
        project = (json.loads(spec).get("queue") or {}).get("project", "default")
        if project != "default":
            connection.execute(sa.update(jobs).where(jobs.c.id == identifier).values(project=project))

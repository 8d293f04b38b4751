"""Which job does the work of which pipeline's step."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From the version before."""
    op.create_table(
        "pipeline_steps",
        sa.Column("pipeline_id", sa.String(80), nullable=False),
        sa.Column("step", sa.String(40), nullable=False),
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("anew", sa.Boolean(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["pipeline_id"], ["jobs.id"]),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("pipeline_id", "step"),
    )
    op.create_index("ix_pipeline_steps_job_id", "pipeline_steps", ["job_id"])

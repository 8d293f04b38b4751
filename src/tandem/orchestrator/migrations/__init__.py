"""The versions of the job records' tables, as Alembic keeps them; `tandem.orchestrator.schema` applies them."""

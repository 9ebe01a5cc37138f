"""Alembic's environment: runs on the connection (and in the transaction) that ``playbill.store.migrate`` hands over."""

from alembic import context

connection = context.config.attributes["connection"]
on_postgres = connection.dialect.name == "postgresql"
context.configure(
    connection=connection,
    version_table="alembic_version" if on_postgres else "playbill_alembic_version",
    version_table_schema="playbill" if on_postgres else None,
    transactional_ddl=True,
)
context.run_migrations()

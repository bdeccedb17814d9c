"""Runs the migrations on the connection it is handed; `gateway.storage.migrate` opens it and commits."""

from alembic import context

from gateway.storage.tables import Base

connection = context.config.attributes["connection"]

context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,
)

with context.begin_transaction():
    context.run_migrations()

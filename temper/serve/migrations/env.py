"""What Alembic runs: the steps, on the connection and in the transaction that `Store.migrate` hands over."""

from alembic import context

from temper.serve.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a column only by making its table again
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()

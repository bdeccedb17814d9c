"""one end per call, adjustments by number, reservations and decisions, refusals in shadow"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TERMINAL = sa.text("kind IN ('charge', 'refund', 'orphan')")


def upgrade() -> None:
    with op.batch_alter_table("ledger") as ledger:
        ledger.add_column(sa.Column("reserved_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        ledger.add_column(sa.Column("reserved_cost", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        ledger.add_column(sa.Column("decisions", sa.Text(), nullable=True))
        ledger.add_column(sa.Column("number", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        ledger.drop_constraint("pk_ledger", type_="primary")
        ledger.create_primary_key("pk_ledger", ["request_id", "kind", "number"])
    _keep_one_end_per_call()
    op.create_index(
        "uq_ledger_request_id_terminal",
        "ledger",
        ["request_id"],
        unique=True,
        sqlite_where=_TERMINAL,
        postgresql_where=_TERMINAL,
    )
    op.create_table(
        "shadow_refusals",
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("window", sa.String(), nullable=False),
        sa.Column("department", sa.String(), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(
            "day",
            "policy",
            "scope",
            "subject",
            "metric",
            "window",
            "department",
            "user",
            "key_id",
            "model_id",
            name=op.f("pk_shadow_refusals"),
        ),
    )


def _keep_one_end_per_call() -> None:
    """Where a call has several ends, its charge stands, else its refund; the others become adjustments and keep what
    they say."""
    op.execute("UPDATE ledger SET number = 1 WHERE kind = 'adjust'")
    for kind, number, stronger in (("orphan", 2, "'charge', 'refund'"), ("refund", 3, "'charge'")):
        op.execute(
            f"UPDATE ledger SET kind = 'adjust', number = {number} WHERE kind = '{kind}' AND request_id IN "  # noqa: S608  constants
            f"(SELECT request_id FROM ledger WHERE kind IN ({stronger}))"
        )


def downgrade() -> None:
    op.drop_table("shadow_refusals")
    op.execute("DELETE FROM ledger WHERE number > 1")
    op.drop_index("uq_ledger_request_id_terminal", table_name="ledger")
    with op.batch_alter_table("ledger") as ledger:
        ledger.drop_constraint("pk_ledger", type_="primary")
        ledger.create_primary_key("pk_ledger", ["request_id", "kind"])
        for name in ("number", "decisions", "reserved_cost", "reserved_tokens"):
            ledger.drop_column(name)

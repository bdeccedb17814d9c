"""what answers from the cache have saved"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TABLES = ("ledger", "usage_daily")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("saved_microusd", sa.BigInteger(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    for table in _TABLES:
        with op.batch_alter_table(table) as altered:
            altered.drop_column("saved_microusd")

"""what calls are measured in besides tokens, and its prices"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_RATES = ("per_image", "per_minute", "per_million_characters", "per_search")


def upgrade() -> None:
    op.add_column("ledger", sa.Column("units", sa.BigInteger(), nullable=True))
    op.add_column("ledger", sa.Column("unit", sa.String(), nullable=True))
    for name in _RATES:
        op.add_column("prices_seen", sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("prices_seen") as prices:
        for name in reversed(_RATES):
            prices.drop_column(name)
    with op.batch_alter_table("ledger") as ledger:
        ledger.drop_column("unit")
        ledger.drop_column("units")

"""Where keys and the ledger are kept: what a store must do (`base`), and SQLite, the embedded default."""

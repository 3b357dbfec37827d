"""Generated from protos/ by `make protos`; don't edit."""

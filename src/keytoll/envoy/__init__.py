"""Everything that knows Envoy: Check, access-log entries, the journal, and clusters made from the catalog."""

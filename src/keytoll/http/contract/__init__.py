"""The JSON contract of the management API. What comes in is read strictly; amounts are decimal strings both ways."""

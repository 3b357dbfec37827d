"""What the SQL stores share: values to rows and back, statements that both databases understand, and what to do in them."""

"""What the `rest` backend sends with."""

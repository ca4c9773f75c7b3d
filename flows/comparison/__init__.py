"""Any number of finished runs against each other: one table, one page, from what their stores hold."""

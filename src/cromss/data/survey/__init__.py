"""What a set of scenes holds, counted while it is read: for the report, the refusals and the statistics."""

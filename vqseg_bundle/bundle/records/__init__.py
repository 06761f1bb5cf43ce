"""What runs and models keep of themselves: records, and what is printed last."""

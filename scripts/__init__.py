"""Research tools and the commands that users run; none of them is imported by the package."""

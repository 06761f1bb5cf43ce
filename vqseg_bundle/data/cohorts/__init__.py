"""Cohorts: datalists, splits by patient, listed cases, the embedded demo cohort, and shares of processes."""

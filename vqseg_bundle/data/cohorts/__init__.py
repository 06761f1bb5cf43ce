"""Cohorts: datalists, splits by patient, listed cases, the embedded demo cohort, and each process's share."""

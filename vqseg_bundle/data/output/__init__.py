"""Output of predictions: volumes in their source's form, and DICOM SEG."""

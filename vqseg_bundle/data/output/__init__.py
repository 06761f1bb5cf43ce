"""What is written of a prediction: volumes in their source's form, and DICOM SEG."""
